"""Named checks: what each of them takes for the gold answer, and what it does when it cannot tell."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steep.tasks.verifiers import LIMIT_S, VERIFIERS, boxed, choice, exact, math, number, regex, stated
from tests.tasks.math_pairs import PAIRS

ENOUGH = 0.97
OVERHEAD_S = 5.0
"""To start another worker, on a machine that is busy with other things."""


@pytest.mark.slow
def test_math_agrees_with_a_mathematician():
    misses, seconds = [], []
    math("x", "y")  # the first check waits for a worker
    for gold, answer, expected in PAIRS:
        began = time.monotonic()
        verdict = math(gold, answer)
        seconds.append(time.monotonic() - began)
        if verdict.kind not in expected.split("|"):
            misses.append(f"{gold!r} and {answer!r}: {verdict.kind}, not {expected}; {verdict.reason}")
    share = 1 - len(misses) / len(PAIRS)
    print(f"{share:.1%} of {len(PAIRS)} pairs; misses:", *misses, sep="\n  ")
    assert len(PAIRS) >= 200
    assert share >= ENOUGH
    assert max(seconds) < 2 * LIMIT_S + OVERHEAD_S  # twice: what had no processor to itself is tried once more


def test_what_cannot_be_worked_out_is_invalid_and_not_wrong():
    verdict = math("5", "2^{2^{2^{100}}}")
    assert verdict.kind == "invalid"
    assert verdict.reason.startswith("math: it took more than 2 s")


def test_a_gold_answer_that_cannot_be_read_is_invalid():
    assert math("", "1").kind == "invalid"
    assert number("twelve", "12").kind == "invalid"
    assert choice("maybe", "B").kind == "invalid"
    assert regex("(", "x").kind == "invalid"


@pytest.mark.parametrize(
    ("gold", "answer", "kind"),
    [
        ("72", "72", "correct"),
        ("72", "$72.00", "correct"),
        ("72", "about 72 apples.", "correct"),
        ("72", "48 + 24 = 72", "correct"),
        ("72", "27", "wrong"),
        ("72", "", "wrong"),
        ("72", "seventy-two", "wrong"),
        ("#### 72", "So 48+24 = <<48+24=72>>72.\n#### 72", "correct"),
        ("1234.5", "$1,234.50", "correct"),
        ("1000", "1{,}000", "correct"),
        ("1000", "10,00", "wrong"),
        ("50", "50%", "correct"),
        ("0.5", "50%", "wrong"),
        ("0.75", "3/4", "correct"),
        ("0.75", r"\frac{3}{4}", "correct"),
        ("0.75", ".75", "correct"),
        ("0.75", "0.7500001", "wrong"),
        ("1.5", "1 1/2", "correct"),
        ("1.5", r"1\frac12", "correct"),
        ("300000", "3e5", "correct"),
        ("300000", r"3 \times 10^{5}", "correct"),
        ("12", "12 m^2", "correct"),
        ("12", "12 km2", "correct"),
        ("5", "3,5", "wrong"),
        ("2", "5 - 3 = 2", "correct"),
        ("-3", "5 - 3", "wrong"),
        ("-3", "x = -3", "correct"),
        ("-3", "\u22123", "correct"),
        ("0", "1/0", "wrong"),
        ("5", "1e999999999", "wrong"),
        ("1", "1" * 500, "wrong"),
        ("2", "\u0662", "wrong"),
        ("18", "US$18", "correct"),
        ("18", "A$18", "correct"),
        ("18", r"It costs US\$18.00", "correct"),
        ("25", "25 = 5^2", "correct"),
        ("5", "25 = 5^2", "wrong"),
        ("2", "25 = 5**2", "wrong"),
        ("25", "25 = 5 ^ {2}", "correct"),
        ("5", "25 = 5\u00b2", "wrong"),
        ("25", "5^2 = 25", "correct"),
        ("90", r"It is $90^{\circ}$", "correct"),
        ("90", "90^o", "correct"),
        ("21", "the 21^{st}", "correct"),
        ("18", "She has **18** apples.", "correct"),
        ("18", "**18** dollars", "correct"),
        ("8", "**5** + **3** = **8** eggs", "correct"),
        ("0.75", "**3/4** cup", "correct"),
        ("15", "5 * 3 = **15** apples", "correct"),
        ("3", "5 * 3 = **15** apples", "wrong"),
        ("25", "25 = 5 ** 2", "correct"),
        ("5", r"\(2x = 10\), so \(5\)", "correct"),
    ],
)
def test_number(gold, answer, kind):
    assert number(gold, answer).kind == kind


@given(st.text() | st.from_regex(r"[-+*/ ,.0-9eE%$^{}()\\]*", fullmatch=True))
def test_number_never_raises(answer):
    assert number("7", answer).kind in ("correct", "wrong")


@given(st.fractions(max_denominator=10**6))
def test_number_reads_every_fraction(value):
    assert number(str(value), f"It is {value}.").kind == "correct"
    assert number(str(value + 1), f"It is {value}.").kind == "wrong"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("B", "correct"),
        ("b", "correct"),
        ("(B)", "correct"),
        ("B.", "correct"),
        ("B) 12 apples", "correct"),
        ("B: 12 apples", "correct"),
        ("**B**", "correct"),
        (r"\boxed{\text{(B)}}", "correct"),
        ("The answer is B", "correct"),
        ("The answer is (B).", "correct"),
        ("The answer is B, because 12 is even.", "correct"),
        ("It must be (B).", "correct"),
        ("I think option b", "correct"),
        ("B) f(x) = 2x", "correct"),
        ("B) f(X) = 2X", "correct"),
        ("B) mass (g)", "correct"),
        ("B\n\n12 is even", "correct"),
        ("The correct option is B", "correct"),
        ("Option A is odd. The best choice is (B).", "correct"),
        ("Option(B)", "correct"),
        ("Option B, because the best choice is the cheapest one", "correct"),
        ("Option (B), since the right option is on the left", "correct"),
        ("B is correct", "correct"),
        ("B is the right answer.", "correct"),
        ("I, for one, think (B)", "correct"),
        ("C", "wrong"),
        ("A or B", "wrong"),
        ("A, B", "wrong"),
        ("(A) or (B)", "wrong"),
        ("(A) is wrong, so (B)", "wrong"),
        ("Bananas", "wrong"),
        ("A good question", "wrong"),
        ("", "wrong"),
        ("b, a", "wrong"),
        ("b, a or c", "wrong"),
        ("B, or C", "wrong"),
        ("B - C", "wrong"),
        ("B\n\nA", "wrong"),
        ("B) or (C)", "wrong"),
        ("b) or (c)", "wrong"),
        ("B is correct, C is too", "wrong"),
        ("The correct option is B or C", "wrong"),
        ("The correct option is a mystery", "wrong"),
        ("Not A\nB", "wrong"),
        ("B) or maybe (c)", "wrong"),
        ("B) or option c", "wrong"),
        ("B) neither (a) nor (c)", "wrong"),
        ("B, or maybe not", "wrong"),
        ("B is the best distractor, not the answer", "wrong"),
        ("B is right out", "wrong"),
        ("B is the correct one? No, I don't think so.", "wrong"),
    ],
)
def test_choice(answer, kind):
    assert choice("B", answer).kind == kind


def test_exact_forgives_case_white_space_and_a_full_stop():
    assert exact("Mount  Everest", " mount everest.\n").kind == "correct"
    assert exact("Mount Everest", "Everest").kind == "wrong"
    assert exact(".", "").kind == "wrong"
    assert exact(".", " .").kind == "correct"


@pytest.mark.parametrize(
    ("gold", "answer", "kind"),
    [
        ("4343_6", "4343_5", "wrong"),
        ("4343_{6}", r"\boxed{4343_6}", "correct"),
        ("4343_6", "4343", "correct"),
        ("5", r"\(2x = 10\), so \(5\)", "correct"),
        ("5", r"\[2x = 10\], so \[5\].", "correct"),
        ("18", "US$18", "correct"),
    ],
)
def test_math_of_bases_and_of_several_formulas(gold, answer, kind):
    assert math(gold, answer).kind == kind


def test_regex_matches_the_whole_answer():
    assert regex(r"\d{3}-\d{4}", " 555-1234\n").kind == "correct"
    assert regex(r"\d{3}-\d{4}", "call 555-1234").kind == "wrong"
    slow = regex("(a+)+b", "a" * 60)
    assert slow.kind == "invalid"
    assert "took more than 2 s" in slow.reason


def test_the_last_box_counts_and_braces_within_it_are_kept():
    assert boxed(r"\boxed{\frac{1}{2}} or \boxed{3} or \boxed{4") == [r"\frac{1}{2}", "3"]
    assert stated(r"Thus $\boxed{\frac{1}{2}}$.") == r"\frac{1}{2}"
    assert stated("The answer is $7$.") == "7"
    assert stated("It is 7.") == "It is 7"


@pytest.mark.parametrize("name", VERIFIERS)
def test_an_answer_may_be_any_text(name):
    for answer in ("\x00", "\ud800", "{" * 50, "\\", "$", "\\boxed{", "((((", "1/", "=" * 20, "😀"):
        assert VERIFIERS[name]("B" if name == "choice" else "7", answer).kind in ("wrong", "invalid"), answer
