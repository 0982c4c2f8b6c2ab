"""The recipe of the claims: its arms are what they say, and its claims are read from the runs that they leave."""

import importlib.util
import sys
from pathlib import Path

import pytest
from rich.console import Console

from steep.config import load_recipe
from steep.runs import Run
from steep.training.recipe import Watch, run_recipe
from steep.training.study import Study, within

PATH = Path(__file__).parents[2] / "recipes" / "nano_claims.py"
TINY = {
    "SEEDS": (0,),
    "PRETRAIN_STEPS": 2,
    "SFT_STEPS": 2,
    "SFT_EXAMPLES": 4,
    "SFT_TOKENS": 128,
    "RL_STEPS": 2,
    "RL_GROUPS": 2,
    "THOUGHT": (4, 8),
    "FURTHER_STEPS": 2,
    "ROWS": 32,
    "BUDGETS": (0, 4, 8),
    "LONGEST": 16,
    "TOLD": (2, 4, 8),
    "FULL": {"countdown": 8, "letters": 8, "arithmetic": 8, "chat": 8},
    "PROBLEMS": {"countdown": 8, "letters": 4, "arithmetic": 12, "chat": 4},
    "ANSWER": 4,
    "WATCHED": Watch(problems=2, budgets=(4,)),
}


def test_the_arms_are_what_they_say():
    study = load_recipe(PATH)
    assert len(study.arms) == 15
    for seed in (0, 1, 2):
        main, further = (study.arms[f"{seed}/{name}"].recipe for name in ("main", "further"))
        assert (further.pretrain, further.rl, further.start) == (None, None, f"{{study}}/{seed}/main/sft")
        assert further.seed not in (0, 1, 2)  # other demonstrations
        weights = {share.task.name: share.weight for share in main.tasks}
        for name in ("countdown", "letters", "arithmetic"):
            alone = study.arms[f"{seed}/{name}"].recipe
            part = weights[name] / sum(weights.values())
            assert [share.task for share in alone.tasks] == [s.task for s in main.tasks if s.task.name == name]
            for stage in ("pretrain", "sft"):
                assert getattr(alone, stage).steps == round(getattr(main, stage).steps * part)
            assert alone.rl.num_steps == round(main.rl.num_steps * part)
            assert alone.sft.examples == main.sft.examples
    assert {arm.recipe.threads for arm in study.arms.values()} == {1}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch):
    """The recipe's module with one seed of some seconds."""
    spec = importlib.util.spec_from_file_location("tiny_nano_claims", PATH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    for name, value in TINY.items():
        assert hasattr(module, name)
        setattr(module, name, value)
    return module


@pytest.mark.slow
def test_one_seed_is_trained_and_claimed(tiny, tmp_path: Path):
    study: Study = tiny.config()
    runs = {}
    for name in study.order().static_order():
        recipe = study.arms[name].recipe
        with Run.create(tmp_path / name, recipe=PATH, overrides=[], config=recipe, seed=recipe.seed) as run:
            run_recipe(run, within(tmp_path, recipe), Console(quiet=True))
        runs[name] = Run.open(tmp_path / name)
    claims = {claim.id: claim for claim in study.claims(runs)}
    assert {id.removeprefix("claims.") for id in claims} >= {
        "countdown_3_numbers_at_512",
        "countdown_4_numbers_at_1024",
        "rl_over_further",
        "rl_over_demonstrator",
        "further_time_over_rl_time",
        "thought_of_one_step_sums",
        "thought_of_small_talk",
        "told_2_ended_by_itself",
        "told_budgets_rise",
        "countdown_in_the_mixture",
        "letters_in_the_mixture",
        "arithmetic_in_the_mixture",
    }
    assert claims["claims.countdown_3_numbers_at_512"].value == 0  # it has learned nothing
