"""The loops on a tiny recipe: they learn, resume bitwise, and say what they did."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from steep.algorithms import PRESETS, Algorithm
from steep.config import load_recipe, override
from steep.engines import NativeConfig, NativeEngine, find_device, load_model, save_model
from steep.errors import ConfigError, PausedError, SteepError
from steep.evals.evaluate import EvalConfig
from steep.models import ModelConfig, Transformer, digest, initialise
from steep.models.lora import LoraConfig
from steep.policies import Example, OptimizerConfig, Policy, PolicyConfig
from steep.rollouts import LATE, CurriculumConfig, RolloutConfig
from steep.runs import Run, load_latest, show
from steep.runs.health import HealthConfig, Limit
from steep.tasks.countdown import Countdown
from steep.tasks.mixture import Share
from steep.tokens import Template, Tokenizer, chatml, compact
from steep.training import recipe as recipe_module
from steep.training import rl as rl_module
from steep.training.pretrain import PretrainConfig
from steep.training.recipe import Recipe, Suite, Watch, begin, overlap, run_recipe, watch
from steep.training.rl import RlConfig, describe, learn_from, score
from steep.training.sft import SftConfig, demonstration
from steep.types import Budget, Group, Message, Problem, Rollout, correct, invalid, wrong
from tests.recipes.coin import Coin

TINY = Path(__file__).parent.parent / "recipes" / "tiny.py"
COIN = TINY.with_name("coin.py")


def tiny(*overrides: str) -> Recipe:
    return override(load_recipe(TINY), overrides)


def carry_out(path: Path, recipe: Recipe) -> Run:
    with Run.create(path, recipe=TINY, overrides=[], config=recipe, seed=0) as run:
        run_recipe(run, recipe, Console(quiet=True))
    return run


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "tiny"
    carry_out(path, tiny())
    return path


def test_a_device_that_is_not_there_is_refused(tmp_path: Path):
    assert find_device("cpu").type == "cpu"
    with pytest.raises(SteepError, match="no device 'tpu9'"):
        carry_out(tmp_path / "run", tiny("--device", "tpu9"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_pipeline_runs_on_a_gpu(tmp_path: Path):
    run = carry_out(tmp_path / "run", tiny("--device", "cuda"))
    last = json.loads(lines(run.path / "rl" / "metrics.jsonl")[-1])
    assert last["tokens_sampled"] > 0
    assert load_model(run.path).model.device.type == "cpu"


def test_every_stage_leaves_a_model_and_metrics(finished: Path):
    for stage in ("pretrain", "sft", "rl"):
        assert load_model(finished / stage).model.config.hidden_size == 32
        assert len(lines(finished / stage / "metrics.jsonl")) == 3
    assert load_model(finished).path == finished / "rl" / "model"
    last = json.loads(lines(finished / "rl" / "metrics.jsonl")[-1])
    for key in ("reward", "signal", "thought", "invalid", "tokens_sampled", "valid/arithmetic@16"):
        assert key in last
    assert "start/valid/arithmetic@16" in json.loads(lines(finished / "rl" / "metrics.jsonl")[0])


def test_two_runs_of_a_recipe_are_the_same_run(finished: Path, tmp_path: Path):
    carry_out(tmp_path / "again", tiny())
    for stage in ("pretrain", "sft", "rl"):
        ours, theirs = (p / stage for p in (tmp_path / "again", finished))
        assert lines(ours / "metrics.jsonl") == lines(theirs / "metrics.jsonl")
        assert (ours / "model/model.safetensors").read_bytes() == (theirs / "model/model.safetensors").read_bytes()


def test_a_run_starts_from_a_model(finished: Path, tmp_path: Path):
    recipe = tiny("--start", str(finished / "sft"), "--pretrain", "none", "--rl", "none")
    model, template = begin(recipe)
    before = load_model(finished / "sft")
    assert template.tokenizer.vocab_size == before.template.tokenizer.vocab_size
    assert all(torch.equal(w, before.model.state_dict()[name]) for name, w in model.state_dict().items())
    run = carry_out(tmp_path / "further", recipe)
    assert [stage.name for stage in run.stages()] == ["sft", "eval"]


def test_a_model_that_does_not_think_is_given_a_thought_section(finished: Path, tmp_path: Path):
    """A ChatML model as another program would leave it: no steep.json, no tokens for a thought."""
    config = chatml(None, None)
    tokenizer = Tokenizer.train(["What is 2+3? It is 5."] * 3, 300, config.control)
    shape = replace(load_model(finished).model.config, vocab_size=tokenizer.vocab_size)
    model = Transformer(shape)
    initialise(model, torch.Generator().manual_seed(0))
    save_model(tmp_path / "other", model, Template(tokenizer, config))
    (tmp_path / "other" / "steep.json").unlink()
    run = carry_out(tmp_path / "further", tiny("--start", str(tmp_path / "other"), "--pretrain", "none"))
    trained = load_model(run.path)
    assert trained.template.config == chatml()
    assert trained.template.think_close_id == tokenizer.vocab_size + 1
    assert trained.model.config.vocab_size == tokenizer.vocab_size + 2
    last = json.loads(lines(run.path / "rl" / "metrics.jsonl")[-1])
    assert last["tokens_sampled"] > 0


def test_adapters_alone_do_not_learn_the_tokens_of_a_thought(finished: Path, tmp_path: Path):
    loaded = load_model(finished)
    silent = replace(loaded.template.config, think_open=None, think_close=None)
    save_model(tmp_path / "silent", loaded.model, Template(loaded.template.tokenizer, silent))
    recipe = tiny("--start", str(tmp_path / "silent"), "--pretrain", "none")
    lora = replace(recipe, sft=replace(recipe.sft, policy=PolicyConfig(lora=LoraConfig())))
    with pytest.raises(ConfigError, match=r"silent has no thought section, and LoRA alone.*\n.*embedding=True"):
        begin(lora)
    begin(replace(recipe, sft=replace(recipe.sft, policy=PolicyConfig(lora=LoraConfig(embedding=True)))))
    begin(tiny("--start", str(finished), "--pretrain", "none"))


def test_a_run_starts_from_a_model_that_transformers_computes(neox: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(rl_module, "learn_from", with_signal)
    run = carry_out(tmp_path / "further", tiny("--start", str(neox), "--pretrain", "none"))
    assert [stage.name for stage in run.stages()] == ["sft", "rl", "eval"]
    before, after = load_model(run.path / "sft"), load_model(run.path)
    assert after.template.think_close_id is not None
    assert all(row["grad_norm"] > 0 for row in run.stage("rl").metrics())
    assert digest(dict(before.model.named_parameters())) != digest(dict(after.model.named_parameters()))


def test_a_model_to_start_from_must_be_there(tmp_path: Path):
    with pytest.raises(SteepError, match="there is no model at nowhere"):
        carry_out(tmp_path / "further", tiny("--start", "nowhere"))


@pytest.mark.parametrize("stage", ["pretrain", "sft", "rl"])
def test_a_run_that_is_cut_resumes_bitwise(stage: str, finished: Path, tmp_path: Path, monkeypatch):
    """Stop after the first step of a stage, as a kill would, then go on: the same log and the same weights."""
    path = tmp_path / "cut"
    updates = 0
    before = {"pretrain": 0, "sft": 3, "rl": 6}[stage]
    plain = Policy.update

    def cut(self, *arguments):
        nonlocal updates
        updates += 1
        if updates == before + 3:
            raise RuntimeError("cut")
        return plain(self, *arguments)

    monkeypatch.setattr(Policy, "update", cut)
    if stage == "rl":  # steps without signal make no update: count the steps that ask for examples instead
        monkeypatch.setattr(Policy, "update", plain)
        learn = rl_module.learn_from
        asked = 0

        def cut_learning(*arguments, **more):
            nonlocal asked
            asked += 1
            if asked == 3:
                raise RuntimeError("cut")
            return learn(*arguments, **more)

        monkeypatch.setattr(rl_module, "learn_from", cut_learning)
    with pytest.raises(RuntimeError, match="cut"):
        carry_out(path, tiny())
    monkeypatch.undo()
    with Run.open(path).resume(tiny()) as run:
        run_recipe(run, tiny(), Console(quiet=True))
    for name in ("pretrain", "sft", "rl"):
        assert lines(path / name / "metrics.jsonl") == lines(finished / name / "metrics.jsonl")
        ours, theirs = ((p / name / "model/model.safetensors").read_bytes() for p in (path, finished))
        assert ours == theirs


def with_signal(groups: Sequence[Group], *more: Any) -> list[Example]:
    """A model that knows nothing is always wrong: call one rollout of each group right."""
    shown = [replace(g, rollouts=(replace(g.rollouts[0], verdict=correct()), *g.rollouts[1:])) for g in groups]
    return learn_from(shown, *more)


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_a_run_with_adapters_resumes_bitwise_from_them_alone(stage: str, finished: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(rl_module, "learn_from", with_signal)
    recipe = tiny("--start", str(finished), "--pretrain", "none", "--rl.rollouts.group_size", "2")
    adapters = PolicyConfig(lora=LoraConfig(rank=2), optimizer=OptimizerConfig(lr=1e-2))
    recipe = replace(recipe, sft=replace(recipe.sft, policy=adapters), rl=replace(recipe.rl, policy=adapters))
    whole = carry_out(tmp_path / "whole", recipe)

    updates, plain = 0, Policy.update

    def cut(self, *arguments):
        nonlocal updates
        updates += 1
        if updates == {"sft": 3, "rl": 6}[stage]:
            raise RuntimeError("cut")
        return plain(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Policy, "update", cut)
        with pytest.raises(RuntimeError, match="cut"):
            carry_out(tmp_path / "cut", recipe)
    with Run.open(tmp_path / "cut").resume(recipe) as run:
        run_recipe(run, recipe, Console(quiet=True))

    start = load_model(finished).model
    for name in ("sft", "rl"):
        ours, theirs = run.stage(name), whole.stage(name)
        assert ours.metrics() == theirs.metrics()
        assert (ours.model / "model.safetensors").read_bytes() == (theirs.model / "model.safetensors").read_bytes()
        saved = load_latest(ours.checkpoints)
        assert saved.weights.keys() == {f"layers.0.{m}.{p}" for m in ("qkv", "out", "gate_up", "down") for p in "ab"}
        trained = load_model(ours.model).model
        assert torch.equal(trained.embedding.weight, start.embedding.weight)
        assert not torch.equal(trained.layers[0].down.weight, start.layers[0].down.weight)
        start = trained


@pytest.mark.parametrize("at", [2, 5])
def test_a_run_with_rollouts_under_way_resumes_bitwise(at: int, finished: Path, tmp_path: Path, monkeypatch):
    """Two batches are under way at every step and at every checkpoint."""
    options = ("--rl.max_staleness", "2", "--rl.num_steps", "6", "--rl.checkpoint_every", "2", "--rl.eval_every", "3")
    recipe = tiny("--start", str(finished), "--pretrain", "none", "--sft", "none", *options)
    recipe = replace(recipe, rl=replace(recipe.rl, policy=PolicyConfig(optimizer=OptimizerConfig(lr=1e-2))))
    monkeypatch.setattr(rl_module, "learn_from", with_signal)
    whole = carry_out(tmp_path / "whole", recipe)

    asked = 0

    def cut(*arguments: Any) -> list[Example]:
        nonlocal asked
        asked += 1
        if asked == at:
            raise RuntimeError("cut")
        return with_signal(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(rl_module, "learn_from", cut)
        with pytest.raises(RuntimeError, match="cut"):
            carry_out(tmp_path / "cut", recipe)
    with Run.open(tmp_path / "cut").resume(recipe) as run:
        run_recipe(run, recipe, Console(quiet=True))
    assert len(run.stage("rl").metrics()) == 6
    assert lines(run.path / "rl" / "metrics.jsonl") == lines(whole.path / "rl" / "metrics.jsonl")
    assert list(run.stage("rl").rollouts()) == list(whole.stage("rl").rollouts())
    ours, theirs = ((each.stage("rl").model / "model.safetensors").read_bytes() for each in (run, whole))
    assert ours == theirs


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)])
def test_the_best_checkpoint_is_left_as_a_model_too(
    lora: LoraConfig | None, finished: Path, tmp_path: Path, monkeypatch
):
    options = ("--rl.eval_every", "1", "--rl.checkpoint_every", "100")
    recipe = replace(tiny("--start", str(finished), "--pretrain", "none", "--sft", "none", *options), evals=())
    policy = PolicyConfig(lora=lora, optimizer=OptimizerConfig(lr=1e-2))
    monkeypatch.setattr(rl_module, "learn_from", with_signal)

    def trained(name: str, steps: int) -> Run:
        measured = iter([0.9, 0.2, 0.8, 0.5, 0.7])
        monkeypatch.setattr(recipe_module, "watch", lambda *_: {"valid/x@4": next(measured), "valid/x@4_low": 0.0})
        return carry_out(tmp_path / name, replace(recipe, rl=replace(recipe.rl, num_steps=steps, policy=policy)))

    long, short = trained("long", 4).stage("rl"), trained("short", 2).stage("rl")
    assert long.summary["best"] == {"step": 2, "score": 0.8}
    assert show(Run.open(tmp_path / "long")).stages[0].checkpoints == [2, 3, 4]
    best, last, then = ((d / "model.safetensors").read_bytes() for d in (long.best, long.model, short.model))
    assert best == then != last
    assert load_model(long.best).name == "long/rl/best"
    assert load_model(tmp_path / "long").path == long.model


def test_supervised_training_lowers_the_loss(tmp_path: Path):
    recipe = tiny("--rl", "none", "--pretrain", "none", "--sft.steps", "60", "--sft.examples", "16")
    recipe = replace(recipe, sft=replace(recipe.sft, policy=PolicyConfig(optimizer=OptimizerConfig(lr=1e-2))))
    run = carry_out(tmp_path / "sft", recipe)
    losses = [row["loss"] for row in run.stage("sft").metrics()]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) / 2.5


def template() -> Template:
    return Template(Tokenizer.train(["Use 3, 5 and 8 to make 24. 8-3=5 5*5=25"], 300, compact().control), compact())


def test_a_profile_is_made_once(tmp_path: Path, monkeypatch):
    recipe = tiny("--pretrain", "none", "--sft", "none", "--rl.profile", "2")
    whole = carry_out(tmp_path / "whole", recipe)
    first = whole.stage("rl").metrics()[0]
    assert first["profile/arithmetic/1"] == 0

    def cut(*_):
        raise RuntimeError("cut")

    with monkeypatch.context() as patched:
        patched.setattr(rl_module, "learn_from", cut)
        with pytest.raises(RuntimeError, match="cut"):
            carry_out(tmp_path / "cut", recipe)
    monkeypatch.setattr(rl_module, "profile", cut)
    with Run.open(tmp_path / "cut").resume(recipe) as run:
        run_recipe(run, recipe, Console(quiet=True))
    assert lines(run.path / "rl" / "metrics.jsonl") == lines(whole.path / "rl" / "metrics.jsonl")


def test_a_demonstration_trains_what_the_model_writes_and_nothing_else():
    made, task = template(), Countdown(slips=0.0)
    problem = next(task.problems("train", 0))
    ids, trained = demonstration(made, task, problem, SftConfig(cut_share=0.0, max_tokens=5000), Random(0))
    prompt = made.render(problem.prompt)
    assert tuple(ids[: len(prompt)]) == prompt
    assert trained.tolist() == list(range(len(prompt), len(ids)))
    shown = task.demonstrate(problem, Random(0))
    assert made.answer(ids[len(prompt) :].tolist()) == shown.answer


def test_a_demonstration_without_a_thought_section_trains_the_whole_answer():
    config = chatml(None, None)
    task = Countdown(slips=0.0)
    problem = next(task.problems("train", 0))
    shown = task.demonstrate(problem, Random(0))
    made = Template(Tokenizer.train([problem.prompt[0].content, shown.answer] * 3, 300, config.control), config)
    ids, trained = demonstration(made, task, problem, SftConfig(cut_share=0.0, max_tokens=5000), Random(0))
    prompt = len(made.render(problem.prompt))
    assert made.tokenizer.decode(ids[prompt:].tolist()) == shown.answer
    assert trained.tolist() == list(range(prompt, len(ids)))


def test_prompts_that_leave_no_room_for_a_response_are_told(tmp_path: Path):
    with pytest.raises(SteepError, match="every prompt of step 0 has 4 tokens or more"):
        carry_out(tmp_path / "run", tiny("--pretrain", "none", "--sft.max_tokens", "4"))


def test_a_wrong_step_of_a_demonstration_is_shown_and_not_trained():
    made, task = template(), Countdown(slips=1.0)
    tokenizer, config = made.tokenizer, SftConfig(cut_share=0.0, max_tokens=5000)
    slipped = 0
    for seed in range(40):
        problem = next(task.problems("train", seed))
        ids, trained = demonstration(made, task, problem, config, Random(seed))
        prompt = len(made.render(problem.prompt))
        thought, _ = made.split(ids[prompt:].tolist())
        text = tokenizer.decode(thought)
        untrained = sorted(set(range(prompt, len(ids))) - set(trained.tolist()))
        wrong_steps = [text[slip.start : slip.end] for slip in task.replay(text).slips]
        assert tokenizer.decode(ids[untrained].tolist()) == "".join(wrong_steps)
        slipped += len(wrong_steps)
    assert slipped > 20


def test_a_cut_demonstration_does_not_train_the_closing():
    config = replace(compact(), closing="Time is up.")
    made, task = Template(template().tokenizer, config), Countdown(slips=0.0)
    closing = list(made.budget(1, 8).closing)
    cuts = 0
    for seed in range(40):
        problem = next(task.problems("train", seed))
        ids, trained = demonstration(made, task, problem, SftConfig(cut_share=1.0, max_tokens=5000), Random(seed))
        prompt = len(made.render(problem.prompt))
        untrained = [i for i in range(prompt, len(ids)) if i not in set(trained.tolist())]
        forced = ids[untrained].tolist()
        assert forced in (closing, closing[-1:])
        cuts += forced == closing
        assert ids[-1] in made.end_ids
    assert cuts > 20


def test_a_told_demonstration_ends_by_itself_within_its_budget():
    made, task = Template(template().tokenizer, replace(compact(), closing="Time is up.")), Countdown(slips=0.0)
    config = SftConfig(told_share=1.0, max_tokens=5000)
    unfinished = 0
    for seed in range(60):
        problem = next(task.problems("train", seed))
        ids, trained = demonstration(made, task, problem, config, Random(seed))
        prompt = next(i for i, t in enumerate(ids.tolist()) if t == made.think_open_id) + 1
        assert trained.tolist() == list(range(prompt, len(ids)))
        said = int(re.findall(r"at most (\d+) tokens", made.tokenizer.decode(ids[:prompt].tolist()))[0])
        thought = made.split(ids[prompt:].tolist())[0]
        closing = made.budget(1).closing[:-1]
        cut = len(closing) and thought[-len(closing) :] == closing
        kept = len(thought) - (len(closing) if cut else 0)
        assert kept < said
        if cut and kept > 20:
            unfinished += 1
            assert 0.35 * said <= kept <= 0.69 * said
    assert unfinished > 5


def rollout(score: float | None, length: int = 5, forced: int = 0, seed: int = 0) -> Rollout:
    rng = np.random.default_rng(seed)
    sampled = np.ones(length, np.bool_)
    sampled[2 : 2 + forced] = False
    verdict = invalid("broken") if score is None else correct() if score == 1 else wrong("no")
    return Rollout(
        prompt_ids=(1, 2),
        ids=rng.integers(3, 20, length).astype(np.int32),
        logprobs=np.where(sampled, -1.5, 0).astype(np.float32),
        sampled=sampled,
        versions=np.zeros(length, np.int32),
        thought_len=2 + forced,
        stop="end",
        budget=Budget(thought=2, answer=4, closing=(9,)),
        seed=seed,
        sample=0,
        verdict=verdict,
    )


LONGEST = 7
"""Tokens that these rollouts may have: 2 of a thought, its end, 4 of an answer."""


def group(*scores: float | None, **more: int) -> Group:
    problem, _, _ = Countdown().examples()[0]
    return Group(problem=problem, rollouts=tuple(rollout(s, seed=i, **more) for i, s in enumerate(scores)))


def small_policy(critic: bool = False) -> Policy:
    model, _ = begin(tiny())
    torch.manual_seed(0)
    return Policy(model, PolicyConfig(), 5, critic=critic)


def test_being_late_can_cost_more_than_being_wrong():
    late = replace(rollout(0), verdict=LATE)
    assert [score(r, Algorithm(late=0.5)) for r in (rollout(1), rollout(0), late)] == [1, 0, -0.5]
    assert score(late, Algorithm()) == 0


def test_groups_become_examples_with_advantages_and_weights():
    groups = [group(1, 0, 0, 1), group(1, 1), group(0, None, 1)]
    examples = learn_from(groups, small_policy(), Algorithm(), LONGEST)
    assert len(examples) == 6  # the flat group is gone, and so is the invalid rollout
    assert sum(float(e.weights.sum()) for e in examples) == pytest.approx(1)
    per_prompt = [float(sum(e.weights.sum() for e in part)) for part in (examples[:4], examples[4:])]
    assert per_prompt == pytest.approx([0.5, 0.5])
    assert [round(float(e.advantages[0]), 4) for e in examples] == [1, -1, -1, 1, -1, 1]


@pytest.mark.parametrize("name", ["dr_grpo", "reinforce"])
def test_constant_weights_are_the_same_whatever_is_in_the_batch(name: str):
    """Each token's is 1 over the rollouts and the tokens that each may have."""
    short = learn_from([group(1, 0, length=3)], small_policy(), PRESETS[name](), LONGEST)
    wide = [replace(r, budget=replace(r.budget, thought=900)) for r in group(1, 0, length=3).rollouts]
    long = learn_from([replace(group(1, 0), rollouts=tuple(wide))], small_policy(), PRESETS[name](), LONGEST)
    for e in (*short, *long):
        assert e.weights.tolist() == pytest.approx([1 / (2 * LONGEST)] * 3)


