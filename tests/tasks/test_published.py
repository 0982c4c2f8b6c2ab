"""Published sets, on samples of our own in the form in which each set was published."""

from itertools import islice
from pathlib import Path
from random import Random

import pytest

from steep.errors import SteepError
from steep.tasks.generated import split_of
from steep.tasks.jsonl import normal
from steep.tasks.published import Aime, Arc, Gsm8k, Math, Source, Svamp, hub_rows

SAMPLES = Path(__file__).parent / "samples"


@pytest.fixture(autouse=True)
def samples(monkeypatch):
    monkeypatch.setenv("STEEP_DATA", str(SAMPLES))


@pytest.mark.parametrize("task", [Gsm8k(), Math(), Svamp(), Arc()], ids=lambda task: task.name)
def test_splits_share_nothing_and_gold_answers_verify(task):
    splits = {split: task.listed(split) for split in ("train", "valid", "test")}
    assert all(splits.values())
    problems = [problem for listed in splits.values() for problem in listed]
    assert len({problem.id for problem in problems}) == len(problems)
    for problem in problems:
        assert task.verify(problem, problem.key["answer"]).kind == "correct"
        assert problem.id.startswith(f"{task.name}/")
    assert {split_of(normal(p.prompt)) for p in splits["valid"]} == {"valid"}
    assert "valid" not in {split_of(normal(p.prompt)) for p in splits["train"]}


def test_gsm8k_shows_how_to_think():
    problem = next(p for p in Gsm8k().listed("test") if "jar" in p.prompt[0].content)
    shown = Gsm8k().demonstrate(problem, Random(0))
    assert shown.thought == "They hold 5*6 = 30 liters."
    assert shown.answer == "30"
    assert Gsm8k().verify(problem, "It is 30 liters.").kind == "correct"
    assert Gsm8k().verify(problem, "5*6 = 35").kind == "wrong"


def test_gsm8k_answers_have_no_commas():
    hall = next(p for p in (*Gsm8k().listed("train"), *Gsm8k().listed("valid")) if "hall" in p.prompt[0].content)
    assert Gsm8k().demonstrate(hall, Random(0)).answer == "1200"
    assert Gsm8k().verify(hall, "1200").kind == "correct"


def test_math_takes_answers_from_boxes_and_has_five_levels():
    by_prompt = {p.prompt[0].content: p for split in ("train", "valid") for p in Math().listed(split)}
    circle = by_prompt["Find the area of a circle of radius 2."]
    assert (circle.key["answer"], circle.level) == (r"4\pi", 5)
    assert {p.level for p in islice(Math().problems("train", 0, level=2), 20)} == {2}
    factor = next(p for p in Math().listed("test") if "Factor" in p.prompt[0].content)
    assert Math().verify(factor, "(x+1)(x-1)").kind == "correct"
    assert Math().verify(factor, "(x-1)^2").kind == "wrong"


def test_word_problems_choices_and_integers_are_read():
    (eggs,) = Svamp().listed("test")
    assert eggs.prompt[0].content == "A box has 6 eggs. How many eggs are in 3 boxes?"
    assert Svamp().verify(eggs, "18").kind == "correct"
    assert Svamp().listed("train")[0].prompt[0].content.endswith("swim away. How many ducks are left?")
    (plants,) = Arc().listed("test")
    assert plants.prompt[0].content.endswith("air?\nA) carbon dioxide\nB) sand\nC) iron")
    assert plants.key["answer"] == "A"
    (aime,) = Aime().listed("test")
    assert aime.key["answer"] == "24"
    with pytest.raises(SteepError, match="aime has no train problems"):
        Aime().listed("train")


def test_an_instruction_changes_neither_id_nor_split():
    plain, told = Gsm8k().listed("test")[0], Gsm8k(instruction="Answer with a number.").listed("test")[0]
    assert told.prompt[0].content == f"{plain.prompt[0].content}\nAnswer with a number."
    assert (told.id, told.split) == (plain.id, plain.split)


def test_a_directory_that_has_not_the_file_is_told(tmp_path):
    with pytest.raises(SteepError, match=r"there is neither .*train.jsonl nor train.jsonl.gz"):
        Gsm8k(directory=tmp_path).listed("train")


def test_rows_of_another_form_are_told_with_their_line(tmp_path):
    (tmp_path / "test.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n')
    with pytest.raises(SteepError, match=r"test.jsonl, line 1: the answer has no ####"):
        Gsm8k(directory=tmp_path).listed("test")
    (tmp_path / "test.jsonl").write_text('{"prompt": "1+1?"}\n')
    with pytest.raises(SteepError, match=r"test.jsonl, line 1: no field 'answer'\n  is it openai/gsm8k as published\?"):
        Gsm8k(directory=tmp_path).listed("test")


def test_without_files_the_hub_is_asked(tmp_path, monkeypatch):
    monkeypatch.delenv("STEEP_DATA")
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    directory = Source(folder="gsm8k", hub=str(SAMPLES / "gsm8k"), split="test")
    rows = list(hub_rows(directory, "test"))
    assert [row["answer"][-2:] for _, row in rows] == ["30", "45"]
    missing = Source(folder="gsm8k", hub=str(tmp_path / "nothing"))
    with pytest.raises(
        SteepError, match=r"nothing cannot be loaded: .*\n  set STEEP_DATA to a directory with gsm8k/train"
    ):
        list(hub_rows(missing, "train"))
