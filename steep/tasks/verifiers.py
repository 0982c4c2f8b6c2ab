"""Named checks of an answer against a gold one: `exact`, `number`, `math`, `choice` and `regex`.

| name     | right is                                                                                        |
| -------- | ----------------------------------------------------------------------------------------------- |
| `exact`  | the same text; case, runs of white space and a full stop at the end do not count                |
| `number` | a text of which the last number is the gold one, exactly; units, money and % are left out       |
| `math`   | an expression that is equal to the gold one; units and "x =" may be left out                    |
| `choice` | the letter of the gold option: B, (b), "B.", "B) 12 apples", "B is correct", "the answer is B"  |
| `regex`  | a text that the gold pattern matches as a whole                                                 |

`math` compares numbers exactly, takes six right decimals of what is no fraction, such as a root, and compares no units,
but the bases of numbers that both have one, as in 4343_6.
Where an answer has a `\\boxed{}`, "####" or "the answer is", what stands there counts (`stated`), the last if there are
several. A gold answer that cannot be read, and a check that fails or takes too long, are `invalid`, never wrong.
"""

import re
from collections.abc import Callable, Mapping
from fractions import Fraction

from steep.sandbox import CheckError, shared
from steep.tasks.numerals import last_number, rational
from steep.types import Matcher, Problem, Task, Verdict, correct, invalid, wrong

LONGEST = 1000
"""Characters of an answer that `math` reads: what is longer is no answer but a thought."""
LIMIT_S = 2.0
"""Of a check in the sandbox."""

SAID = re.compile(r"####|\banswer\s*(?:is\s*:?|:|=)", re.IGNORECASE)
DOLLARS = re.compile(r"\$([^$]*)\$|\\\(((?:(?!\\\)).)*)\\\)|\\\[((?:(?!\\\]).)*)\\\]", re.DOTALL)
BASE = re.compile(r"\b\d[\dA-F]*\)?_\{?(\d+)\}?$", re.ASCII)
CHOSEN = re.compile(r"\b[CcRrBb](?:orrect|ight|est)\s+(?:option|choice)\s+is:?\s+(?=[(\[*]*[A-Z][)\]*]*(?:$|[\s.,:;]))")
LABEL = r"[(\[*]*([A-Za-z])[)\]*]*"
IS_RIGHT = r"\s+is\s+(?:the\s+)?(?:correct|right|best)(?:\s+(?:answer|option|choice|one))?[.!]?\s*(?:$|\n|because\b)"
FIRST_CHOICE = re.compile(rf"{LABEL}(?:$|\s*\n|[.:)](?:\s|$)|,?\s+(?:because|since|as)\b|{IS_RIGHT})", re.IGNORECASE)
INNER_CHOICE = re.compile(r"(?<!\b[a-z])\(([A-Z])\)|\*\*([A-Z])\*\*|\b(?:option|choice)\s+\(?([A-Z])\b", re.IGNORECASE)
"""But for f(x)."""
LINE = re.compile(r"^\W*([A-Z])\W*$", re.IGNORECASE | re.MULTILINE)
HEDGED = re.compile(r"\b(?:n?or|neither|either|and|maybe|not|option|choice)\W*$", re.IGNORECASE)


def exact(gold: str, answer: str) -> Verdict:
    return correct() if _folded(answer) == _folded(gold) else wrong("not the gold answer")


def number(gold: str, answer: str) -> Verdict:
    """12, "12.0", "$12", "12%", "12 apples", "24/2", "1.2e1" and "3 * 4 = 12" are all 12. 0.5 and 50% differ."""
    expected, found = last_number(stated(gold)), last_number(stated(answer))
    if expected is None:
        return invalid(f"the gold answer {gold!r} is not a number")
    if found is None:
        return wrong("no number")
    return correct() if found == expected else wrong(f"not {_shown(found)}")


