"""A run of some seconds in which nothing goes wrong: a model learns to babble and to end, and is paid by chance.

steep train tests/recipes/coin.py
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from random import Random

from steep.config import load_recipe
from steep.policies import OptimizerConfig, PolicyConfig
from steep.rollouts import RolloutConfig
from steep.tasks.mixture import Share
from steep.training.recipe import Recipe
from steep.types import Demonstration, Message, Problem, Split, Verdict, correct, wrong


@dataclass(frozen=True)
class Coin:
    """Any answer is as good as the other: half of them are right, whatever the model thinks."""

    name: str = "coin"
    levels: Sequence[int] = (1,)

    def problems(self, split: Split, seed: int, level: int | None = None, start: int = 0) -> Iterator[Problem]:
        for number in count(start):
            prompt = (Message(role="user", content=f"Throw {split} {number}."),)
            yield Problem(id=f"{split}/{number}", task=self.name, split=split, level=1, prompt=prompt, key={})

    def verify(self, problem: Problem, answer: str) -> Verdict:
        return correct() if answer.endswith("h") else wrong("tails")

    def examples(self) -> Sequence[tuple[Problem, str, Verdict]]:
        problem = next(self.problems("train", 0))
        return [(problem, "h", correct()), (problem, "t", wrong("tails"))]

    def demonstrate(self, problem: Problem, rng: Random) -> Demonstration:
        thought = "".join(rng.choice("abcdefgh") for _ in range(rng.randint(8, 14)))
        return Demonstration(thought=thought, answer=rng.choice("ht"))

    def documents(self, rng: Random) -> str:
        return self.demonstrate(next(self.problems("train", 0)), rng).thought


def config() -> Recipe:
    tiny = load_recipe(Path(__file__).parent / "tiny.py")
    optimizer = OptimizerConfig(lr=1e-2, warmup_steps=1)
    return replace(
        tiny,
        tasks=(Share(task=Coin()),),
        vocabulary=264,
        pretrain=None,
        sft=replace(tiny.sft, steps=100, examples=16, checkpoint_every=50, policy=PolicyConfig(optimizer=optimizer)),
        rl=replace(
            tiny.rl,
            num_steps=8,
            groups_per_step=4,
            rollouts=RolloutConfig(group_size=8, thought=(8, 24), answer=24),
            eval_every=4,
            checkpoint_every=2,
        ),
        watch=replace(tiny.watch, problems=16),
        evals=(),
    )
