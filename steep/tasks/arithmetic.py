"""Sums, differences and products, thought through as on paper.

| level | problem                          | thought                                                      |
| ----- | -------------------------------- | ------------------------------------------------------------ |
| 1     | one digit + - one digit          | the sum itself: a direct question needs no more              |
| 2     | two digits + - two digits        | columns from the right                                       |
| 3     | three small numbers with + - *   | one step at a time, the rest copied                          |
| 4     | brackets                         | the same                                                     |
| 5     | three or four digits + -         | columns from the right                                       |
| 6     | two digits * one or two digits   | the ones part, the tens part, then their sum in columns      |

A thought is made for a reader that can do one small thing at a time: each column is taken from the last digits of two
numbers that stand right before it, and what is written so far is written again with one digit put in front, so that
the last number of a thought is the answer. Divisions, which other tasks have, are thought through digit by digit too.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from steep.errors import ConfigError
from steep.tasks import replaying
from steep.tasks.generated import Generated, split_of
from steep.types import Demonstration, Message, Problem, Replay, Verdict, correct, wrong

LEVELS = (1, 2, 3, 4, 5, 6)
SHAPES = {  # n: a digit, ?: plus or minus
    1: ("n?n",),
    3: ("n?n?n", "n*n?n", "n?n*n"),
    4: ("(n?n)*n", "n*(n?n)", "n-(n?n)", "(n?n)*(n?n)", "(n?n)-(n?n)", "n?n*(n?n)"),
}
QUESTIONS = ("What is {}?", "How much is {}?", "Calculate {}.", "Work out {}.", "What does {} make?", "{} =", "{}")
WORDS = {"+": "plus", "-": "minus", "*": "times"}

INTEGER = re.compile(r"=?\s*([-+\u2212]?)([0-9]{1,30}|[0-9]{1,3}(?:,[0-9]{3}){1,10})\s*\.?")
NUMBER = re.compile(r"-?\d+")
BINARY = re.compile(r"(\d+)([-+*/])(\d+)")
INNERMOST = re.compile(r"\(([^()]+)\)")
PRODUCT = re.compile(r"((?<!\d)-?\d+)([*/])(-?\d+)")
FIRST_SUM = re.compile(r"(-?\d+)([-+])(-?\d+)")
EQUATION = re.compile(r"(\S+)=(-?\d+)")
STEP = re.compile(r"(?<!\S)(-?\d{1,12}(?:[-+*/]-?\d{1,12}){1,2})=(-?\d{1,24})(?=\D)")
"""A step in writing, of two numbers or two and a carry. One that ends with the text is left out, as in countdown."""


@dataclass(frozen=True, kw_only=True)
class Arithmetic(Generated):
    """Integer arithmetic in six levels. A problem's id is its expression, so wording never decides its split."""

    levels: tuple[int, ...] = LEVELS
    """Which of the levels 1 to 6 to draw from."""
    slips: float = 0.04
    """Chance that a demonstration makes one wrong step, notices it and mends it."""

    def __post_init__(self) -> None:
        if not self.levels or not set(self.levels) <= set(LEVELS):
            raise ConfigError(f"arithmetic has no levels {list(self.levels)}", f"choose from {list(LEVELS)}")

    @property
    def name(self) -> str:
        return "arithmetic"

    def make(self, level: int, rng: Random) -> Problem:
        expression = draw(level, rng)
        return self._problem(level, expression, rng.choice(QUESTIONS).format(in_words(expression, rng)))

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Correct if the answer is the integer and nothing else: "12", "12.", "= 12", "+12" and "1,234" are read."""
        found = INTEGER.fullmatch(answer.strip())
        if found is None:
            return wrong("not an integer")
        value = int(found[2].replace(",", "")) * (1 if found[1] in ("", "+") else -1)
        return correct() if value == problem.key["answer"] else wrong(f"not {value}")

    def demonstrate(self, problem: Problem, rng: Random) -> Demonstration:
        thought = think(problem.key["expression"])
        if rng.random() < self.slips:
            thought = slip(thought, rng)
        return Demonstration(thought=thought, answer=str(problem.key["answer"]))

    def replay(self, thought: str) -> Replay:
        """Work out every equation without brackets again."""
        return replaying.replay(
            [
                replaying.Step(found.span(), found[1], is_true(found[1], int(found[2])))
                for found in STEP.finditer(thought)
            ]
        )

    def phrasings(self, problem: Problem) -> Sequence[str]:
        return [question.format(problem.key["expression"]) for question in QUESTIONS]

    def documents(self, rng: Random) -> str:
        """One equation: a step of the thought of a training problem, or the problem itself.

        The steps cover all sums of two digits and a carry: what is held out of these is the question, not the fact."""
        problem = self.make(rng.choice(self.levels), rng)
        while problem.split != "train":
            problem = self.make(rng.choice(self.levels), rng)
        expression, answer = problem.key["expression"], problem.key["answer"]
        steps = [found[0] for found in EQUATION.finditer(think(expression))]
        return rng.choice([*steps, f"{expression}={answer}"])

    def examples(self) -> Sequence[tuple[Problem, str, Verdict]]:
        total = self._problem(2, "47+85", "What is 47+85?")
        negative = self._problem(3, "2-5*3", "Calculate 2 - 5 * 3.")
        large = self._problem(5, "1234+987", "1234+987 =")
        return [
            (total, "132", correct()),
            (total, " 132.\n", correct()),
            (total, "= 132", correct()),
            (total, "122", wrong("not 122")),
            (total, "131 or 132", wrong("not an integer")),
            (total, "", wrong("not an integer")),
            (negative, "-13", correct()),
            (negative, "13", wrong("not 13")),
            (large, "2,221", correct()),
            (large, "22,21", wrong("not an integer")),
        ]

    def _problem(self, level: int, expression: str, question: str) -> Problem:
        problem_id = f"{self.name}/{expression}"
        return Problem(
            id=problem_id,
            task=self.name,
            split=split_of(problem_id),
            level=level,
            prompt=(Message(role="user", content=question),),
            key={"expression": expression, "answer": solve(expression)[-1].value},
        )


class Step(NamedTuple):
    """One operation of an expression: 3+4*5 begins with Step("4*5", 20, "3+20")."""

    operation: str
    value: int
    rest: str


def solve(expression: str) -> list[Step]:
    """The steps that turn an expression into a number: inner brackets first, then products, then from the left.

    Quotients are rounded down."""
    steps: list[Step] = []
    while not NUMBER.fullmatch(expression):
        inner = INNERMOST.search(expression)
        start, end = inner.span(1) if inner else (0, len(expression))
        found = PRODUCT.search(expression, start, end) or FIRST_SUM.match(expression, start, end)
        assert found is not None, expression
        value = apply(int(found[1]), found[2], int(found[3]))
        if inner and found.span() == inner.span(1):
            start, end = inner.span()
        else:
            start, end = found.span()
        expression = f"{expression[:start]}{value}{expression[end:]}"
        steps.append(Step(found[0], value, expression))
    return steps


def is_true(operation: str, result: int) -> bool:
    """Whether a step as it is written has the right result; nothing is that of a division by 0."""
    try:
        return solve(operation)[-1].value == result
    except ZeroDivisionError:
        return False


def apply(a: int, operator: str, b: int) -> int:
    if operator == "/":
        return a // b
    return a + b if operator == "+" else a - b if operator == "-" else a * b


def draw(level: int, rng: Random) -> str:
    """A random expression of a level."""
    if level == 2:
        return f"{digits(2, rng)}{rng.choice('+-')}{digits(2, rng)}"
    if level == 5:
        a, b = digits(rng.choice((3, 4)), rng), digits(rng.choice((3, 4)), rng)
        return f"{a}+{b}" if rng.random() < 0.5 else f"{max(a, b)}-{min(a, b)}"
    if level == 6:
        return f"{digits(2, rng)}*{rng.randint(2, 9) if rng.random() < 0.5 else digits(2, rng)}"
    least = 0 if level == 1 else 1
    while True:
        shape = re.sub("n", lambda _: str(rng.randint(least, 9)), rng.choice(SHAPES[level]))
        expression = re.sub(r"\?", lambda _: rng.choice("+-"), shape)
        if level != 4 or all_small(expression):
            return expression


def digits(count: int, rng: Random) -> int:
    return rng.randrange(10 ** (count - 1), 10**count)


def all_small(expression: str) -> bool:
    """No factor above 10, and nothing below 0 before the last step: every step can be done in the head."""
    steps = solve(expression)
    factors = [int(n) for step in steps if "*" in step.operation for n in step.operation.split("*")]
    return max(factors, default=0) <= 10 and all(step.value >= 0 for step in steps[:-1])


def in_words(expression: str, rng: Random) -> str:
    """The expression as someone might write it: 3+4, 3 + 4, or 3 plus 4."""
    style = rng.choice(("tight", "spaced", "words"))
    if style == "tight":
        return expression
    words = WORDS if style == "words" and "(" not in expression else {}
    return re.sub(r"[-+*]", lambda sign: f" {words.get(sign[0], sign[0])} ", expression)


def think(expression: str) -> str:
    """The thought that leads to the value of an expression, without slips."""
    plain = BINARY.fullmatch(expression)
    if plain is None or max(int(plain[1]), int(plain[3])) < 10:
        return in_steps(expression)
    a, operator, b = int(plain[1]), plain[2], int(plain[3])
    if operator == "/":
        return in_division(a, b)
    if operator == "*":
        a, b = (b, a) if a < 10 or b > 99 else (a, b)
        return in_parts(a, b) if b < 100 else in_steps(expression)
    if operator == "-" and a < b:
        return f"{a}<{b} so {in_columns(b, '-', a)} so {a - b}"
    return in_columns(a, operator, b)


def in_steps(expression: str) -> str:
    """(3+4)*(9-2): "3+4=7 so 7*(9-2); 9-2=7 so 7*7=49"."""
    thought, rest = "", ""
    for step in solve(expression):
        if step.operation != rest:
            thought += f"; {step.operation}" if thought else step.operation
        thought += f"={step.value}"
        rest = step.rest
        if rest != str(step.value):
            thought += f" so {rest}"
    return thought


def in_columns(a: int, operator: str, b: int) -> str:
    """473+85: "473+85: 3+5=8 write 8; 47+8: 7+8=15 write 58 carry 1; 4+0+1=5 write 558". A difference needs a >= b."""
    columns: list[str] = []
    result, written, carry = apply(a, operator, b), "", 0
    while True:
        last = max(a, b) < 10
        x, y = a % 10, b % 10
        if operator == "-" and x < y + carry:
            x += 10
        operation = f"{x}{operator}{y}" + (f"{operator}1" if carry else "")
        value = apply(apply(x, operator, y), operator, carry)
        written = f"{value if last else value % 10}{written}"
        carry = int(max(x, value) > 9)  # the sum ran over ten, or ten was borrowed
        head = "" if last and columns else f"{a}{operator}{b}: "
        tail = "" if last or not carry else " carry 1" if operator == "+" else " borrow 1"
        columns.append(f"{head}{operation}={value} write {written}{tail}")
        if last:
            break
        a, b = a // 10, b // 10
    zeros = f" so {result}" if written != str(result) else ""
    return "; ".join(columns) + zeros


def in_parts(a: int, b: int) -> str:
    """47*85: the plan "47*5+47*80", then the two products, then their sum in columns."""
    ones, tens = b % 10, b // 10 * 10
    if not ones or not tens:
        return times_one_digit(a, b)
    plan, total = f"{a}*{ones}+{a}*{tens}", in_columns(a * ones, "+", a * tens)
    return "; ".join((plan, times_one_digit(a, ones), times_one_digit(a, tens), total))


def times_one_digit(a: int, part: int) -> str:
    """47*80: "47*80: write 0; 7*8=56 write 60 carry 5; 4*8=32 so 32+5=37 write 3760"."""
    digit, zero = (part, "") if part < 10 else (part // 10, "0")
    low, high = a % 10 * digit, a // 10 * digit
    carry = low // 10
    head = f"{a}*{part}: " + (f"write {zero}; " if zero else "")
    first = f"{a % 10}*{digit}={low} write {low % 10}{zero}" + (f" carry {carry}" if carry else "")
    second = f"{a // 10}*{digit}={high}" + (f" so {high}+{carry}={high + carry}" if carry else "")
    return f"{head}{first}; {second} write {a * part}"


def in_division(a: int, b: int) -> str:
    """84/6: "84/6: 8/6=1 rest 2 write 1; 24/6=4 write 14". A large divisor: "13*7=91 so 91/13=7"."""
    if b > 12:
        return f"{b}*{a // b}={a} so {a}/{b}={a // b}"
    if a < 10 * b:
        return f"{a}/{b}={a // b}"
    steps: list[str] = []
    written, rest = "", 0
    for digit in str(a):
        part = 10 * rest + int(digit)
        quotient, rest = divmod(part, b)
        if quotient or written:
            written += str(quotient)
            left = f" rest {rest}" if rest else ""
            steps.append(f"{part}/{b}={quotient}{left} write {written}")
    return f"{a}/{b}: {'; '.join(steps)}"


def slip(thought: str, rng: Random) -> str:
    """The thought with one equation wrong at first: "7+8=14 no wait 7+8=15"."""
    found = rng.choice(list(EQUATION.finditer(thought)))
    mistake = int(found[2]) + rng.choice((-2, -1, 1, 2))
    return f"{thought[: found.start()]}{found[1]}={mistake} no wait {thought[found.start() :]}"