def test_an_answer_without_a_thought_has_a_limit_too():
    cut = replace(rollout(0, length=5), budget=Budget(thought=0, answer=4, closing=(9,)), thought_len=1)
    assert score(cut, PRESETS["dapo"]()) == -0.5
    assert score(replace(cut, budget=replace(cut.budget, answer=40)), PRESETS["dapo"]()) == 0


def test_what_is_late_in_a_group_that_is_all_wrong_is_signal_where_it_costs():
    late = replace(group(0, 0), rollouts=(rollout(0), replace(rollout(0, seed=1), verdict=LATE)))
    assert describe([late], Algorithm())["signal"] == 0
    assert describe([late], Algorithm(late=0.5))["signal"] == 1
    assert len(learn_from([late], small_policy(), Algorithm(late=0.5), LONGEST)) == 2


def test_a_step_that_teaches_nothing_is_one_of_the_schedule():
    policy = small_policy()
    assert policy.update([], Algorithm().loss) == {}
    assert policy.step == 1


def test_what_begins_random_in_a_policy_is_a_matter_of_its_seed():
    first, second = (Policy(begin(tiny())[0], PolicyConfig(), 5, critic=True) for _ in range(2))
    assert first.critic is not None
    assert second.critic is not None
    assert first.critic.bias.tolist() == second.critic.bias.tolist() == [0]


