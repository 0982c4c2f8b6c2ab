"""What can be known about a file of problems before a model sees it: mistakes, gold answers, repeats, leaks."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from steep.tasks.jsonl import Line, normal
from steep.tasks.mixture import blaming, verdict_on
from steep.types import Problem, Task

GRAM = 13
"""Words in a row that two problems hardly share by chance; the length that GPT-3's authors looked for."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is to be said about a line of a file, or about a row of a Python file's `problems()`."""

    line: int
    text: str


def mistakes(lines: Sequence[Line]) -> list[Finding]:
    return [Finding(line=line.number, text=line.error) for line in lines if line.error]


def failing_gold(task: Task, lines: Sequence[Line]) -> Iterator[Finding | None]:
    """For each problem what is wrong with its gold answer; None if it verifies.

    A pattern is no answer: of `regex` it is only seen whether the pattern can be used.
    """
    for number, problem in held(lines):
        gold = problem.key["answer"]
        pattern = problem.key["verifier"] == "regex"
        verdict = task.verify(problem, "" if pattern else gold)
        fails = verdict.kind == "invalid" or (verdict.kind == "wrong" and not pattern)
        reason = f"{verdict.kind}: {verdict.reason}" if verdict.reason else verdict.kind
        yield Finding(line=number, text=f"its answer {gold!r} does not verify: {reason}") if fails else None


def failing_examples(task: Task) -> list[str]:
    """Where a task's own examples do not get the verdicts that they claim."""
    with blaming(task, "examples", "examples"):
        examples = task.examples()
    judged = [(problem, answer, expected, verdict_on(task, problem, answer)) for problem, answer, expected in examples]
    return [
        f"its example {answer!r} to {problem.id} is {verdict.kind}, not {expected.kind}: {verdict.reason}"
        for problem, answer, expected, verdict in judged
        if verdict.kind != expected.kind
    ]


def repeats(lines: Sequence[Line]) -> list[Finding]:
    first: dict[str, int] = {}
    found = []
    for number, problem in held(lines):
        earlier = first.setdefault(normal(problem.prompt), number)
        if earlier != number:
            found.append(Finding(line=number, text=f"the same problem as {earlier}"))
    return found


def leaks(lines: Sequence[Line], test_sets: Mapping[str, Sequence[Problem]]) -> list[Finding]:
    """Problems that share 13 words in a row with one of a test set, or are shorter and the same."""
    where = {
        gram: f"{name}, problem {number}"
        for name, problems in test_sets.items()
        for number, problem in enumerate(problems, start=1)
        for gram in grams(problem)
    }
    found = []
    for number, problem in held(lines):
        shared = next((gram for gram in grams(problem) if gram in where), None)
        if shared is not None:
            found.append(Finding(line=number, text=f"{where[shared]}: {' '.join(shared)!r}"))
    return found


def grams(problem: Problem) -> list[tuple[str, ...]]:
    """All runs of 13 words of the prompt; of a shorter prompt the whole, with its signs, for "2+3" is not "2-3"."""
    text = " ".join(message.content for message in problem.prompt).casefold()
    words = tuple(re.findall(r"\w+", text))
    if len(words) < GRAM:
        return [tuple(text.split())]
    return [words[at : at + GRAM] for at in range(len(words) - GRAM + 1)]


def held(lines: Sequence[Line]) -> Iterator[tuple[int, Problem]]:
    """The problems without a mistake, with their lines."""
    return ((line.number, line.problem) for line in lines if line.problem is not None)
