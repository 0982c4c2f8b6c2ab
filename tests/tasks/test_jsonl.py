"""Problems from a file: what a line may hold, and what is said about one that cannot be used."""

import gzip
import json
from collections import Counter
from itertools import islice
from random import Random

import pytest

from steep.errors import ConfigError, SteepError
from steep.tasks.generated import split_of
from steep.tasks.jsonl import Jsonl, read, task_of
from steep.types import Demonstration, Demonstrator


@pytest.fixture
def written(tmp_path):
    """Writes lines to a file; what is not bytes is written as JSON."""

    def write(*lines, name="mine.jsonl"):
        file = tmp_path / name
        data = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines) + b"\n"
        file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return file

    return write


def sums(count):
    return [{"prompt": f"What is {n}+{n}?", "answer": 2 * n, "level": 1 + n % 2} for n in range(count)]


def test_a_row_becomes_a_problem(written):
    file = written({"prompt": "Name a prime below 3.", "answer": 2, "id": "p", "level": 3, "split": "test"})
    (problem,) = Jsonl(file=file, verifier="number").listed("test")
    assert problem.id == "mine/p"
    assert problem.task == "mine"
    assert problem.level == 3
    assert [(m.role, m.content) for m in problem.prompt] == [("user", "Name a prime below 3.")]
    assert problem.key == {"verifier": "number", "answer": "2"}


def test_a_prompt_may_be_messages(written):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    (line,) = read(written({"prompt": turns, "answer": "2"}), "exact")
    assert [m.role for m in line.problem.prompt] == ["system", "user"]


@pytest.mark.parametrize("answer", ["B", "b", "iron"])
def test_choices_are_shown_and_checked_by_letter(written, answer):
    (line,) = read(written({"prompt": "Which is a metal?", "choices": ["sand", "iron"], "answer": answer}), "exact")
    assert line.problem.prompt[0].content == "Which is a metal?\nA) sand\nB) iron"
    assert line.problem.key == {"verifier": "choice", "answer": "B"}


def test_a_row_names_its_verifier(written):
    file = written({"prompt": "Half?", "answer": "1/2", "verifier": "number", "split": "test"})
    task = Jsonl(file=file)
    assert task.verify(task.listed("test")[0], "0.5").kind == "correct"
    assert task.verify(task.listed("test")[0], "0.4").kind == "wrong"


GOOD = {"prompt": "1+1?", "answer": "2"}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ({"prompt": "1+1?"}, "no answer"),
        ({"prompt": "1+1?", "answer": ""}, "no answer"),
        ({"prompt": "1+1?", "answer": None}, "no answer"),
        ({"prompt": "1+1?", "answer": " \n"}, "no answer"),
        ({"prompt": "1+1?", "answer": ["2"]}, "the answer is a list, not a text or a number"),
        ({"prompt": "1+1?", "answer": True}, "the answer is a bool, not a text or a number"),
        (b'{"prompt": "1+1?", "answer": NaN}', "the answer is nan"),
        ({"answer": "2"}, "no prompt"),
        ({"question": "1+1?", "answer": "2"}, "no prompt, but question"),
        ({"prompt": "1+1?", "solution": "2", "unit": "m"}, "no answer, but solution, unit"),
        ({"prompt": "  ", "answer": "2"}, "the prompt is empty"),
        ({"prompt": 5, "answer": "2"}, "the prompt is neither a text nor a list of messages"),
        (
            {"prompt": [{"role": "bot", "content": "x"}], "answer": "2"},
            "the role 'bot' is not system, user or assistant",
        ),
        ({"prompt": [{"role": "user"}], "answer": "2"}, "a message has no text"),
        ({"prompt": [{"role": "assistant", "content": "x"}], "answer": "2"}, "the last message is not a user's"),
        (
            GOOD | {"verifier": "maths"},
            "there is no verifier 'maths': choose one of exact, number, math, choice, regex",
        ),
        (
            GOOD | {"verifier": ["exact"]},
            "there is no verifier ['exact']: choose one of exact, number, math, choice, regex",
        ),
        (b'{"prompt": "1+1?", "answer": ' + b"2" * 5000 + b"}", "a number of more than 4,300 digits"),
        (GOOD | {"level": 0}, "the level 0 is not a whole number from 1 on"),
        (GOOD | {"level": "hard"}, "the level 'hard' is not a whole number from 1 on"),
        (GOOD | {"split": "dev"}, "the split 'dev' is not train, valid or test"),
        (GOOD | {"id": 1.5}, "the id 1.5 is not a text or a whole number"),
        (GOOD | {"choices": ["2"]}, "the choices are not a list of 2 to 26 texts"),
        (GOOD | {"choices": ["3", "4"]}, "the answer '2' is neither one of the choices nor a letter from A to B"),
        (b'{"prompt": "1+1?", "answer": "2"', "not JSON: Expecting ',' delimiter at character 33"),
        (rb'{"prompt": "\frac{1}{2} \sqrt2", "answer": "2"}', "not JSON: Invalid \\escape at character 25"),
        (b"[1, 2]", "a list, not an object with a prompt and an answer"),
        ('{"prompt": "Größe?", "answer": "2"}'.encode("latin-1"), "byte 15 is not UTF-8"),
        (rb'{"prompt": "\ud800", "answer": "2"}', "half a surrogate pair (\\ud800 to \\udfff) is no character"),
        (b"[" * 100_000, "not JSON that can be read: nested too deeply"),
        (GOOD | {"thought": " "}, "the thought is not a text"),
        (GOOD | {"category": 3}, "the category 3 is not a text"),
        (GOOD | {"thought": "x", "verifier": "regex"}, "a thought leads to an answer, and a pattern is none"),
        (
            {"prompt": " Best  one?", "answer": "3"},
            "line 1 has the same prompt with another answer, verifier, thought or category",
        ),
        ({"prompt": "best one?", "answer": "x", "split": "test"}, "line 1 has the same prompt in split 'train'"),
        ({"prompt": "Other?", "answer": "x", "id": "first"}, "line 1 has the same id"),
    ],
)
def test_a_mistake_is_told_with_its_file_and_line(written, line, error):
    first = {"prompt": "Best one?", "answer": "x", "id": "first", "split": "train"}
    file = written(first, b"", line)
    with pytest.raises(SteepError) as raised:
        Jsonl(file=file).listed("train")
    assert raised.value.message == f"{file}, line 3: {error}"
    assert raised.value.fix == f"`steep tasks check {file}` lists all mistakes"