def test_forced_tokens_are_not_trained():
    examples = learn_from([group(1, 0, length=7, forced=3)], small_policy(), Algorithm(), LONGEST)
    for e in examples:
        assert e.trained.tolist() == [2, 3, 7, 8]
        assert (e.sampler_logprobs == -1.5).all()


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_takes_a_step(name: str):
    algorithm = PRESETS[name]()
    policy = small_policy("critic" in algorithm.needs)
    reference, teacher = small_policy(), small_policy()
    with torch.no_grad():
        teacher.model.embedding.weight.mul_(1.1)
    before = policy.weights()["layers.0.out.weight"].clone()
    groups = [group(1, 0, 0, 1), group(1, 1)]
    examples = learn_from(groups, policy, algorithm, LONGEST, reference, teacher)
    metrics = policy.update(examples, algorithm.loss)
    assert np.isfinite(metrics["loss"])
    assert metrics["grad_norm"] > 0
    assert not torch.equal(before, policy.weights()["layers.0.out.weight"])


def test_a_batch_without_signal_makes_no_update():
    assert learn_from([group(1, 1), group(0, 0), group(None, None)], small_policy(), Algorithm(), LONGEST) == []


def test_what_is_recorded_of_a_step():
    metrics = describe([group(1, 0), group(1, 1), group(0, None)], Algorithm())
    assert metrics["reward"] == pytest.approx(3 / 5)
    assert metrics["signal"] == pytest.approx(1 / 3)  # an invalid verdict is no signal
    assert metrics["invalid"] == pytest.approx(1 / 6)
    assert metrics["tokens_sampled"] == 30


