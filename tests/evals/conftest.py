"""A run as a recipe leaves it, made through the classes that make real ones, in a second and without training."""

import math
from dataclasses import asdict, dataclass, field
from random import Random

import numpy as np
import pytest
import torch

from steep.engines import save_model
from steep.evals.suite import FILE, cells_of
from steep.models.transformer import ModelConfig, Transformer, initialise
from steep.rollouts import rows
from steep.runs import Run, write_json
from steep.tokens import Template, Tokenizer, compact
from steep.types import Group, Message, Problem, Rollout, correct, invalid, wrong

BUDGETS = (0, 16, 32, 64, 128, 256)
HOSTILE = "</pre><script>alert('x')</script>\x1b[2J\u202e"


@dataclass(frozen=True, kw_only=True)
class Config:
    pretrain: dict = field(default_factory=lambda: {"steps": 60})
    sft: dict = field(default_factory=lambda: {"steps": 100})
    rl: dict = field(default_factory=lambda: {"num_steps": 20, "name": "<script>"})


@pytest.fixture(scope="session")
def template():
    texts = ["3 + 5 = 8, 8 * 3 = 24. That is not 20: try again.", "Use 3, 5 and 8 to make 24.", "count the r's"]
    return Template(Tokenizer.train(texts * 3, 320, compact().control), compact())


def rollout(template, thought, answer, budget, verdict, *, sample=0):
    """As an engine gives it: a thought that is longer than its budget is cut there, and the closing is forced."""
    limit = template.budget(budget, 32)
    thought_ids = template.tokenizer.encode(thought)
    cut = len(thought_ids) >= budget
    thought_ids = thought_ids[:budget]
    closing = list(limit.closing) if cut else [template.think_close_id]
    answer_ids = [*template.tokenizer.encode(answer), min(template.end_ids)]
    ids = np.array([*thought_ids, *closing, *answer_ids], np.int32)
    sampled = np.ones(len(ids), bool)
    if cut:
        sampled[len(thought_ids) : len(thought_ids) + len(closing)] = False
    return Rollout(
        prompt_ids=(1, 2),
        ids=ids,
        logprobs=np.zeros(len(ids), np.float32),
        sampled=sampled,
        versions=np.zeros(len(ids), np.int32),
        thought_len=len(thought_ids) + len(closing),
        stop="end",
        budget=limit,
        seed=0,
        sample=sample,
        verdict=verdict,
    )


def groups(template, task, budget, skill, *, problems=40, samples=1, seed=0, levels=4, prompt="Use 3, 5 and 8"):
    """Harder problems take longer thoughts; accuracy grows with what fits into the budget."""
    rng = Random(f"{task}/{budget}/{skill}/{seed}")
    made = []
    for number in range(problems):
        level = number % levels + 1
        problem = Problem(
            id=f"{task}/{number}", task=task, split="test", level=level, key={"target": 24},
            prompt=(Message(role="user", content=f"{prompt} to make {number + 11}."),),
        )  # fmt: skip
        drawn = []
        for sample in range(samples):
            steps = max(1, round(level * rng.uniform(1, 6)))
            thought = "3 + 5 = 8, 8 * 3 = 24. That is not 20: try again.\n" * steps
            chance = min(skill * math.log2(budget + 2) / 8 + 0.1, 0.98) * (1.1 - 0.12 * level)
            won = rng.random() < chance
            verdict = correct() if won else wrong("3 + 5 is 8, not 24")
            if rng.random() < 0.01:
                verdict = invalid("ZeroDivisionError: division by zero")
            drawn.append(rollout(template, thought, "(3 * 8)" if won else "3 + 5", budget, verdict, sample=sample))
        made.append(Group(problem=problem, rollouts=tuple(drawn)))
    return made


def save_stage_model(stage, template):
    """6,680 parameters or so: the test counts them."""
    config = ModelConfig(
        vocab_size=template.tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=1, num_kv_heads=1,
        head_dim=16, intermediate_size=16, max_positions=64,
    )  # fmt: skip
    model = Transformer(config)
    initialise(model, torch.Generator().manual_seed(0))
    save_model(stage.model, model, template)


