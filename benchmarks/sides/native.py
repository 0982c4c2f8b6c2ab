"""steep, through what it offers to everyone: an engine, a policy, and the functions of its RL loop."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.worker import Channel, serve
from steep.algorithms import Algorithm, Rft
from steep.engines import NativeConfig, NativeEngine, load_model
from steep.policies import Example, Policy, PolicyConfig
from steep.training.rl import learn_from, sync
from steep.types import Budget, Group, Problem, Request, Rollout, Verdict

state: dict[str, Any] = {}


def load(directory: str, context: int, rows: int) -> None:
    """The model, for an engine that is to hold so many rows of so many tokens."""
    state.clear()
    state.update(model=load_model(Path(directory)).model, context=context, rows=rows)


def engine() -> NativeEngine:
    if "engine" not in state:
        config = NativeConfig(rows=state["rows"], context=state["context"], dtype="bfloat16", cache_dtype="int8")
        state["engine"] = NativeEngine(state["model"], config, end_ids=frozenset())  # no token ends an answer
    kept: NativeEngine = state["engine"]
    return kept


def sample(prompts: list[list[int]], copies: int, new: int) -> list[list[Rollout]]:
    """Exactly `new` tokens each."""
    budget = Budget(thought=0, answer=new, closing=())
    requests = [Request(prompt_ids=tuple(p), budget=budget, n=copies, seed=i) for i, p in enumerate(prompts)]
    return [future.result() for future in [engine().submit(request) for request in requests]]


def generate(prompts: list[list[int]], copies: int, new: int, setting: str) -> dict[str, float]:
    engine()
    began = time.perf_counter()
    groups = sample(prompts, copies, new)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "tokens": sum(len(r.ids) for rollouts in groups for r in rollouts)}


def policy() -> Policy:
    if "policy" not in state:
        state["policy"] = Policy(state["model"], PolicyConfig(autocast=True), total_steps=1000)
    kept: Policy = state["policy"]
    return kept


def train(batch: list[list[int]], setting: str) -> dict[str, float]:
    """One optimizer step of cross-entropy over every token but the first of each sequence."""
    trained = sum(len(ids) - 1 for ids in batch)
    examples = [
        Example(
            ids=np.array(ids, np.int32),
            trained=np.arange(1, len(ids)),
            weights=np.full(len(ids) - 1, 1 / trained, np.float32),
        )
        for ids in batch
    ]
    learner = policy()
    began = time.perf_counter()
    learner.update(examples, Rft())
    return {"seconds": time.perf_counter() - began, "tokens": sum(map(len, batch))}


def step(prompts: list[list[int]], copies: int, new: int) -> dict[str, float]:
    """One RL step: generate, verify, update, hand the weights over."""
    learner, algorithm = policy(), Algorithm()
    engine()
    began = time.perf_counter()
    sampled = sample(prompts, copies, new)
    drawn = time.perf_counter()
    groups = [Group(problem=PROBLEM, rollouts=tuple(map(judged, rollouts))) for rollouts in sampled]
    metrics = learner.update(learn_from(groups, learner, algorithm, new), algorithm.loss)
    sync(learner, engine(), version=learner.step, changed=metrics["lr"] > 0)
    ended = time.perf_counter()
    tokens = sum(len(r.ids) for rollouts in sampled for r in rollouts)
    return {"seconds": ended - began, "sample_s": drawn - began, "update_s": ended - drawn, "tokens": tokens}


PROBLEM = Problem(id="even", task="even", split="train", level=1, prompt=(), key={})


def judged(rollout: Rollout) -> Rollout:
    """The score is the share of even ids: cheap, and different for every rollout, so that none is dropped."""
    verdict = Verdict(kind="correct", score=float(np.mean(rollout.ids % 2 == 0)))
    return Rollout(**{**vars(rollout), "verdict": verdict})


if __name__ == "__main__":
    serve(Channel(), {"load": load, "generate": generate, "train": train, "step": step})
