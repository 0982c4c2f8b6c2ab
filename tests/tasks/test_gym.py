"""Datasets of reasoning-gym as tasks. Every one of them is tried in test_gym_datasets.py."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import islice
from random import Random

import pytest

from steep.cli import main
from steep.errors import SteepError
from steep.sandbox import CheckError, shared
from steep.tasks import gym
from steep.tasks.gym import Gym, normalised, not_plain
from steep.types import Message, Problem

needs_package = pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="needs the [gym] extra")
SPLITS = ("train", "valid", "test")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STEEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def asked(dataset, answer, level=1, **metadata):
    return Problem(
        id=f"gym:{dataset}/x",
        task=f"gym:{dataset}",
        split="test",
        level=level,
        prompt=(Message(role="user", content="?"),),
        key={"answer": answer, "metadata": metadata},
    )


@pytest.mark.parametrize(
    ("answer", "plain"),
    [
        ("3", "3"),
        (" 3\n", "3"),
        ("3.", "3"),
        ("3.5.", "3.5"),
        ("**3**", "3"),
        ("$3$", "3"),
        (r"\boxed{3}", "3"),
        ("The answer is 3.", "3"),
        ("Answer: 3", "3"),
        ('"spam"', "spam"),
        ("`spam`", "spam"),
        ("'spam'.", "spam"),
        ("```\n1 2\n3 4\n```", "1 2\n3 4"),
        ("```json\n[1, 2]\n```", "[1, 2]"),
        ("The answer is **3**.", "3"),
        ('`"spam"`.', "spam"),
        ('"a", "b"', '"a", "b"'),
        ("and so on...", "and so on..."),
        ("...", "..."),
        (".", ""),
        ("", ""),
    ],
)
def test_what_only_sets_an_answer_off_is_left_out(answer, plain):
    assert normalised(answer) == plain


@pytest.mark.parametrize(
    ("dataset", "gold", "given"),
    [
        ("countdown", "3*8", "__import__('os').getcwd()"),
        ("countdown", "3*8", "9**9**9"),
        ("countdown", "3*8", "25//1"),
        ("countdown", "3*8", "exec(1)"),
        ("countdown", "3*8", "24 if 3 else 8"),
        ("countdown", "3*8", "\u0663*8"),
        ("simple_integration", "x**2 + C", "open(x)"),
        ("simple_integration", "x**2 + C", "x.diff(x)"),
        ("simple_integration", "x**2 + C", "eval(chr(49))"),
        ("simple_integration", "x**2 + C", "(lambda x: x)(x)"),
        ("polynomial_multiplication", "a*b", "[a, b]"),
        ("string_insertion", "ABC", "open('x', 'w')"),
        ("n_queens", "Q _\n_ Q", "[1, 2]"),
        ("gsm_symbolic", "3", "3 or 4"),
        ("fraction_simplification", "$1/2$", "1/2 or 1/3"),
        ("figlet_font", "FILIBUSTER", "FILIBUSTERS"),
        ("time_intervals", "6 days", "6 7 8"),
        ("complex_arithmetic", "1 + 2i", "nan"),
        ("spell_backward", "nus", "\x1b[0m"),
        ("spell_backward", "nus", "s" * 300),
    ],
)
def test_what_is_not_plain_is_not_shown_to_a_scorer(dataset, gold, given):
    assert not_plain(dataset, gold, given)


@pytest.mark.parametrize(
    ("dataset", "gold", "given"),
    [
        ("countdown", "3*8", "(3 + 5) * 8 - 40/1"),
        ("simple_integration", "x**2 + C", "2*x**2/2 + sin(x) - exp(x) + C"),
        ("n_queens", "Q _\n_ Q", "_ Q\nQ _"),
        ("gsm_symbolic", "3", "-1,234.50"),
        ("fraction_simplification", r"$\frac{1}{2}$", r"$\frac{1}{3}$"),
        ("fraction_simplification", r"$\dfrac{1}{2}$", "1/3"),
        ("figlet_font", "FILIBUSTER", "filibuster"),
        ("time_intervals", "6 days, 10:30", "1 day, 0:05:00"),
        ("time_intervals", "10:30:01.5", "10:30"),
        ("complex_arithmetic", "1 + 2i", "1.0 - 2i"),
        ("emoji_mystery", "\U0001f600", "\U0001f600\U0001f600"),
        ("spell_backward", "nus", "sun"),
    ],
)
def test_what_is_plain_is(dataset, gold, given):
    assert not_plain(dataset, gold, given) == ""


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(gym, "PACKAGE", "reasoning-gym-that-is-not-there")
    gym.every_level.cache_clear()
    with pytest.raises(SteepError, match=r"gym tasks need .*\n  .* -m pip install 'steep\[gym\]'"):
        Gym(dataset="spell_backward")


@needs_package
def test_splits_share_no_question_and_streams_start_anywhere():
    task = Gym(dataset="letter_counting", levels=(1, 3))
    seen = Counter()
    for split in SPLITS:
        problems = list(islice(task.problems(split, seed=1), 20))
        assert problems[5:] == list(islice(task.problems(split, seed=1, start=5), 15))
        assert {problem.level for problem in problems} == {1, 3}
        assert {(problem.task, problem.split) for problem in problems} == {("gym:letter_counting", split)}
        assert [json.loads(json.dumps(problem.key)) for problem in problems] == [problem.key for problem in problems]
        seen.update({problem.prompt[0].content for problem in problems})
    assert set(seen.values()) == {1}


@needs_package
def test_levels_set_the_curriculum():
    def words(level):
        task = Gym(dataset="spell_backward", levels=(level,))
        return [len(problem.key["answer"]) for problem in islice(task.problems("train", 0), 20)]

    assert max(words(1)) <= 3
    assert max(words(5)) >= 7


@needs_package
@pytest.mark.parametrize("dataset", ["spell_backward", "simple_integration", "modulo_grid"])
def test_examples_have_the_verdicts_they_claim(dataset):
    task = Gym(dataset=dataset)
    for problem, answer, expected in task.examples():
        verdict = task.verify(problem, answer)
        assert (verdict.kind, verdict.score) == (expected.kind, expected.score), (answer, verdict.reason)


@needs_package
@pytest.mark.parametrize(
    ("problem", "answer", "kind", "reason"),
    [
        (asked("letter_counting", "3"), "3.", "correct", ""),
        (asked("letter_counting", "3"), "The answer is **3**.", "correct", ""),
        (asked("letter_counting", "3"), "3 or 4", "wrong", "reasoning-gym scores it 0.17"),
        (asked("letter_counting", "3"), "33", "wrong", "reasoning-gym scores it 0.50"),
        (asked("letter_counting", "3"), "", "wrong", "no answer"),
        (asked("countdown", "3*8", numbers=[3, 8], target=24), "8*3", "correct", ""),
        (asked("countdown", "3*8", numbers=[3, 8], target=24), "8+3", "wrong", "reasoning-gym scores it 0.05"),
        (asked("countdown", "3*8", numbers=[3, 8], target=24), "24", "wrong", "reasoning-gym scores it 0.05"),
        (asked("prime_factorization", "2 × 3"), "hello", "wrong", "reasoning-gym scores it 0.00"),
    ],
)
def test_only_a_full_score_is_correct(problem, answer, kind, reason):
    verdict = Gym(dataset=problem.task.removeprefix("gym:")).verify(problem, answer)
    assert (verdict.kind, verdict.score, verdict.reason) == (kind, float(kind == "correct"), reason)


@needs_package
def test_a_check_that_hangs_is_invalid_and_the_next_one_runs():
    problem = asked("polynomial_multiplication", "x**2", variables=["x"])
    task = Gym(dataset="polynomial_multiplication")
    assert task.verify(problem, "9**9**9**9").kind == "invalid"
    assert task.verify(problem, "x*x").kind == "correct"


@needs_package
@pytest.mark.parametrize(
    "answer",
    [
        "[open({path!r}, 'w').write('x')]",
        "[__import__('os').mkdir({path!r})]",
        "[__import__('subprocess').check_call(['touch', {path!r}])]",
        "[9**9**9**9]",
    ],
)
def test_a_hostile_answer_does_nothing_even_where_it_is_executed(answer, tmp_path):
    """The scorer of string_insertion calls eval; what `verify` refuses is handed to it here all the same."""
    if "files" in shared(isolated=True).call("steep.sandbox.isolation:isolate"):
        pytest.skip("this system has neither Landlock nor mount namespaces for everybody")
    path = str(tmp_path / "written")
    problem, hostile = asked("string_insertion", "ABC"), answer.format(path=path)
    assert Gym(dataset="string_insertion").verify(problem, hostile).reason == "not written as its answers are"
    which = ("string_insertion", 1, gym.MANY)
    entry = {"question": "?", **problem.key}
    try:
        score = shared(isolated=True).call(
            f"{gym.APART}:score", *which, hostile, entry, prepare=(f"{gym.APART}:dataset", *which)
        )
    except CheckError:
        score = 0.0
    assert score == 0.0
    assert not (tmp_path / "written").exists()


@needs_package
def test_what_takes_long_to_make_is_kept_whole_by_all_who_make_it(cache, monkeypatch):
    task = Gym(dataset="sudoku", levels=(1,))
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: task.make(1, Random(0)), range(4)))
    (file,) = (path for path in cache.rglob("*") if path.is_file())
    assert made == made[:1] * 4
    monkeypatch.setattr(gym, "shared", None)
    assert task.make(1, Random(0)) == made[0]
    monkeypatch.undo()
    monkeypatch.setenv("STEEP_CACHE", str(cache))
    file.write_text(file.read_text()[:100])
    assert task.make(1, Random(0)) == made[0]
    assert json.loads(file.read_text())["answer"] == made[0].key["answer"]


@needs_package
def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STEEP_CACHE", str(tmp_path / "file"))
    with pytest.raises(SteepError, match=r"cannot be written: .*\n  STEEP_CACHE moves the cache"):
        Gym(dataset="sudoku").make(1, Random(0))


@needs_package
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "gym:spel_backward"], "no dataset 'spel_backward'\n  did you mean spell_backward?"),
        (["--task", "gym:"], "no dataset ''\n  see `steep tasks list gym`"),
        (["--task", "gym:spell_backward", "--levels", "1,9"], "no levels [1, 9]\n  choose from [1, 2, 3, 4, 5]"),
        (["--task", "gym:modulo_grid", "--levels", "2"], "no levels [2]\n  choose from [1, 3, 4, 5, 6]"),
        (["--task", "gym:coin_flip"], "gym:coin_flip cannot be used: its scorer pays in full for the first digits"),
        (["--task", "gym:spell_backward", "--verifier", "math"], "gym:spell_backward has a verifier of its own"),
    ],
)
def test_mistakes_are_told(words, message, capsys):
    assert main(["eval", "nowhere", *words]) == 2
    assert message in capsys.readouterr().err


@needs_package
def test_datasets_are_listed_and_checked(capsys):
    assert main(["tasks", "list", "gym", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["tasks"]["gym:caesar_cipher"] == [1, 2]
    assert "gym:coin_flip" not in listed["tasks"]
    assert len(listed["tasks"]) + len(listed["refused"]) == 106
    assert main(["tasks", "check", "gym:spell_backward", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["file"], found["problems"], found["errors"]) == ("gym:spell_backward", 100, [])