def math(gold: str, answer: str) -> Verdict:
    """Numbers and equal texts are compared here, all else in the sandbox."""
    expected, found = stated(gold), stated(answer)
    if not found or len(found) > LONGEST:
        return wrong("longer than an answer is" if found else "no answer")
    if _folded(expected) == _folded(found):
        return correct()
    bases = {base[1] for base in map(BASE.search, (expected, found)) if base}
    if len(bases) > 1:
        return wrong("in another base")
    numbers = rational(expected), rational(found)
    if None not in numbers:
        return correct() if numbers[0] == numbers[1] else wrong(f"not {found}")
    try:
        prepare = ("steep.tasks.symbolic:warm",)
        same = shared().call("steep.tasks.symbolic:same", expected, found, limit_s=LIMIT_S, prepare=prepare)
    except CheckError as error:
        return invalid(f"math: {error}")
    if same is None:
        return wrong("no mathematical expression")
    return correct() if same else wrong("not equal")


def choice(gold: str, answer: str) -> Verdict:
    expected, found = chosen(gold), chosen(answer)
    if expected is None:
        return invalid(f"the gold answer {gold!r} is not a letter")
    if found is None:
        return wrong("no option, or several")
    return correct() if found == expected else wrong(f"not {found}")


def regex(gold: str, answer: str) -> Verdict:
    """The pattern is matched in the sandbox, for a pattern can take for ever. White space around the answer is cut."""
    try:
        found = shared().call("steep.tasks.patterns:matches", gold, answer.strip(), limit_s=LIMIT_S)
    except CheckError as error:
        return invalid(f"regex: {error}")
    return correct() if found else wrong("does not match")


VERIFIERS: Mapping[str, Callable[[str, str], Verdict]] = {
    "exact": exact,
    "number": number,
    "math": math,
    "choice": choice,
    "regex": regex,
}


def sameness(task: Task) -> Callable[[Problem, str, str], bool]:
    """Whether two answers to a problem say the same: the task's own measure, or all but case, space and a full stop."""
    if isinstance(task, Matcher):
        return task.same
    return lambda problem, answer, other: exact(answer, other).kind == "correct"


def stated(answer: str) -> str:
    """The part of a text that says the answer, without what only sets it off: dollars, a box, a full stop."""
    boxes = boxed(answer)
    if boxes:
        return bare(boxes[-1])
    return bare(SAID.split(answer)[-1])


def boxed(text: str) -> list[str]:
    """What stands in each \\boxed{} of the text; a box that never ends is none."""
    contents = []
    for box in re.finditer(r"\\f?boxed\s*\{", text):
        depth = 1
        for at in range(box.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0:
                contents.append(text[box.end() : at])
                break
    return contents


def bare(text: str) -> str:
    text = text.strip().strip("*").strip()
    text = text.removesuffix(".").rstrip() if not text.endswith("..") else text
    whole = DOLLARS.fullmatch(text)
    return next(part for part in whole.groups() if part is not None).strip() if whole else text


def chosen(answer: str) -> str | None:
    """The letter of the option that an answer names; None if it names none or several."""
    text = bare(re.sub(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r"\1", stated(answer)))
    text = bare(CHOSEN.split(text)[-1])
    first = FIRST_CHOICE.match(text)
    letters = {letter.upper() for letter in (first[1], *LINE.findall(text))} if first else set()
    for found in INNER_CHOICE.finditer(text):
        letter = found[found.lastindex or 0]
        mere = first is not None and first[1].isupper() and letter.islower()  # in "B) mass (g)" only B is an option
        if not mere or HEDGED.search(text[: found.start(found.lastindex or 0)]):
            letters.add(letter.upper())
    return letters.pop() if len(letters) == 1 else None


def _folded(text: str) -> str:
    folded = " ".join(text.split()).casefold()
    return folded.removesuffix(".") or folded


def _shown(value: Fraction) -> str:
    return str(value) if value.denominator < 10**6 else f"{float(value):g}"
