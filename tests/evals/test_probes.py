"""The answers of steep's own probes are computed here; what is added, counted and compared is asserted."""

from datetime import date, datetime, timedelta
from itertools import permutations, product

import pytest

from steep.errors import SteepError
from steep.evals.probes import SHIPPED, Change, Tally, add, by_category, changes, last, probes, remember, together
from steep.runs import Log
from steep.tasks.jsonl import Jsonl

WORDS = ("strawberry-r", "strawberry-z", "raspberry-r", "mississippi-s", "banana-a", "bookkeeper-e", "parallelogram-l")
SUMS = ("47+85", "999+1", "7856+2369", "503-168", "27*43", "99*99", "8-5*2")
ROMAN = ("M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I")
VALUES = (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1)
FOX = "The quick brown fox jumps over the lazy dog"
SECOND = "What is the second word of this very sentence?"
OVERLAPPING = "the cat and the dog saw the other theatre"


def is_prime(n):
    return n > 1 and all(n % d for d in range(2, n))


def roman(n):
    written = ""
    for sign, value in zip(ROMAN, VALUES, strict=True):
        written, n = written + sign * (n // value), n % value
    return written


def days_between(start, end):
    return (end - start).days


def weekday(start, days):
    """The name of the day so many days after one of that name."""
    first = next(day for n in range(7) if f"{(day := date(2024, 1, 1) + timedelta(n)):%A}" == start)
    return f"{first + timedelta(days):%A}"


def entailed(premises, conclusion, propositions):
    """Whether the conclusion holds wherever the premises do; "Maybe" if it holds in some such cases only."""
    cases = [case for case in product((False, True), repeat=propositions) if premises(*case)]
    found = {conclusion(*case) for case in cases}
    return "Yes" if found == {True} else "No" if found == {False} else "Maybe"


def only(items):
    (item,) = items
    return item


def shortest():
    orders = (dict(zip(order, range(3), strict=True)) for order in permutations(("Ada", "Ben", "Cem")))
    return only({min(o, key=o.__getitem__) for o in orders if o["Ada"] > o["Ben"] > o["Cem"]})


ANSWERS = {
    **{name: name.split("-")[0].count(name[-1]) for name in WORDS},
    **{sum: eval(sum) for sum in SUMS},
    "onomatopoeia-length": len("onomatopoeia"),
    "spell-necessary": "-".join("necessary"),
    "third-letter": "elephant"[2],
    "last-letter": "spaghetti"[-1],
    "misspelt": "seperate",
    "reverse-lollipop": "lollipop"[::-1],
    "reverse-stressed": "stressed"[::-1],
    "reverse-digits": "48271"[::-1],
    "palindrome": only(word for word in ("banana", "rotator", "lollipop", "dessert") if word == word[::-1]),
    "9.11-9.9": max(9.11, 9.9),
    "3.10-3.9": min(3.10, 3.9),
    "0.5-0.45-0.405": max(0.45, 0.5, 0.405),
    "version": max(("2.9", "2.11"), key=lambda version: [int(part) for part in version.split(".")]),
    "0.1+0.2": round(0.1 + 0.2, 9),
    "derivative": "x*2",
    "solve": "b/2 - 1/2",
    "leap-2024": days_between(date(2024, 2, 1), date(2024, 3, 1)),
    "leap-1900": days_between(date(1900, 2, 1), date(1900, 3, 1)),
    "between": only({days_between(date(year, 3, 3), date(year, 4, 17)) for year in (2023, 2024)}),
    "hundred-days": weekday("Monday", 100),
    "yesterday": weekday("Thursday", 2),
    "over-midnight": (datetime(2024, 1, 2, 6, 40) - datetime(2024, 1, 1, 22, 15)).seconds // 60,
    "count-words": len(FOX.split()),
    "count-the": OVERLAPPING.split().count("the"),
    "second-word": SECOND.split()[1],
    "sort": ", ".join(map(str, sorted([12, 7, 101, 9]))),
    "alphabet": min("plum", "pear", "pepper", "pineapple"),
    "second-smallest": sorted([-3, 2, -10, 0])[1],
    "from-roman": only(n for n in range(1, 4000) if roman(n) == "MCMXCIV"),
    "to-roman": roman(49),
    "binary": int("1011", 2),
    # a rose that fades quickly need not be among the flowers that do: some case has it, some has not
    "not-follows": "Yes" if entailed(lambda rose, fading: True, lambda rose, fading: fading, 2) == "Yes" else "No",
    "modus-tollens": entailed(lambda rain, wet: (not rain or wet) and not wet, lambda rain, wet: rain, 2),
    "shortest": shortest(),
    "overtake": 2,
    "sally": 2 - 1,  # each brother's two sisters are Sally and one more
    "alice": 1 + 1,
    "surgeon": "his father",
    "kilogram": "they weigh the same",
    "two-kilograms": "the feathers",
    "not-even": only(n for n in (2, 4, 7, 8) if n % 2),
    "not-prime": only(n for n in (3, 5, 9, 11) if not is_prime(n)),
    "no-door": entailed(lambda some_open: some_open is not False, lambda some_open: some_open, 1),
    "bat": only(ball for ball in range(111) if ball + (ball + 100) == 110),
    "shirts": 5,  # the sun does not dry one after the other
    "lilies": only(day for day in range(49) if 2 ** (48 - day) == 2),
}
NAMES = [problem.id.removeprefix("probes/") for problem in probes([SHIPPED])]


def option(problem, text):
    """The letter of an option."""
    return only(line[0] for line in problem.prompt[-1].content.split("\n") if line[1:] == f") {text}")


def test_there_are_sixty_in_fifteen_categories():
    assert len(NAMES) == 60
    assert set(NAMES) == set(ANSWERS)
    assert len(by_category(probes([SHIPPED]))) == 15


@pytest.mark.parametrize("name", NAMES)
def test_gold_answers_are_the_computed_ones(name):
    problem = next(p for p in probes([SHIPPED]) if p.id == f"probes/{name}")
    answer = str(ANSWERS[name])
    if problem.key["verifier"] == "choice":
        assert option(problem, answer) == problem.key["answer"]
    verdict = Jsonl(file=SHIPPED).verify(
        problem, option(problem, answer) if "\nA) " in problem.prompt[-1].content else answer
    )
    assert verdict.kind == "correct"
    assert Jsonl(file=SHIPPED).verify(problem, "I do not know").kind == "wrong"


def test_the_questions_are_those_that_were_computed():
    asked = {p.id.removeprefix("probes/"): p.prompt[-1].content for p in probes([SHIPPED])}
    assert all(asked[name] == f"How many {name[-1]}'s are in {name.split('-')[0]}?" for name in WORDS)
    assert all(asked[name] == f"What is {name}?" for name in SUMS)
    assert FOX in asked["count-words"]
    assert OVERLAPPING in asked["count-the"]
    assert asked["second-word"].startswith(SECOND)


def test_what_is_reversed_may_be_spelled_and_must_come_last():
    reversal = next(p for p in probes([SHIPPED]) if p.id == "probes/reverse-lollipop")
    judged = {
        a: Jsonl(file=SHIPPED).verify(reversal, a).kind for a in ("p-o-p-i-l-l-o-l.", "It is popillol", "lollipop")
    }
    assert judged == {"p-o-p-i-l-l-o-l.": "correct", "It is popillol": "correct", "lollipop": "wrong"}


def test_a_probe_is_added_once_and_only_if_its_answer_passes(tmp_path):
    file = tmp_path / "mine.jsonl"
    row = {"prompt": "How many e's are in cheese?", "answer": "3", "verifier": "number", "category": "letters"}
    problem = add(file, row)
    assert (problem.task, problem.key) == ("mine", {"verifier": "number", "answer": "3", "category": "letters"})
    file.write_bytes(file.read_bytes().rstrip())  # as an editor may leave it
    add(file, {"prompt": "Which is a fish?", "choices": ["shark", "whale"], "answer": "shark"})
    assert [p.key["answer"] for p in probes([SHIPPED, file])[60:]] == ["3", "A"]
    refused = {
        "this is a probe already": row,
        "its answer 'three' does not verify": {"prompt": "x", "answer": "three", "verifier": "number"},
        "there is no verifier 'sum'": {"prompt": "x", "answer": "3", "verifier": "sum"},
        "does not verify: invalid: regex": {"prompt": "x", "answer": "(", "verifier": "regex"},
    }
    for message, wrong in refused.items():
        with pytest.raises(SteepError, match=message.replace("(", r"\(")):
            add(file, wrong)
    assert len(probes([SHIPPED, file])) == 62


def test_two_probes_of_one_name_are_refused(tmp_path):
    file = tmp_path / "probes.jsonl"
    file.write_text('{"id": "bat", "prompt": "Is a bat a bird?", "answer": "no"}\n')
    with pytest.raises(SteepError, match="has another probe called 'bat'"):
        probes([SHIPPED, file])


def counted(right, wrong=0, invalid=0):
    return Tally(right=right, wrong=wrong, invalid=invalid)


def test_a_category_has_the_mean_of_its_probes_and_one_probe_that_of_its_answers():
    assert together([counted(8), counted(0, 8), counted(8)]).value == pytest.approx(2 / 3)
    alone = together([counted(6, 2, 1)])
    assert (alone.value, round(alone.low, 2), round(alone.high, 2)) == (0.75, 0.41, 0.93)
    assert together([counted(1, 1), counted(0, 0, 4)]).value == 0.5  # what could not be checked counts for nothing


def test_only_what_chance_hardly_explains_was_fixed_or_came_back():
    before = {0: {"a": counted(0, 8), "b": counted(8), "c": counted(3, 5), "d": counted(8)}}
    now = {
        0: {"a": counted(8), "b": counted(1, 7), "c": counted(5, 3), "new": counted(8), "d": counted(0, 0, 8)},
        64: {},
    }
    assert changes(before, now) == [
        Change(probe="a", budget=0, turn="fixed", before=before[0]["a"], now=now[0]["a"]),
        Change(probe="b", budget=0, turn="came back", before=before[0]["b"], now=now[0]["b"]),
    ]


def test_the_last_answers_under_the_same_settings_are_remembered(tmp_path):
    history, settings = Log(tmp_path / "runs" / "probes.jsonl"), {"model": "runs/nano", "samples": 8}
    assert last(history, settings) == {}
    remember(history, settings, {0: {"a": counted(0, 8)}})
    remember(history, settings, {0: {"a": counted(7, 1)}, 64: {"a": counted(8)}})
    remember(history, settings | {"samples": 4}, {0: {"a": counted(4)}})
    assert last(history, settings) == {0: {"a": counted(7, 1)}, 64: {"a": counted(8)}}
