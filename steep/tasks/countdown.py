"""Countdown: use every number once, with + - * /, to make the target.

Easy to check and, from four numbers on, hard to find: the task on which thinking time is worth most. A thought combines
numbers until three are left, then two of these, every operation on one pair after the other, and tries the last number
on what they make: adding and multiplying below the target, subtracting and dividing above it. Each result is compared
with the target in writing (a model that must not write the comparison out claims success at random):

    5+3=8 8+8=16<24 8*8=64>24
    5-3=2 8+2=10<24 8*2=16<24
    5*3=15 15+8=23<24 15*8=120>24
    8+5=13 13+3=16<24 13*3=39>24
    8-5=3 8+3=11<24 8*3=24=24

Some demonstrations with three numbers check every result by the inverse operation ("8-5=3(3+5=8)"), which costs twice
the tokens and is seldom worth them; some slip, notice it and mend it ("8*3=26 no 8*3=24"). None tries the same twice,
and all go on until they have found a solution, however long that takes. The operations on a pair keep one order, so
that the last line says what comes next: a model that learns it in any order leaves some out and walks others again.
What is worth its tokens, and which pair to combine first, is for RL to learn.

With more than three numbers the pairs keep an order too; most dead ends are passed over, for a teacher knows how it
ends; and what was found is put together at last, one result at a time:

    so 6+1=7 8*1=8 8*7 (8*1)*7 (8*1)*(6+1)
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from random import Random

from steep.errors import ConfigError
from steep.tasks import replaying
from steep.tasks.generated import Generated, split_of
from steep.types import Demonstration, Message, Problem, Replay, Verdict, correct, wrong

SLIP = 1 / 6
"""How likely a result is wrong in a demonstration that slips."""
INVERSE = {"+": "-", "-": "+", "*": "/", "/": "*"}

LARGEST = 999  # no step of a demonstration goes above it

STEP = re.compile(r"(?<![\d+*/-])((\d+)([-+*/])(\d+))=(\d+)(?=\D)")
"""A step in writing. One that ends with the text is left out: a budget may have cut its last number."""

RARE = 30  # walks in a row to where others have led, after which hardly any new ones are left

PHRASINGS = (
    "Use {numbers} to make {target}.",
    "Make {target} from {numbers}.",
    "Can you make {target} with {numbers}?",
    "The numbers are {numbers}. The target is {target}.",
    "With {numbers}, how do you get {target}?",
    "Get {target} from the numbers {numbers}.",
)


@dataclass(frozen=True, kw_only=True)
class Level:
    count: int
    """How many numbers."""
    largest: int
    """They are drawn from 1 to this."""
    low: int
    high: int
    """The target lies between these, both included."""


LEVELS = {
    1: Level(count=3, largest=15, low=10, high=99),
    2: Level(count=3, largest=50, low=10, high=200),
    3: Level(count=4, largest=10, low=10, high=99),
    4: Level(count=4, largest=25, low=50, high=200),
    5: Level(count=5, largest=25, low=50, high=500),
    6: Level(count=6, largest=50, low=100, high=999),
}


@dataclass(frozen=True)
class Operand:
    """A number at hand and the expression it came from."""

    value: int
    text: str

    @property
    def as_part(self) -> str:
        return self.text if self.text.isdigit() else f"({self.text})"


@dataclass(frozen=True)
class Step:
    """One operation on two operands, the larger first."""

    left: Operand
    sign: str
    right: Operand
    value: int

    def __str__(self) -> str:
        return f"{self.left.value}{self.sign}{self.right.value}={self.value}"

    @property
    def check(self) -> str:
        """The step undone; nothing undoes a product with 0."""
        undone = not (self.sign == "*" and self.right.value == 0)
        return f"{self.value}{INVERSE[self.sign]}{self.right.value}={self.left.value}" if undone else "0"

    @property
    def result(self) -> Operand:
        return Operand(self.value, f"{self.left.as_part}{self.sign}{self.right.as_part}")


@dataclass(frozen=True, kw_only=True)
class Countdown(Generated):
    """Use every number once, with + - * /, to make a target."""

    levels: tuple[int, ...] = (1,)
    """1 and 2: three numbers; 3 and 4: four; 5: five; 6: six. Larger numbers and targets within a pair."""
    careful: float = 0.5
    """Share of demonstrations with three numbers that check every result; longer ones would take twice as long."""
    slips: float = 0.1
    """Share of demonstrations in which results are wrong now and then, which is noticed and mended."""
    foresight: float = 0.85
    """With more than three numbers, the share of dead ends that are passed over: a teacher knows how it ends."""
    max_paths: int = 40
    """A demonstration gives up after so many ways to come down to three numbers, with its thought unfinished."""

    def __post_init__(self) -> None:
        if not self.levels or not set(self.levels) <= set(LEVELS):
            raise ConfigError(f"countdown has no levels {list(self.levels)}", f"choose from {list(LEVELS)}")

    @property
    def name(self) -> str:
        return "countdown"

    def make(self, level: int, rng: Random) -> Problem:
        shape = LEVELS[level]
        while True:
            numbers = [rng.randint(1, shape.largest) for _ in range(shape.count)]
            pool = [Operand(n, str(n)) for n in numbers]
            while len(pool) > 1:
                pool = combine(pool, random_step(pool, rng))
            target = pool[0].value
            if shape.low <= target <= shape.high:
                break
        return self._asked(numbers, target, level, rng)

    def _asked(self, numbers: Sequence[int], target: int, level: int, rng: Random) -> Problem:
        identity = f"countdown/{' '.join(map(str, sorted(numbers)))}={target}"
        text = rng.choice(phrased(numbers, target))
        return Problem(
            id=identity,
            task=self.name,
            split=split_of(identity),
            level=level,
            prompt=(Message(role="user", content=text),),
            key={"numbers": numbers, "target": target},
        )

    def phrasings(self, problem: Problem) -> Sequence[str]:
        return phrased(problem.key["numbers"], problem.key["target"])

    def canaries(self) -> Sequence[Problem]:
        """Three numbers up to 3 make 27 at most."""
        rng = Random("countdown/canaries")
        return [self._asked([rng.randint(1, 3) for _ in range(3)], rng.randint(28, 99), 1, rng) for _ in range(8)]

    def verify(self, problem: Problem, answer: str) -> Verdict:
        target, numbers = problem.key["target"], sorted(problem.key["numbers"])
        expression, _, claimed = answer.strip().rstrip(".").partition("=")
        if claimed and claimed.strip() != str(target):
            return wrong(f"says {claimed.strip()[:20]} where the target is {target}")
        try:
            value, used = evaluate(expression)
        except ValueError as error:
            return wrong(str(error))
        if sorted(used) != numbers:
            return wrong(f"uses {sorted(used)} where the numbers are {numbers}")
        if value != target:
            return wrong(f"makes {value} where the target is {target}")
        return correct()

    def same(self, problem: Problem, answer: str, other: str) -> bool:
        """Whether both make the same of the same numbers, as (8-3)*5 and 5*(8-3) do, whatever the target is."""
        return made(answer) == made(other) is not None

    def demonstrate(self, problem: Problem, rng: Random) -> Demonstration:
        target = problem.key["target"]
        slipping = rng.random() < self.slips
        start = [Operand(n, str(n)) for n in problem.key["numbers"]]
        long = len(start) > 3
        careful = rng.random() < self.careful and not long

        def write(step: Step) -> str:
            if not slipping or rng.random() >= SLIP:
                return f"{step}({step.check})" if careful else str(step)
            false = step.value + rng.choice([by for by in (-10, -2, -1, 1, 2, 10) if step.value + by >= 0])
            return f"{step.left.value}{step.sign}{step.right.value}={false} no {step}"

        lines: list[str] = []
        ways = (w for w in paths(start, rng) if not long or rng.random() >= self.foresight or can_make(target, w[1]))
        for path, left in islice(ways, self.max_paths):
            if long:
                lines.append(f"{' '.join(map(write, path))} left {' '.join(str(o.value) for o in left)}")
            for pair, last in each_last(left, range(3) if long else rng.sample(range(3), 3)):
                for step in operations(*pair):
                    lines.append(write(step))
                    for end in promising(target, step.result, last):
                        lines[-1] += f" {write(end)}{relation(end.value, target)}{target}"
                        if end.value == target:
                            if long:
                                lines.append(put_together([*path, step, end]))
                            return Demonstration(thought="\n".join(lines), answer=end.result.text)
        return Demonstration(thought="\n".join(lines), answer="")

    def replay(self, thought: str) -> Replay:
        """Work out every step `a op b = c` of a thought again; comparisons with the target are not looked at."""
        return replaying.replay(
            [
                replaying.Step(found.span(), found[1], is_true(*found.group(2, 3, 4, 5)))
                for found in STEP.finditer(thought)
            ]
        )

    def documents(self, rng: Random) -> str:
        """A line of steps and comparisons, as they occur in thoughts."""
        parts = []
        for _ in range(6):
            step = random_step([Operand(rng.randint(1, rng.choice((15, 50, 99))), "") for _ in range(2)], rng)
            near = max(step.value + rng.randint(-9, 9), 0)
            other = rng.choice((rng.randint(10, 99), rng.randint(1, LARGEST), step.value, near))
            parts.append(f"{step}{relation(step.value, other)}{other}" if rng.random() < 0.7 else str(step))
        return " ".join(parts)

    def examples(self) -> Sequence[tuple[Problem, str, Verdict]]:
        problem = Problem(
            id="countdown/3 5 8=25",
            task=self.name,
            split="train",
            level=1,
            prompt=(Message(role="user", content="Use 3, 5 and 8 to make 25."),),
            key={"numbers": [3, 5, 8], "target": 25},
        )
        good = ("(8-3)*5", "5*(8-3)", " ( 8 - 3 ) * 5 = 25. ", "(8−3)×5")
        bad = ("", "25", "8*3+5", "(8-3)*5*1", "(8-3)*5=24", "5*5", "(8-3)**5", "8-3)*5", "(8-3)*5;x()", "5/(8-8)")
        return [(problem, a, correct()) for a in good] + [(problem, a, wrong("")) for a in bad]


def phrased(numbers: Sequence[int], target: int) -> list[str]:
    listed = ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"
    return [phrasing.format(numbers=listed, target=target) for phrasing in PHRASINGS]


def operations(a: Operand, b: Operand) -> list[Step]:
    """What can be done with two numbers: results are whole, not negative, and at most LARGEST."""
    if a.value < b.value:
        a, b = b, a
    steps = [Step(a, "+", b, a.value + b.value), Step(a, "-", b, a.value - b.value), Step(a, "*", b, a.value * b.value)]
    if b.value > 1 and a.value % b.value == 0:
        steps.append(Step(a, "/", b, a.value // b.value))
    return [s for s in steps if s.value <= LARGEST]


def promising(target: int, made: Operand, last: Operand) -> list[Step]:
    """The operations that do not lead away from the target."""
    steps = operations(made, last)
    return [s for s in steps if (s.left.value <= target if s.sign in "+*" else s.left.value >= target)]


def relation(left: int, right: int) -> str:
    return "<" if left < right else ">" if left > right else "="


def is_true(left: str, sign: str, right: str, result: str) -> bool:
    """Whether a step as it is written has the right result."""
    a, b, c = int(left), int(right), int(result)
    return {"+": a + b == c, "-": a - b == c, "*": a * b == c, "/": b != 0 and a == b * c}[sign]


def random_step(pool: Sequence[Operand], rng: Random) -> Step:
    while True:
        steps = operations(*rng.sample(pool, 2))
        if steps:
            return rng.choice(steps)


def combine(pool: Sequence[Operand], step: Step) -> list[Operand]:
    """The numbers at hand after a step: its operands are spent, its result is new."""
    rest = list(pool)
    for spent in (step.left, step.right):
        rest.remove(spent)
    return [*rest, step.result]


def paths(pool: Sequence[Operand], rng: Random) -> Iterator[tuple[list[Step], list[Operand]]]:
    """Steps at random and the three numbers that they leave, different ones each time until new ones are rare."""
    reached = set()
    repeats = 0
    while repeats < RARE:
        path: list[Step] = []
        left = list(pool)
        while len(left) > 3:
            path.append(random_step(left, rng))
            left = combine(left, path[-1])
        numbers = tuple(sorted(o.value for o in left))
        repeats = repeats + 1 if numbers in reached else 0
        if not repeats:
            reached.add(numbers)
            yield path, left


def each_last(three: Sequence[Operand], order: Sequence[int]) -> Iterator[tuple[list[Operand], Operand]]:
    """Each of three numbers once as the last, with the other two."""
    lasts = {three[at].value: at for at in order}  # of equal ones, one is enough
    for at in lasts.values():
        yield [three[other] for other in range(3) if other != at], three[at]


def can_make(target: int, three: Sequence[Operand]) -> bool:
    return any(
        end.value == target
        for pair, last in each_last(three, range(3))
        for step in operations(*pair)
        for end in promising(target, step.result, last)
    )


def put_together(steps: Sequence[Step]) -> str:
    """The steps that made the target, and their results replaced one after the other by what made them."""
    *made, end = steps
    makers = {step.result: step for step in made}

    def text(step: Step, opened: Sequence[Step]) -> str:
        left, right = (
            f"({text(makers[operand], opened)})" if makers.get(operand) in opened else str(operand.value)
            for operand in (step.left, step.right)
        )
        return f"{left}{step.sign}{right}"

    return " ".join(["so", *map(str, made), *(text(end, made[at:]) for at in range(len(made), -1, -1))])


@lru_cache(4096)
def made(answer: str) -> tuple[Fraction, list[int]] | None:
    """What an answer makes, and of which numbers; None if it cannot be read, or claims that it makes something else."""
    expression, _, claimed = answer.strip().rstrip(".").partition("=")
    try:
        value, used = evaluate(expression)
    except ValueError:
        return None
    return None if claimed.strip() not in ("", str(value)) else (value, sorted(used))


def evaluate(expression: str) -> tuple[Fraction, list[int]]:
    """Exact value of an expression over whole numbers, and the numbers it uses. A ValueError says what is wrong."""
    tokens = list(_tokens(expression))
    used: list[int] = []
    at = 0

    def take() -> str:
        nonlocal at
        at += 1
        return tokens[at - 1] if at <= len(tokens) else ""

    def peek() -> str:
        return tokens[at] if at < len(tokens) else ""

    def factor(depth: int) -> Fraction:
        token = take()
        if token.isdigit():
            used.append(int(token))
            return Fraction(int(token))
        if token == "(" and depth < 50:
            value = total(depth + 1)
            if take() != ")":
                raise ValueError("a bracket is not closed")
            return value
        raise ValueError(f"a number is missing before {token!r}" if token else "the expression ends too early")

    def product(depth: int) -> Fraction:
        value = factor(depth)
        while peek() in ("*", "/"):
            sign, right = take(), factor(depth)
            if sign == "/" and right == 0:
                raise ValueError("divides by zero")
            value = value * right if sign == "*" else value / right
        return value

    def total(depth: int) -> Fraction:
        value = product(depth)
        while peek() in ("+", "-"):
            value = value + product(depth) if take() == "+" else value - product(depth)
        return value

    value = total(0)
    if peek():
        raise ValueError(f"{peek()!r} is out of place")
    return value, used


def _tokens(expression: str) -> Iterator[str]:
    text = expression.replace("×", "*").replace("÷", "/").replace("−", "-")
    at = 0
    while at < len(text):
        start = at
        if text[at].isspace():
            at += 1
            continue
        while at < len(text) and text[at] in "0123456789" and at - start < 9:
            at += 1
        if at == start:
            if text[at] not in "+-*/()":
                raise ValueError(f"{text[at]!r} has no place in an expression")
            at += 1
        yield text[start:at]
