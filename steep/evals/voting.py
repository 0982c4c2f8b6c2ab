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
    chosen: list[int | None] = []
    for rollout in group.rollouts:
        answer = template.answer(rollout.ids.tolist()).strip()
        answered = rollout.thought_len is not None and rollout.stop == "end" and answer != ""
        if answered and answer not in numbers:
            alike = (n for n, first in enumerate(firsts) if same(group.problem, first, answer))
            numbers[answer] = next(alike, len(firsts))
            if numbers[answer] == len(firsts):
                firsts.append(answer)
        chosen.append(numbers[answer] if answered else None)
    return chosen
