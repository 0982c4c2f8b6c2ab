"""Word problems in one to three steps: who has how many of what, and what happens to them.

    Tom has 12 boxes with 6 pens in each and gives 15 pens to Ann. How many pens does Tom have left?

    asked: pens left
    pens in the boxes: 12*6: 2*6=12 write 2 carry 1; 1*6=6 so 6+1=7 write 72
    pens left: 72-15: 12-5=7 write 7 borrow 1; 7-1-1=5 write 57

The level is the number of steps. From level 2 on some problems have a number that does not matter, and the thought says
so. Steps are thought through as in `arithmetic`. All splits have the same stories: what is held out are their numbers.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from steep.errors import ConfigError
from steep.tasks.arithmetic import Arithmetic, apply, slip, think
from steep.tasks.generated import Generated, split_of
from steep.tasks.verifiers import number
from steep.types import Demonstration, Message, Problem, Replay, Verdict, correct, wrong

LEVELS = (1, 2, 3)
LARGEST = 999
"""Result of a step."""
NAMES = (
    *("Alice", "Amir", "Anna", "Ben", "Carlos", "Clara", "David", "Diego", "Ella", "Emma", "Eric", "Fatima", "Grace"),
    *("Hugo", "Ivan", "Jack", "Julia", "Kate", "Leo", "Lily", "Maria", "Mark", "Mei", "Nina", "Noah", "Olga", "Omar"),
    *("Paul", "Peter", "Rosa", "Sam", "Sara", "Tom", "Vera", "Will", "Zoe"),
)
THINGS = (
    *("apple", "balloon", "book", "button", "cake", "candle", "card", "carrot", "coin", "cookie", "egg", "flower"),
    *("hat", "lemon", "marble", "orange", "pear", "pen", "pencil", "plum", "ring", "shell", "stamp", "sticker"),
    *("ticket", "toy", "tulip"),
)
BOXES = ("bags", "baskets", "boxes", "crates", "jars", "packets")
PLACES = ("beach", "fair", "farm", "library", "market", "museum", "park", "river", "school", "shop", "station", "zoo")
IDLE = (
    "{friend} is {x} years old.",
    "{friend} has {x} {others}.",
    "{name} has {x} {others}.",
    "The {place} is {x} miles away.",
    "There are {x} people at the {place}.",
    "{name} walked for {x} minutes to the {place}.",
)
"""Sentences whose number does not matter."""
SLOT = re.compile(r"\{([abckmn])\}")


class Story(NamedTuple):
    """What is told, what is asked, and the steps to the answer, each as "what it finds: an operation".

    The numbers a, b, c are from 2 to 99, and k, m, n from 2 to 9; p and q are what the first and second step found.
    """

    told: str
    asked: str
    steps: tuple[str, ...]


STORIES: Mapping[str, Story] = {
    # one step
    "more": Story(
        "{name} has {a} {things}. {friend} gives {name} {b} more.",
        "How many {things} does {name} have now?",
        ("{things} now: a+b",),
    ),
    "less": Story(
        "{name} has {a} {things} and gives {b} of them to {friend}.",
        "How many {things} does {name} have left?",
        ("{things} left: a-b",),
    ),
    "together": Story(
        "{name} has {a} {things} and {friend} has {b} {things}.",
        "How many {things} do they have together?",
        ("{things} together: a+b",),
    ),
    "difference": Story(
        "{name} has {a} {things} and {friend} has {b} {things}.",
        "How many more {things} does {name} have than {friend}?",
        ("{things} more: a-b",),
    ),
    "packed": Story(
        "There are {a} {boxes} with {k} {things} in each.",
        "How many {things} are there?",
        ("{things} in the {boxes}: a*k",),
    ),
    "shared": Story(
        "{name} shares {a} {things} equally among {k} children.",
        "How many {things} does each child get?",
        ("{things} for each child: a/k",),
    ),
    "packing": Story(
        "{name} puts {a} {things} into {boxes}, {k} in each.",
        "How many {boxes} does {name} need?",
        ("{boxes}: a/k",),
    ),
    "cost": Story(
        "One {thing} costs {k} dollars. {name} buys {a} {things}.",
        "How many dollars does {name} pay?",
        ("dollars paid: a*k",),
    ),
    "missing": Story(
        "{name} needs {a} {things} and has found {b} of them at the {place}.",
        "How many more {things} does {name} need?",
        ("{things} needed: a-b",),
    ),
    "before": Story(
        "{name} got {b} {things} at the {place} and has {a} {things} now.",
        "How many {things} did {name} have before?",
        ("{things} before: a-b",),
    ),
    "times": Story(
        "{friend} has {a} {things}. {name} has {k} times as many.",
        "How many {things} does {name} have?",
        ("{things} of {name}: a*k",),
    ),
    "daily": Story(
        "{name} sells {a} {things} at the {place} every day.",
        "How many {things} does {name} sell in {k} days?",
        ("{things} sold: a*k",),
    ),
    "lost": Story(
        "{name} had {a} {things}, lost some at the {place} and has {b} left.",
        "How many {things} did {name} lose?",
        ("{things} lost: a-b",),
    ),
    # two steps
    "packed less": Story(
        "{name} has {a} {boxes} with {k} {things} in each and gives {b} {things} to {friend}.",
        "How many {things} does {name} have left?",
        ("{things} in the {boxes}: a*k", "{things} left: p-b"),
    ),
    "packed more": Story(
        "{name} buys {k} {boxes} of {m} {things} and already has {a} {things} at home.",
        "How many {things} does {name} have in all?",
        ("{things} in the {boxes}: k*m", "{things} in all: p+a"),
    ),
    "more less": Story(
        "{name} has {a} {things}, gets {b} more from {friend} and then loses {c} at the {place}.",
        "How many {things} does {name} have in the end?",
        ("{things} with the new ones: a+b", "{things} in the end: p-c"),
    ),
    "less less": Story(
        "There are {a} {things} at the {place}. {name} takes {b} of them and {friend} takes {c}.",
        "How many {things} are left at the {place}?",
        ("{things} without those of {name}: a-b", "{things} left: p-c"),
    ),
    "together shared": Story(
        "{name} has {a} {things} and {friend} has {b}. They share all of them equally among {k} children.",
        "How many {things} does each child get?",
        ("{things} together: a+b", "{things} for each child: p/k"),
    ),
    "together difference": Story(
        "{name} picked {a} {things} in the morning and {b} in the afternoon. {friend} picked {c} that day.",
        "How many more {things} did {name} pick than {friend}?",
        ("{things} of {name}: a+b", "{things} more: p-c"),
    ),
    "times together": Story(
        "{friend} has {a} {things}. {name} has {k} times as many.",
        "How many {things} do they have together?",
        ("{things} of {name}: a*k", "{things} together: p+a"),
    ),
    "more together": Story(
        "{friend} has {a} {things}. {name} has {b} more than {friend}.",
        "How many {things} do they have together?",
        ("{things} of {name}: a+b", "{things} together: p+a"),
    ),
    "change": Story(
        "{name} takes {a} dollars to the {place} and buys {k} {things} for {m} dollars each.",
        "How many dollars does {name} have left?",
        ("dollars paid: k*m", "dollars left: a-p"),
    ),
    "less packing": Story(
        "{name} has {a} {things}, gives {b} to {friend} and puts the rest into {boxes} of {k}.",
        "How many {boxes} does {name} fill?",
        ("{things} left: a-b", "{boxes}: p/k"),
    ),
    "rows": Story(
        "At the {place} there are {n} rooms, each with {k} rows of {m} chairs.",
        "How many chairs are there at the {place}?",
        ("chairs in a room: k*m", "chairs: p*n"),
    ),
    "earned": Story(
        "{name} has {a} dollars and works at the {place} for {k} hours at {m} dollars an hour.",
        "How many dollars does {name} have then?",
        ("dollars earned: k*m", "dollars then: p+a"),
    ),
    "half together": Story(
        "{name} has {a} {things} and {friend} has half as many.",
        "How many {things} do they have together?",
        ("{things} of {friend}: a/2", "{things} together: p+a"),
    ),
    # three steps
    "two boxes": Story(
        "{name} buys {k} red {boxes} with {a} {things} in each and {m} blue {boxes} with {b} {things} in each.",
        "How many {things} does {name} buy?",
        ("{things} in red {boxes}: a*k", "{things} in blue {boxes}: b*m", "{things}: p+q"),
    ),
    "two prices": Story(
        "One {thing} costs {k} dollars and a visit to the {place} costs {m} dollars. {name} pays for {a} {things} and "
        "{n} visits.",
        "How many dollars does {name} pay?",
        ("dollars for {things}: a*k", "dollars for visits: n*m", "dollars paid: p+q"),
    ),
    "packed less shared": Story(
        "{name} has {k} {boxes} with {m} {things} in each, gives {b} {things} to {friend} and shares the rest equally "
        "among {n} children.",
        "How many {things} does each child get?",
        ("{things} in the {boxes}: k*m", "{things} left: p-b", "{things} for each child: q/n"),
    ),
    "earned change": Story(
        "{name} has {a} dollars, earns {b} dollars at the {place} and buys {k} {things} for {m} dollars each.",
        "How many dollars does {name} have left?",
        ("dollars before: a+b", "dollars paid: k*m", "dollars left: p-q"),
    ),
    "times more together": Story(
        "{friend} has {a} {things}. {name} has {k} times as many as {friend}, and {third} has {b} more than {name}.",
        "How many {things} do {friend} and {third} have together?",
        ("{things} of {name}: a*k", "{things} of {third}: p+b", "{things} together: q+a"),
    ),
    "book": Story(
        "{name} reads {k} pages a day for {m} days and then {b} pages more. The book has {a} pages.",
        "How many pages are left?",
        ("pages in {m} days: k*m", "pages read: p+b", "pages left: a-q"),
    ),
    "three days": Story(
        "{name} picks {a} {things} on Monday, {b} more than that on Tuesday and {c} on Wednesday.",
        "How many {things} does {name} pick in the three days?",
        ("{things} on Tuesday: a+b", "{things} in two days: p+a", "{things} in three days: q+c"),
    ),
    "two days less": Story(
        "{name} finds {a} {things} on Monday and {k} times as many on Tuesday, and gives {b} of them all to {friend}.",
        "How many {things} does {name} have left?",
        ("{things} on Tuesday: a*k", "{things} in two days: p+a", "{things} left: q-b"),
    ),
    "half less packing": Story(
        "{name} has {a} {things}, gives half of them to {friend} and {b} to {third}, and puts the rest into {boxes} of "
        "{k}.",
        "How many {boxes} does {name} fill?",
        ("{things} without those of {friend}: a/2", "{things} left: p-b", "{boxes}: q/k"),
    ),
    "together packing less": Story(
        "{name} has {a} {things} and {friend} has {b}. They put all of them into {boxes} of {k} and sell {m} {boxes}.",
        "How many {boxes} do they have left?",
        ("{things} together: a+b", "{boxes}: p/k", "{boxes} left: q-m"),
    ),
    "wages": Story(
        "{name} works {k} hours for {a} dollars an hour. {friend} works {m} hours for {b} dollars an hour.",
        "How many dollars more does {name} earn than {friend}?",
        ("dollars of {name}: a*k", "dollars of {friend}: b*m", "dollars more: p-q"),
    ),
    "profit": Story(
        "{name} buys {a} {things} for {k} dollars each and sells them at the {place} for {m} dollars each.",
        "How many dollars does {name} gain?",
        ("dollars paid: a*k", "dollars taken in: a*m", "dollars gained: q-p"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Stories(Generated):
    """Word problems in English. A problem's id is its story and the numbers that matter."""

    levels: tuple[int, ...] = LEVELS
    """How many steps: 1, 2 or 3."""
    slips: float = 0.04
    """Chance that a demonstration makes one wrong step, notices it and mends it."""
    idle: float = 0.3
    """Share of the problems with two or three steps that tell a number that does not matter."""

    def __post_init__(self) -> None:
        if not self.levels or not set(self.levels) <= set(LEVELS):
            raise ConfigError(f"stories has no levels {list(self.levels)}", f"choose from {list(LEVELS)}")

    @property
    def name(self) -> str:
        return "stories"

    def make(self, level: int, rng: Random) -> Problem:
        title = rng.choice([title for title, story in STORIES.items() if len(story.steps) == level])
        numbers, cast = draw(STORIES[title], rng), casting(rng)
        tells_idle = level > 1 and rng.random() < self.idle
        idle = rng.choice(sorted({*range(2, 100)} - {*numbers.values()})) if tells_idle else None
        return self._problem(title, numbers, cast, idle, rng.choice(IDLE))

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Correct if the last number of the answer is the right one: "57", "57 pens" and "72-15 = 57"."""
        return number(problem.key["answer"], answer)

    def same(self, problem: Problem, answer: str, other: str) -> bool:
        return number(answer, other).kind == "correct"

    def demonstrate(self, problem: Problem, rng: Random) -> Demonstration:
        idle, steps = problem.key["idle"], problem.key["steps"]
        first = [f"asked: {steps[-1][0]}", *([] if idle is None else [f"not needed: {idle}"])]
        thought = "\n".join([*first, *(f"{found}: {think(operation)}" for found, operation in steps)])
        if rng.random() < self.slips:
            thought = slip(thought, rng)
        return Demonstration(thought=thought, answer=problem.key["answer"])

    def replay(self, thought: str) -> Replay:
        return Arithmetic().replay(thought)

    def examples(self) -> Sequence[tuple[Problem, str, Verdict]]:
        cast = casting(Random(0))
        packed = self._problem("packed less", {"a": 12, "k": 6, "b": 15}, cast)
        return [
            (packed, "57", correct()),
            (packed, "57 pens are left.", correct()),
            (packed, "72-15=57", correct()),
            (packed, "72", wrong("not 72")),
            (packed, "many", wrong("no number")),
            (packed, "", wrong("no number")),
        ]

    def _problem(
        self, title: str, numbers: Mapping[str, int], cast: Mapping[str, str], idle: int | None = None, aside: str = ""
    ) -> Problem:
        """`aside` is the sentence that tells the number `idle`."""
        story, words = STORIES[title], {**cast, **numbers, "x": idle}
        told = [*([] if idle is None else [aside]), story.told, story.asked]
        finds = [step.partition(": ")[0].format(**words) for step in story.steps]
        worked = work(story, numbers)
        problem_id = f"{self.name}/{title}/{' '.join(f'{slot}={value}' for slot, value in numbers.items())}"
        return Problem(
            id=problem_id,
            task=self.name,
            split=split_of(problem_id),
            level=len(story.steps),
            prompt=(Message(role="user", content=" ".join(told).format(**words)),),
            key={
                "answer": str(worked[-1][1]),
                "steps": [[found, operation] for found, (operation, _) in zip(finds, worked, strict=True)],
                "idle": idle,
            },
        )


def casting(rng: Random) -> dict[str, str]:
    """Who and what a story is about."""
    name, friend, third = rng.sample(NAMES, 3)
    thing, other = rng.sample(THINGS, 2)
    return {
        "name": name,
        "friend": friend,
        "third": third,
        "thing": thing,
        "things": f"{thing}s",
        "others": f"{other}s",
        "boxes": rng.choice(BOXES),
        "place": rng.choice(PLACES),
    }


def draw(story: Story, rng: Random) -> dict[str, int]:
    """Numbers with which the story works out."""
    slots = sorted(set(SLOT.findall(story.told + story.asked)))
    while True:
        numbers = {slot: rng.randint(2, 99 if slot in "abc" else 9) for slot in slots}
        if work(story, numbers):
            return numbers


def work(story: Story, numbers: Mapping[str, int]) -> list[tuple[str, int]]:
    """The operation of each step, and its result; empty if one has a remainder or is not from 1 to `LARGEST`."""
    known = dict(numbers)
    worked: list[tuple[str, int]] = []
    for step, result in zip(story.steps, "pqr", strict=False):
        left, sign, right = tuple(step.partition(": ")[2])
        a, b = known[left], known.get(right) or int(right)
        known[result] = apply(a, sign, b)
        if not 0 < known[result] <= LARGEST or (sign == "/" and a % b):
            return []
        worked.append((f"{a}{sign}{b}", known[result]))
    return worked
