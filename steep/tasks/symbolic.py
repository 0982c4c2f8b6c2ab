"""Whether two mathematical expressions are equal, by math-verify and sympy. Only workers import this file.

It may take for ever or all memory (`9**9**9**9`), so it is called through the sandbox. math-verify's own timeouts are
off: they are signals, which only a main thread can take.
"""

import logging
import re
from functools import cache
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

logging.getLogger("math_verify").setLevel(logging.ERROR)

KEYBOARD = {  # what models write with a keyboard, as LaTeX; longer names first
    r"\*\*": "^",
    r"\*": r"\\cdot ",
    r"(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)": r"\\sqrt{\1}",
    r"√\s*\(([^()]*)\)": r"\\sqrt{\1}",
    r"√\s*(\w+)": r"\\sqrt{\1}",
    r"(?<![\\a-zA-Z])(?:infinity|inf|oo)(?![a-zA-Z])|∞": r"\\infty ",
    r"(?<![\\a-zA-Z])pi(?![a-zA-Z])|π": r"\\pi ",
    r"\^\(([^()]*)\)": r"^{\1}",
    r"\^(-?\d+)": r"^{\1}",
    r"(?<!\\)%|(?<=\d)\s*percent\b": r"\\%",
    r"(?<=\d)\s*degrees?\b|°": r"^{\\circ}",
    "≤|<=": r"\\le ",
    "≥|>=": r"\\ge ",
    "∪": r"\\cup ",
    "−": "-",
    "×": r"\\times ",
}
DELIMITERS = re.compile(r"\$|\\\(|\\\[|\\boxed")
DOLLAR = re.compile(r"\\\$")


@cache
def warm() -> None:
    """Have the libraries do what they put off until they are first used, so that no check is timed with it."""
    same("x+1", "1+x")


def same(gold: str, given: str) -> bool | None:
    """Whether the given expression is what the gold one is; None if it cannot be read."""
    expected = read(gold)
    if not expected:
        raise ValueError(f"the gold answer {gold!r} cannot be read")
    found = read(given)
    if not found:
        return None
    return bool(verify(expected, found, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True))


def read(text: str) -> list[Any]:
    """What math-verify makes of an expression, or of the expressions in a sentence."""
    text = DOLLAR.sub("", text)
    if not DELIMITERS.search(text):
        for pattern, latex in KEYBOARD.items():
            text = re.sub(pattern, latex, text)
        text = f"${text}$"
    found: list[Any] = parse(text, [LatexExtractionConfig()], parsing_timeout=None)
    return found