def test_a_sync_that_changed_nothing_pauses_the_run(tmp_path: Path, monkeypatch):
    recipe = tiny("--sft.steps", "1", "--pretrain", "none", "--rl.policy.optimizer.lr", "0")
    examples = learn_from([group(1, 0)], small_policy(), Algorithm(), LONGEST)
    monkeypatch.setattr(rl_module, "learn_from", lambda *_: examples)
    with pytest.raises(PausedError, match="step 0: weight_sync 1"):
        carry_out(tmp_path / "still", recipe)
    run = Run.open(tmp_path / "still")
    assert (run.status, show(run).stages[-1].checkpoints) == ("stopped", [1])
    assert run.info.error.startswith("rl was paused: step 0: weight_sync")


def test_a_gradient_that_is_not_finite_skips_the_step_and_the_run_goes_on(tmp_path: Path, monkeypatch):
    made_up = ["--health.mismatch", "none", "--health.first_update", "none"]  # nobody sampled the examples
    recipe = tiny("--sft.steps", "1", "--pretrain", "none", "--rl.num_steps", "2", *made_up)
    examples = learn_from([group(1, 0)], small_policy(), Algorithm(), LONGEST)
    broken = [replace(e, advantages=e.advantages * np.nan) for e in examples]
    monkeypatch.setattr(rl_module, "learn_from", lambda *_: broken)
    run = carry_out(tmp_path / "broken", recipe)
    assert [np.isnan(row["grad_norm"]) for row in run.stage("rl").metrics()] == [True, True]
    ours, before = ((tmp_path / "broken" / s / "model/model.safetensors").read_bytes() for s in ("rl", "sft"))
    assert ours == before


