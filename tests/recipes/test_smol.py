"""The smol recipe on a tiny model of the same format: it runs as its docstring says, and its claims are read."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from steep.config import load_recipe, override
from steep.engines import save_model
from steep.evals.suite import load_cells
from steep.models.transformer import ModelConfig, Transformer, initialise
from steep.runs import Run
from steep.runs.evidence import read_claims
from steep.tasks.letters import Letters
from steep.tokens import Template, Tokenizer, chatml
from steep.training.recipe import run_recipe
from steep.types import Demonstrator

PATH = Path(__file__).parents[2] / "recipes" / "smol.py"
SAMPLES = Path(__file__).parents[1] / "tasks" / "samples"


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A ChatML model without a thought section."""
    template = Template(
        Tokenizer.train(["How many are 2+3? It is 5."] * 3, 300, chatml(None, None).control), chatml(None, None)
    )
    shape = ModelConfig(
        vocab_size=template.tokenizer.vocab_size,
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        intermediate_size=64,
        max_positions=1024,
    )
    model = Transformer(shape)
    initialise(model, torch.Generator().manual_seed(0))
    save_model(tmp_path / "start", model, template)
    return tmp_path / "start"


def quick() -> list[str]:
    """The overrides of the quick run in the recipe's docstring."""
    _, _, shown = PATH.read_text().partition("--run quick ")
    return shlex.split(shown.partition('"""')[0].replace("\\\n", ""))


def test_every_task_can_be_shown_and_every_suite_measures_before_and_after() -> None:
    recipe = load_recipe(PATH)
    assert all(isinstance(share.task, Demonstrator) for share in recipe.tasks)
    assert {suite.models for suite in recipe.evals} == {("start", "sft", "rl")}
    assert [suite.task.name for suite in recipe.evals] == [share.task.name for share in recipe.tasks]


def test_the_quick_run_measures_the_model_before_and_after(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEEP_DATA", str(SAMPLES))
    recipe = replace(override(load_recipe(PATH), quick()), start=str(start))
    with Run.create(tmp_path / "run", recipe=PATH, overrides=[], config=recipe, seed=0) as run:
        run_recipe(run, recipe, Console(quiet=True))
    cells = load_cells(run.path / "eval")
    assert {(cell.model, cell.budget) for cell in cells} == {
        ("start", 0),
        *((model, budget) for model in ("sft", "rl") for budget in (0, 64, 256)),
    }
    ids = {claim.id for claim in read_claims(run.path / "eval" / "claims.json")}
    for task in ("letters", "arithmetic", "stories", "gsm8k"):
        assert {f"smol.{task}_before", f"smol.{task}", f"smol.{task}_rl_over_sft"} <= ids


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("There are 3 r's in strawberry.", "correct"),
        ("r, r, r: 3", "correct"),
        ("3 of 10", "wrong"),
        ("three", "wrong"),
    ],
)
def test_the_last_number_of_an_answer_counts(answer: str, kind: str) -> None:
    letters = load_recipe(PATH).evals[0].task
    assert letters.verify(Letters().strawberry(), answer).kind == kind
