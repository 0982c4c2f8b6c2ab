"""Which answers to a problem say the same, so that they can be counted."""

from steep.tasks.verifiers import sameness
from steep.tokens import Template
from steep.types import Group, Task


def votes(group: Group, task: Task, template: Template) -> list[int | None]:
    """The number of each rollout's answer, counted from 0 as they come up; answers that say the same share one.

    None abstains: there is no answer, or it was cut off.
    """
    same = sameness(task)
    firsts: list[str] = []  # the first answer of each number
    numbers: dict[str, int] = {}
    texts: dict[bytes, str] = {}  # of ids: many give the same answer
    chosen: list[int | None] = []
    for rollout in group.rollouts:
        answer = ""
        if rollout.thought_len is not None and rollout.stop == "end":
            ids = rollout.ids[rollout.thought_len :].tobytes()
            if ids not in texts:
                texts[ids] = template.answer(rollout.ids.tolist()).strip()
            answer = texts[ids]
        if answer != "" and answer not in numbers:
            alike = (n for n, first in enumerate(firsts) if same(group.problem, first, answer))
            numbers[answer] = next(alike, len(firsts))
            if numbers[answer] == len(firsts):
                firsts.append(answer)
        chosen.append(numbers[answer] if answer != "" else None)
    return chosen