@pytest.mark.parametrize("name", ["grpo", "ppo", "distill"])
def test_rl_runs_with_the_models_that_an_algorithm_needs(name: str, finished: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(rl_module, "learn_from", with_signal)
    recipe = tiny("--pretrain", "none", "--sft.steps", "1", "--rl.num_steps", "2")
    config = replace(recipe.rl, algorithm=PRESETS[name](), teacher=str(finished))
    run = carry_out(tmp_path / name, replace(recipe, rl=config))
    rows = run.stage("rl").metrics()
    assert all(np.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)
    needed = {"grpo": "reference_kl", "ppo": "value_loss", "distill": "teacher_kl"}[name]
    assert needed in rows[0]


def test_a_teacher_of_other_tokens_is_refused(finished: Path, tmp_path: Path):
    loaded = load_model(finished)
    old = loaded.template.tokenizer
    spec = old.spec
    first, second = (next(piece for piece, id in spec["model"]["vocab"].items() if id == n) for n in (40, 41))
    spec["model"]["vocab"] |= {first: 41, second: 40}
    save_model(tmp_path / "other", loaded.model, Template(Tokenizer(json.dumps(spec)), loaded.template.config))
    recipe = tiny("--start", str(finished), "--pretrain", "none", "--sft", "none")
    config = replace(recipe.rl, algorithm=PRESETS["distill"](), teacher=str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="other has another tokenizer"):
        carry_out(tmp_path / "run", replace(recipe, rl=config))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: RolloutConfig(group_size=0), "RolloutConfig: group_size is 0\n.*1 or more"),
        (lambda: RolloutConfig(told_share=1.5), "told_share is 1.5\n.*from 0 to 1"),
        (lambda: RolloutConfig(thought=(0, 512)), "budgets are not drawn from 0 to 512"),
        (lambda: RolloutConfig(thought=(64, 32)), "budgets are not drawn from 64 to 32"),
        (lambda: CurriculumConfig(floor=0), "floor is 0"),
        (lambda: CurriculumConfig(retire_below=1.5), "retire_below is 1.5"),
        (lambda: RlConfig(eval_every=0), "RlConfig: eval_every is 0"),
        (lambda: RlConfig(max_staleness=-1), "max_staleness is -1"),
        (lambda: SftConfig(examples=0), "SftConfig: examples is 0"),
        (lambda: PretrainConfig(length=1), "length is 1"),
        (lambda: PolicyConfig(micro_batch_tokens=0), "micro_batch_tokens is 0"),
        (lambda: NativeConfig(rows=0), "rows is 0"),
        (lambda: Share(task=Countdown(levels=(1, 3)), level_weights=(0, 0)), "not all of them 0"),
        (lambda: Share(task=Countdown(), weight=-1), "weights of 0 or more"),
        (lambda: NativeConfig(dtype="bf16"), "no dtype 'bf16'\n.*float32, bfloat16"),
        (lambda: OptimizerConfig(lr=-1), "lr is -1"),
        (lambda: OptimizerConfig(decay_share=2), "decay_share is 2\n.*from 0 to 1"),
        (lambda: ModelConfig(num_heads=4, num_kv_heads=3), "4 heads do not share 3 of keys and values"),
        (lambda: ModelConfig(head_dim=7), "head_dim is 7\n.*an even one"),
        (lambda: ModelConfig(num_layers=0), "num_layers is 0"),
        (lambda: EvalConfig(budgets=(-1, 5)), r"the budgets \[-1, 5\] are none to measure at"),
        (lambda: Watch(budgets=()), "are none to measure at"),
        (lambda: Watch(problems=0), "Watch: problems is 0"),
        (lambda: Suite(task=Countdown(), models=("rl", "lr")), "measures no 'lr'\n.*start, pretrain, sft, rl, dem"),
        (lambda: tiny("--engine.context", "400"), "context of 400 tokens is more than the model's 256"),
        (lambda: tiny("--watch.budgets", "4,250"), "a budget of 250 tokens and an answer of 32 leave no room"),
        (lambda: tiny("--evals.0.config.eval.budgets", "0,250"), "a budget of 250 tokens and an answer of 8 leave no"),
        (lambda: tiny("--tasks.0.weight", "0"), "no task has a weight"),
        (lambda: tiny("--rl.rollouts.answer", "0"), "answer is 0"),
    ],
)
def test_a_value_that_no_run_can_use_is_refused_before_it_begins(made: Callable[[], object], said: str):
    with pytest.raises(ConfigError, match=said):
        made()


