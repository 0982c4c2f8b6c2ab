"""steep learning countdown by RL, a few steps at a time, and the evaluation that both sides are measured with."""

import time
from pathlib import Path
from typing import Any

from benchmarks.worker import Channel, serve
from steep.algorithms import Algorithm
from steep.engines import NativeConfig, NativeEngine, load_model, save_model
from steep.evals.evaluate import EvalConfig, accuracy, evaluate
from steep.models import load
from steep.policies import OptimizerConfig, Policy, PolicyConfig
from steep.rollouts import RolloutConfig, Rollouts
from steep.tasks.countdown import Countdown
from steep.tasks.mixture import Share, distinct
from steep.tokens import Template
from steep.training.rl import describe, learn_from, sync

PROMPT_ROOM = 64
ROWS = 512
state: dict[str, Any] = {}


def begin(directory: str, lr: float, copies: int, thought: int, answer: int, seed: int) -> None:
    """A policy and its engine, from the fine-tuned model."""
    loaded = load_model(Path(directory))
    optimizer = OptimizerConfig(lr=lr, warmup_steps=5)
    policy = Policy(loaded.model, PolicyConfig(optimizer=optimizer, autocast=True), total_steps=1)
    engine = NativeEngine(loaded.model, engine_config(thought + answer), loaded.template.end_ids)
    config = RolloutConfig(group_size=copies, thought=(thought, thought), answer=answer)
    rollouts = Rollouts(engine, loaded.template, (Share(task=Countdown()),), config, seed)
    state.update(policy=policy, engine=engine, rollouts=rollouts, template=loaded.template)


def engine_config(response: int) -> NativeConfig:
    return NativeConfig(rows=ROWS, context=PROMPT_ROOM + response, dtype="bfloat16")


def step(groups: int) -> dict[str, float]:
    policy, algorithm = state["policy"], Algorithm()
    began = time.perf_counter()
    taken, config = state["rollouts"].take(groups), state["rollouts"].config
    examples = learn_from(taken, policy, algorithm, config.thought[1] + config.answer)
    policy.update(examples, algorithm.loss)
    sync(policy, state["engine"], version=policy.step, changed=bool(examples))
    return {"seconds": time.perf_counter() - began, "reward": describe(taken, algorithm)["reward"]}


def save(directory: str) -> None:
    save_model(Path(directory), state["policy"].model, state["template"])


def measure(directory: str, template: str, problems: int, thought: int, answer: int) -> dict[str, float]:
    """Accuracy of the model in a directory, whoever wrote it, on the first held-out problems."""
    words = Template.load(Path(template))
    engine = NativeEngine(load(Path(directory)), engine_config(thought + answer), words.end_ids)
    task = Countdown()
    config = EvalConfig(budgets=(thought,), answer=answer)
    groups = evaluate(engine, words, {task.name: task}, distinct(task, "valid", problems), config)
    return {"accuracy": accuracy(groups[thought]).value}


if __name__ == "__main__":
    serve(Channel(), {"begin": begin, "step": step, "save": save, "measure": measure})
