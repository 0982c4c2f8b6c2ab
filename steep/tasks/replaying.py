"""What tasks share whose thoughts are written in steps: which steps are wrong, and which of these are mended later."""

from collections.abc import Sequence
from typing import NamedTuple

from steep.types import Replay, Slip


class Step(NamedTuple):
    """A step as it stands in a thought."""

    span: tuple[int, int]
    operation: str
    right: bool
    """Whether it has the right result."""


def replay(steps: Sequence[Step]) -> Replay:
    """A wrong step is mended where the same operation is next written with its right result."""
    slips: list[Slip] = []
    right: dict[str, tuple[int, int]] = {}
    for step in reversed(steps):
        if step.right:
            right[step.operation] = step.span
        else:
            slips.append(Slip(start=step.span[0], end=step.span[1], mended=right.get(step.operation)))
    return Replay(steps=len(steps), slips=tuple(reversed(slips)))
