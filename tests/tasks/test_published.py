"""Published sets, on samples of our own in the form in which each set was published."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from steep.errors import SteepError
from steep.tasks.generated import split_of
from steep.tasks.jsonl import normal
from steep.tasks.published import Aime, Arc, Gsm8k, Math, Source, Svamp, calculations, hub_rows

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
    assert shown.thought == "5*6=30 liters"
    assert shown.answer == "30"
    assert Gsm8k().verify(problem, "It is 30 liters.").kind == "correct"
    assert Gsm8k().verify(problem, "5*6 = 35").kind == "wrong"


@pytest.mark.parametrize(
    ("solution", "thought"),
    [
        (
            "He eats 32 of them because 2 x 16 = <<2*16=32>>32\nThat is 32+8=<<32+8=40>>40 in all.",
            "16*2: 6*2=12 write 2 carry 1; 1*2=2 so 2+1=3 write 32\n"
            "32+8: 2+8=10 write 0 carry 1; 3+0+1=4 write 40 in all",
        ),
        ("So 2+3+4 = $<<2+3+4=9>>9, and 9-3=$<<9-3=6>>6 is left.", "2+3=5 so 5+4=9\n9-3=6 is left"),
        ("She sold 84/6 = <<84/6=14>>14 boxes.", "84/6: 8/6=1 rest 2 write 1; 24/6=4 write 14 boxes"),
        ("It takes 91/13 = <<91/13=7>>7 days for 7*1=<<7*1=7>>7 trips", "13*7=91 so 91/13=7 days\n7*1=7 trips"),
        ("12/60 = $<<12/60=0.2>>0.2 per minute, so 0.2*50=<<0.2*50=10.00>>10.", "12/60=0.2 per minute\n0.2*50=10.00"),
        ("There are 80/100 * 10 = <<80/100*10=8>>8 more.", "80/100*10=8 more"),
        ("Let it be <<3=3>>3.", ""),
    ],
)
def test_calculations_come_before_what_they_find(solution, thought):
    assert calculations(solution) == thought


def test_a_worked_answer_whose_calculations_end_elsewhere_is_told_in_its_own_words():
    problem = Gsm8k().listed("test")[0]
    elsewhere = {"solution": "There are 2+2 = <<2+2=4>>4 pairs, so 8.", "answer": "8"}
    shown = Gsm8k().demonstrate(replace(problem, key=problem.key | elsewhere), Random(0))
    assert (shown.thought, shown.answer) == ("There are 2+2 = 4 pairs, so 8.", "8")


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


def test_training_problems_that_the_test_set_has_are_left_out(tmp_path):
    shared = "Find the sum of all the positive whole numbers below 1000 that 3 or 5 divide"

    def row(text, answer):
        return json.dumps({"problem": text, "level": "Level 1", "solution": rf"It is $\boxed{{{answer}}}$."}) + "\n"

    (tmp_path / "test.jsonl").write_text(row(f"{shared}.", 233168) + row("What is $2+3$?", 5))
    own = [row(f"What is ${n}+{n}$?", 2 * n) for n in range(40)]
    leaks = [row(f"Today: {shared}, and double it.", 466336), row("What is  $2+3$?", 5)]
    (tmp_path / "train.jsonl").write_text("".join([*own, *leaks]))
    told = "Think of each of these words for a while before you say what the answer is to this."
    for task in (Math(directory=tmp_path), Math(directory=tmp_path, instruction=told)):
        assert sorted(problem.key["answer"] for problem in task.left_out()) == ["466336", "5"]
        used = [problem.key["answer"] for split in ("train", "valid") for problem in task.listed(split)]
        assert sorted(used, key=int) == [str(2 * n) for n in range(40)]
        assert len(task.listed("test")) == 2


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