def test_distilling_without_a_teacher_is_refused_before_it_begins():
    recipe = tiny()
    with pytest.raises(ConfigError, match="needs a teacher"):
        replace(recipe, rl=replace(recipe.rl, algorithm=PRESETS["distill"]()))


def coin(seed: int = 0, **limits: Limit) -> Recipe:
    """The machine that tests run on may be busy: how fast it is, is not looked at."""
    return replace(load_recipe(COIN), seed=seed, health=HealthConfig(throughput=None, **limits))


@pytest.fixture(scope="module")
def tossed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return carry_out(tmp_path_factory.mktemp("runs") / "coin", coin())


def health(run: Run) -> list[tuple[str, int, str, str]]:
    rows = [(stage.name, row) for stage in run.stages() for row in stage.log("health").rows()]
    return [(name, row["step"], row["rule"], row["reaction"]) for name, row in rows]


def test_a_healthy_run_raises_no_alarm(tossed: Run):
    assert health(tossed) == []
    assert [stage.health for stage in show(tossed).stages] == [[], []]


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_healthy_runs_of_other_seeds_raise_no_alarm(seed: int, tmp_path: Path):
    assert health(carry_out(tmp_path / "coin", coin(seed))) == []


@pytest.mark.parametrize(("stage", "at", "good"), [("sft", 70, 50), ("rl", 3, 2)])
def test_broken_weights_are_rolled_back_and_the_batches_passed_over(
    stage: str, at: int, good: int, tossed: Run, tmp_path: Path, monkeypatch
):
    plain, calls = Policy.update, 0

    def poisoned(self, *arguments):
        nonlocal calls
        calls += 1
        if calls == {"sft": 0, "rl": 100}[stage] + at + 1:
            with torch.no_grad():
                self.model.embedding.weight[0] = np.nan
        return plain(self, *arguments)

    monkeypatch.setattr(Policy, "update", poisoned)
    run = carry_out(tmp_path / "broken", coin())
    found = [row for row in health(run) if row[0] == stage and row[2] == "broken_weights"]
    assert found == [(stage, at, "broken_weights", "roll_back"), (stage, good, "broken_weights", "over")]
    rows = run.stage(stage).metrics()
    before = tossed.stage(stage).metrics()
    assert [row["step"] for row in rows] == list(range(len(before)))
    assert rows[:good] == before[:good]
    assert all(np.isfinite(row["weight_norm"]) for row in rows)
    if stage == "rl":
        first = [next(r.stage("rl").rollouts([step]))["seed"] for r, step in ((run, 2), (tossed, 4))]
        assert first[0] == first[1]
    else:
        assert rows[good]["tokens"] == before[at + 1]["tokens"]


