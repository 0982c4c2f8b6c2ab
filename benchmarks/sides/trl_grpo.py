"""TRL's GRPOTrainer, a step at a time: each `step` is answered when the trainer has done one.

Its best settings for a CPU: no gradient checkpointing, no reference model (beta 0), one update a batch (so that it
leaves out the old log-probabilities), no logging, no checkpoints.
"""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.worker import Channel, serve
from steep.tasks.countdown import Countdown
from steep.tokens import Template
from steep.types import Problem

Score = Callable[[list[int], str], float]
"""Of a completion's ids, and of the problem's key in JSON."""


class Steps(TrainerCallback):
    """Hands the channel's calls to the trainer between two of its steps."""

    def __init__(self, channel: Channel, rewards: "Rewards") -> None:
        self.channel, self.rewards = channel, rewards

    def on_train_begin(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        self.channel.answer({})
        self._wait(control, found["model"])

    def on_step_begin(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        self.rewards.tokens, self.rewards.scores = 0, []
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        seconds = time.perf_counter() - self.began
        reward = sum(self.rewards.scores) / len(self.rewards.scores)
        self.channel.answer({"seconds": seconds, "tokens": self.rewards.tokens, "reward": reward})
        self._wait(control, found["model"])

    def _wait(self, control: Any, model: Any) -> None:
        while (request := self.channel.read()) is not None:
            if request["call"] == "step":
                return
            if request["call"] == "save":
                model.save_pretrained(request["directory"])
                self.channel.answer({})
        control.should_training_stop = True


class Rewards:
    """The reward function, counting the tokens that it sees."""

    __name__ = "reward"

    def __init__(self, score: Score) -> None:
        self.score = score
        self.tokens = 0
        self.scores: list[float] = []

    def __call__(self, completion_ids: Sequence[Sequence[int]], key: Sequence[str], **unused: Any) -> list[float]:
        self.tokens += sum(map(len, completion_ids))
        found = [self.score(list(ids), problem) for ids, problem in zip(completion_ids, key, strict=True)]
        self.scores += found
        return found


def even(ids: list[int], key: str) -> float:
    """The share of even ids: cheap, and different for every completion."""
    return sum(i % 2 == 0 for i in ids) / len(ids)


def train(
    channel: Channel,
    directory: str,
    prompts: list[str],
    keys: list[str],
    score: str,
    copies: int,
    groups: int,
    new: int,
    micro: int,
    autocast: bool,
    lr: float,
    exactly: bool,
) -> None:
    """Train until the calls end. `micro` completions are forwarded together; `exactly`: none ends before `new`."""
    torch.set_float32_matmul_precision("medium")  # oneDNN's products, as steep's are
    rewards = Rewards(even if score == "even" else countdown(directory))
    with tempfile.TemporaryDirectory() as scratch:
        config = GRPOConfig(
            output_dir=scratch,
            use_cpu=True,
            bf16=autocast,
            gradient_checkpointing=False,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=groups * copies // micro,
            num_generations=copies,
            max_completion_length=new,
            generation_kwargs={"min_new_tokens": new} if exactly else None,
            beta=0.0,
            learning_rate=lr,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_steps=10_000,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(directory, dtype="float32"),
            reward_funcs=rewards,
            args=config,
            train_dataset=Dataset.from_dict({"prompt": prompts, "key": keys}),
            processing_class=AutoTokenizer.from_pretrained(directory, padding_side="left"),
            callbacks=[Steps(channel, rewards)],
        )
        trainer.train()


def countdown(directory: str) -> Score:
    """steep's own check of the answer, on the ids that were sampled."""
    template, task = Template.load(Path(directory)), Countdown()

    def score(ids: list[int], key: str) -> float:
        problem = Problem(id="", task="countdown", split="train", level=1, prompt=(), key=json.loads(key))
        ended = template.end_ids.intersection(ids) and template.think_close_id in ids
        return task.verify(problem, template.answer(ids)).score if ended else 0.0

    return score


def main() -> None:
    """A trainer keeps the channel to itself until the calls end, so there is one for each process."""
    channel = Channel()
    serve(channel, {"train": lambda **request: train(channel, **request)})


if __name__ == "__main__":
    main()
