"""`steep card` and `steep compare`."""

import json
import shutil
from pathlib import Path

import pytest

from steep.cli import main

TINY = str(Path(__file__).parent / "recipes" / "tiny.py")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A run with a model that has learnt nothing, and its evaluation."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", TINY, "--run", str(path), "--pretrain", "none", "--rl", "none"]) == 0
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def last_json(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_card_is_made_of_what_is_on_disk(tiny, capsys):
    assert main(["card", str(tiny), "--json"]) == 0
    made = last_json(capsys)
    assert (made["model"], made["seconds"]) == (str(tiny), None)
    assert {cell["task"] for cell in made["cells"]} == {"arithmetic"}
    out = Path("runs/cards") / f"{tiny.parent.name}-tiny"
    assert json.loads((out / "card.json").read_text()) == made
    assert (out / "card.md").read_text().startswith(f"# {tiny}\n")


def test_a_model_of_which_nothing_is_known_is_measured(tiny, capsys):
    shutil.copytree(tiny / "sft" / "model", "alone")
    words = ["card", "alone", "--task", "letters", "--problems", "6", "--budget", "4", "--answer", "4"]
    assert main([*words, "--out", "measured", "--json"]) == 0
    made = last_json(capsys)
    assert [(cell["task"], cell["budget"]) for cell in made["cells"]] == [("letters", 0), ("letters", 4)]
    assert made["seconds"] > 0
    assert main([*words, "--out", "measured", "--json"]) == 0
    assert last_json(capsys)["seconds"] is None  # nothing is measured again, so nothing says how long it takes
    shutil.copytree("measured", "again")
    assert main(["compare", "measured", "again", "--json"]) == 0
    found = last_json(capsys)["differences"]
    assert [(one["budget"], one["problems"], one["difference"]["value"]) for one in found] == [(0, 6, 0.0), (4, 6, 0.0)]
    assert main(["compare", "measured", "again"]) == 0
    told = capsys.readouterr().out
    assert "letters, sampled: first measured, second again\n" in told
    assert "level" in told


def test_what_cannot_be_compared_is_told(tiny, capsys):
    assert main(["compare", str(tiny), str(tiny)]) == 2
    assert "a model is named twice" in capsys.readouterr().err
    assert main(["compare", str(tiny), "nothing"]) == 2
    assert "nothing was measured of nothing\n  measure it: steep eval nothing" in capsys.readouterr().err