def supervised(run, name, steps, template, *, tokens=8192):
    stage = run.stage(name)
    rng = Random(name)
    for step in range(steps):
        loss = 0.4 + 3.2 * math.exp(-step / 20) + rng.gauss(0, 0.05)
        stage.record(step, {"loss": loss, "lr": 1e-3, "tokens": tokens}, {"tokens/s": 9000 + rng.gauss(0, 300)})
    save_stage_model(stage, template)
    stage.finish({})
    return stage


def reinforced(run, template, *, steps=20, finish=True, skill=1.0):
    stage = run.stage("rl")
    rng = Random("rl")
    for step in range(steps):
        gain = 0.25 + 0.35 * (1 - math.exp(-step / 8)) * skill
        metrics = {"reward": gain + rng.gauss(0, 0.02), "signal": 0.7 - 0.3 * gain, "thought": 60 + 4 * step}
        metrics |= {"entropy": 0.5 * math.exp(-step / 20), "tokens_sampled": 40_000, "tokens_trained": 30_000}
        if step == 0:
            metrics |= watch_metrics("start/", 0.25)
        if step % 4 == 3:
            metrics |= watch_metrics("", gain)
        stage.record(step, metrics, {"tokens/s": 5000 + rng.gauss(0, 200), "sample_s": 8.0, "update_s": 4.0})
        if step >= steps - 2:
            batch = groups(template, "countdown", 64, gain, problems=8, samples=4, seed=step)
            stage.save_rollouts(step, list(rows(batch, template)))
    if finish:
        save_stage_model(stage, template)
        stage.finish({})
    return stage


def watch_metrics(prefix, accuracy):
    metrics = {}
    for task, factor in (("countdown", 1.0), ("letters", 1.2)):
        for budget, share in ((32, 0.6), (128, 1.0)):
            value = min(accuracy * factor * share, 1.0)
            key = f"{prefix}valid/{task}@{budget}"
            metrics |= {key: value, f"{key}_low": value - 0.05, f"{key}_high": value + 0.06}
    return metrics


def evaluated(run, template, models=(("sft", 0.5), ("rl", 0.9)), problems=48):
    stage = run.stage("eval")
    cells, number = [], 0
    for model, skill in models:
        for task, prompt, budgets in (("countdown", "Use 3, 5 and 8", BUDGETS), ("letters", HOSTILE, (0, 32, 128))):
            for mode in ("sampled", "greedy"):
                by_budget = {
                    b: groups(template, task, b, skill + 0.05 * (mode == "greedy"), problems=problems, prompt=prompt)
                    for b in budgets
                }
                saved = [
                    {"model": model, "mode": mode, **row} for part in by_budget.values() for row in rows(part, template)
                ]
                stage.save_rollouts(number, saved)
                cells += cells_of(model, task, mode, by_budget)
                number += 1
    write_json(stage.path / FILE, [asdict(cell) for cell in cells])
    stage.finish({})
    return stage


def new_run(path):
    return Run.create(path, recipe="recipes/nano.py", overrides=["--rl.num_steps", "20"], config=Config(), seed=0)


@dataclass(frozen=True)
class Making:
    """The functions above, for tests."""

    groups = staticmethod(groups)
    rollout = staticmethod(rollout)
    new_run = staticmethod(new_run)
    supervised = staticmethod(supervised)
    reinforced = staticmethod(reinforced)
    evaluated = staticmethod(evaluated)


@pytest.fixture(scope="session")
def making():
    return Making()


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory, template):
    """A run that finished, with its evaluation; read only."""
    path = tmp_path_factory.mktemp("runs") / "nano"
    with new_run(path) as run:
        supervised(run, "pretrain", 60, template)
        supervised(run, "sft", 100, template)
        reinforced(run, template)
        evaluated(run, template)
    return path