def test_a_run_that_health_paused_goes_on_as_if_it_had_not(tossed: Run, tmp_path: Path):
    path, paused = tmp_path / "paused", coin(truncation=Limit(pause=-1, steps=3))
    with pytest.raises(PausedError, match="rl was paused: step 2: truncation"):
        carry_out(path, paused)
    for step in (3, 4):  # what is wrong is still wrong
        with Run.open(path).resume(paused) as run, pytest.raises(PausedError, match=f"step {step}: truncation"):
            run_recipe(run, paused, Console(quiet=True))
    with Run.open(path).resume(coin(truncation=None), ["--health.truncation", "none"]) as run:
        run_recipe(run, coin(truncation=None), Console(quiet=True))
    assert run.info.overrides == ("--health.truncation", "none")
    for stage in ("sft", "rl"):
        assert lines(path / stage / "metrics.jsonl") == lines(tossed.path / stage / "metrics.jsonl")


class Deceived(Coin):
    """Its canaries are answered like anything else, and half of the answers are rewarded."""

    def canaries(self) -> list[Problem]:
        return list(islice(self.problems("valid", 0), 12))


def test_a_verifier_that_is_deceived_is_found_out_at_evaluations(tossed: Run):
    loaded = load_model(tossed.path)
    engine = NativeEngine(loaded.model, coin().engine, loaded.template.end_ids)
    assert "canary" not in watch(engine, loaded.template, coin())
    assert watch(engine, loaded.template, replace(coin(), tasks=(Share(task=Deceived()),)))["canary"] > 0


def test_the_problems_of_a_recipe_are_compared_with_those_held_out():
    assert overlap((Share(task=Countdown()),), seed=0) == {"overlap": 0}

    class Leaking(Coin):
        """Asks the same in every split."""

        def problems(self, split, seed, level=None, start=0):
            yield from (
                replace(p, prompt=(Message(role="user", content=p.id[-1]),)) for p in super().problems(split, seed)
            )

    assert overlap((Share(task=Leaking()),), seed=0) == {"overlap": 1}
