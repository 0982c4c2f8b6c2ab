"""Numbers as people and models write them, read exactly: no float, no evaluation, the same time whatever is written.

72   -1,234.50   .5   3/4   1 1/2   3e5   3 x 10^5   \\frac{3}{4}   1\\frac12   1{,}234
"""

import re
from fractions import Fraction

LONGEST = 400
"""Characters of a number that is read."""
LARGEST_EXPONENT = 400
TAIL = 2000
"""Characters at the end of a text in which a number is looked for."""

SPACING = re.compile(r"\\[,;:!]|\\left\b|\\right\b")
THOUSANDS = re.compile(r"(?<=\d)\{,\}(?=\d{3})", re.ASCII)
MONEY = re.compile(r"(?:\b[A-Z]{1,3})?\\?[$€£¥]")
"""With its country: US$18."""
PART = r"(?:\{\s*(-?[\d.]+)\s*\}|(\d))"
FRACTION = re.compile(rf"\\[dtc]?frac\s*{PART}\s*{PART}", re.ASCII)
POWER_OF_TEN = re.compile(
    r"\s*(?:\\times|\\cdot|[×·*x])\s*10\s*(?:\^|\*\*)\s*(?:\{\s*([-+]?\d+)\s*\}|([-+]?\d+))", re.ASCII
)

DECIMAL = r"(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:(?P<whole>\d+)\s+)?(?P<top>{DECIMAL})(?:\s*/\s*(?P<below>-?{DECIMAL}))?", re.ASCII
)
POWER = re.compile(
    r"(?<![\d.,])\d[\d.,]*\s*(?:"
    r"\^\s*(?!\{?(?:o|st|nd|rd|th)\b)(?:\{[^{}\\]*\}|\([^()]*\)|[-+]?\w+)"  # 90^o, 90^{\circ}, 21^{st} are none
    r"|\*\*\s*[-+]?\d[\d.]*|[²³¹⁰⁴-⁹]+)",  # nor is **5** eggs
    re.ASCII,
)
IN_TEXT = re.compile(
    r"(?:(?<![\w)\]}^])[-+])?"  # a sign, but no minus between two numbers
    r"(?<![\w.,^])(?<!\^[-{])"  # no exponent, and no part of a word such as CO2
    r"(?:\d+\s+\d+/\d+|[\d.,]*\d(?:[eE][-+]?\d+)?(?:\s*/\s*-?[\d.,]*\d)?)",
    re.ASCII,
)


def rational(text: str) -> Fraction | None:
    """The number that the text is; None if it is not one, or one too large to be meant."""
    text = plain(text)
    found = NUMBER.fullmatch(text.strip().removesuffix("."))
    if found is None or len(text) > LONGEST:
        return None
    whole, top, below = (None if part is None else decimal(part) for part in found.group("whole", "top", "below"))
    if top is None or below == 0 or (found["below"] and below is None):
        return None
    size = top / (below or 1)
    if found["whole"]:  # 1 1/2, but not 1 2 or 1 3/2
        if whole is None or below is None or not 0 < size < 1:
            return None
        size += whole
    return -size if found["sign"] == "-" else size


def last_number(text: str) -> Fraction | None:
    """The number that the text is, or else the last one in it that is no power's base or exponent.

    None if what stands there cannot be read, as in 3,5.
    """
    text = text.strip()[-TAIL:]
    found = rational(text)
    if found is not None:
        return found
    written = [match[0] for match in IN_TEXT.finditer(POWER.sub("", plain(text)))]
    return rational(written[-1]) if written else None


def plain(text: str) -> str:
    """LaTeX fractions, powers of ten and separators, and signs of money, written with a keyboard's characters."""
    text = SPACING.sub("", THOUSANDS.sub(",", text.replace("\N{MINUS SIGN}", "-"))).replace(r"\ ", " ")
    text = FRACTION.sub(lambda f: f" {f[1] or f[2]}/{f[3] or f[4]}", MONEY.sub("", text))
    return POWER_OF_TEN.sub(lambda f: f"e{f[1] or f[2]}", text).strip()


def decimal(text: str) -> Fraction | None:
    digits, _, exponent = text.replace(",", "").lower().partition("e")
    if abs(int(exponent or 0)) > LARGEST_EXPONENT:
        return None
    return Fraction(digits + "0" if digits.endswith(".") else digits) * Fraction(10) ** int(exponent or 0)