def test_all_mistakes_are_found_and_good_lines_kept(written):
    lines = read(written({"prompt": "a"}, GOOD, b"{", GOOD | {"colour": "red"}), "exact")
    assert [(line.number, bool(line.error), line.unknown) for line in lines] == [
        (1, True, ()),
        (2, False, ()),
        (3, True, ()),
        (4, False, ("colour",)),
    ]


def test_the_same_line_twice_is_one_problem(written):
    assert len(Jsonl(file=written(GOOD, GOOD)).listed(split_of("user: 1+1?"))) == 1


def test_case_and_space_decide_neither_id_nor_split(written):
    one, two = (
        read(written({"prompt": text, "answer": "2"}), "exact")[0].problem for text in ("What IS it?", "what  is it?")
    )
    assert (one.id, one.split) == (two.id, two.split)


def test_splits_are_about_70_10_20_and_share_nothing(written):
    task = Jsonl(file=written(*sums(2000)))
    ids = {split: {p.id for p in task.listed(split)} for split in ("train", "valid", "test")}
    assert [len(ids[split]) / 2000 for split in ids] == pytest.approx([0.7, 0.1, 0.2], abs=0.03)
    assert len(set.union(*ids.values())) == 2000


def test_passes_are_whole_shuffled_and_start_anywhere(written):
    task = Jsonl(file=written(*sums(100)))
    count = len(task.listed("train"))
    drawn = list(islice(task.problems("train", seed=4), 2 * count))
    assert set(Counter(p.id for p in drawn).values()) == {2}
    assert drawn[:count] != drawn[count:]
    assert drawn[30:40] == list(islice(task.problems("train", seed=4, start=30), 10))
    assert drawn[:count] != list(islice(task.problems("train", seed=5), count))


def test_levels(written):
    task = Jsonl(file=written(*sums(100)))
    assert task.levels == [1, 2]
    assert {p.level for p in islice(task.problems("train", 0, level=2), 50)} == {2}
    narrowed = Jsonl(file=task.file, only_levels=(1,))
    assert narrowed.levels == (1,)
    assert {p.level for p in islice(narrowed.problems("train", 0), 200)} == {1}
    with pytest.raises(ConfigError, match="no problems of level 3 in split 'train'"):
        next(task.problems("train", 0, level=3))


def test_thoughts_are_demonstrations_where_every_training_row_has_one(written):
    shown = GOOD | {"split": "train", "thought": "1 and 1"}
    task = task_of(written(shown, {"prompt": "2+2?", "answer": 4, "split": "test"}))
    assert isinstance(task, Demonstrator)
    assert task.demonstrate(task.listed("train")[0], Random(0)) == Demonstration(thought="1 and 1", answer="2")
    for file in (written(shown, {"prompt": "2+2?", "answer": 4, "split": "train"}), written(GOOD | {"split": "test"})):
        assert not isinstance(task_of(file), Demonstrator)


def test_a_task_says_what_was_in_its_file(written):
    first, same, other = (task_of(written(*sums(n))) for n in (5, 5, 6))
    assert first == same
    assert first != other
    assert len(other.every()) == 6


def test_a_file_may_be_compressed_and_may_begin_with_a_mark(written):
    assert len(read(written(*sums(5), name="mine.jsonl.gz"), "exact")) == 5
    assert Jsonl(file=written(*sums(5), name="mine.jsonl.gz")).name == "mine"
    assert read(written(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()), "exact")[0].error == ""


def test_files_that_are_no_use(written, tmp_path):
    with pytest.raises(SteepError, match="there is no file"):
        Jsonl(file=tmp_path / "none.jsonl").listed("train")
    with pytest.raises(SteepError, match="has no problems"):
        Jsonl(file=written(b"")).listed("train")
    with pytest.raises(SteepError, match="there is no verifier 'maths'"):
        Jsonl(file=written(GOOD), verifier="maths").listed("train")
    broken = tmp_path / "cut.jsonl.gz"
    broken.write_bytes(written(*sums(50), name="whole.jsonl.gz").read_bytes()[:60])
    with pytest.raises(SteepError, match="cannot be decompressed"):
        Jsonl(file=broken).listed("train")
