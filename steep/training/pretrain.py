"""Pretraining: the facts that thoughts are made of, as plain text, every token trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol, runtime_checkable

import numpy as np

from steep.config import within
from steep.errors import ConfigError
from steep.policies import Example, Policy
from steep.runs import Health, Stage
from steep.tasks.mixture import Share, blaming
from steep.tokens import Template
from steep.training.supervised import SupervisedConfig, train_supervised


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(SupervisedConfig):
    sequences: int = 32
    """Sequences in a batch."""
    length: int = 256
    """Tokens in a sequence: documents are laid one after another and cut."""

    def __post_init__(self) -> None:
        super().__post_init__()
        within(self, 1, "sequences")
        within(self, 2, "length")


@runtime_checkable
class Writer(Protocol):
    """A task that has text to read."""

    def documents(self, rng: Random) -> str: ...


def pretrain(
    stage: Stage,
    policy: Policy,
    template: Template,
    shares: Sequence[Share],
    config: PretrainConfig,
    seed: int,
    health: Health,
) -> None:
    def batch(step: int) -> list[Example]:
        numbers = range(step * config.sequences, (step + 1) * config.sequences)
        return [sequence(template, shares, config.length, seed, n, config.sequences) for n in numbers]

    train_supervised(stage, policy, config, batch, health)


def sequence(
    template: Template, shares: Sequence[Share], length: int, seed: int, number: int, sequences: int
) -> Example:
    """Documents of the mixture, each after a separator, filling `length` tokens."""
    rng = Random(f"pretrain/{seed}/{number}")
    separator = template.pad_id if template.document_id is None else template.document_id
    ids: list[int] = []
    while len(ids) < length:
        share = rng.choices(shares, [s.weight for s in shares])[0]
        ids += [separator, *template.tokenizer.encode(document(share, rng))]
    trained = np.arange(1, length)
    return Example(
        ids=np.array(ids[:length], np.int32),
        trained=trained,
        weights=np.full(len(trained), 1 / (len(trained) * sequences), np.float32),
    )


def document(share: Share, rng: Random) -> str:
    if not isinstance(share.task, Writer):
        raise ConfigError(
            f"the task {share.task.name} has no documents to pretrain on",
            "give it documents(), or start from a model and leave the stage out: --pretrain none",
        )
    with blaming(share.task, "documents", "documents"):
        return share.task.documents(rng)
