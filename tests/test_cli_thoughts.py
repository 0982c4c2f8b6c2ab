"""`steep thoughts`."""

import json
import shutil
from pathlib import Path

import pytest

from steep.cli import main

TINY = str(Path(__file__).parent / "recipes" / "tiny.py")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model that has learnt nothing."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", TINY, "--run", str(path), "--pretrain", "none", "--rl", "none"]) == 0
    return str(path)


def test_models_are_measured_beside_each_other(tiny, tmp_path, capsys):
    out = tmp_path / "thoughts"
    shutil.copytree(f"{tiny}/sft/model", tmp_path / "other" / "sft" / "model")
    words = [tiny, str(tmp_path / "other"), "--task", "countdown", "--problems", "6", "--budget", "8", "--answer", "4"]
    capsys.readouterr()
    assert main(["thoughts", *words, "--out", str(out), "--json"]) == 0
    printed, told = capsys.readouterr()
    found = json.loads(printed.splitlines()[-1])
    assert found["problems"] == 6
    (one, two) = found["models"].values()
    assert one == two
    figures = {figure["name"]: figure for figure in one}
    assert figures["does not end its thought by itself"]["rollouts"] == 6
    assert figures["rewarded where nothing is right"]["value"] == 0
    assert figures["right after a wrong step"] == figures["right after a wrong step"] | {"rollouts": 0, "value": "NaN"}
    assert "off the rails:" in told
    assert "examples of each figure: " in told
    kept = json.loads((out / "thoughts.json").read_text())
    assert kept["models"] == found["models"]
    assert [(c["seed"], c["budgets"], c["answer"]) for c in kept["configs"].values()] == [(0, [8], 4)] * 2
    assert "## off the rails: does not end its thought by itself" in (out / "thoughts.md").read_text()


def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(tiny, tmp_path, capsys, monkeypatch):
    (tmp_path / "afile").touch()
    monkeypatch.setattr("steep.cli.thoughts.figures", None)
    assert main(["thoughts", tiny, "--task", "countdown", "--out", str(tmp_path / "afile" / "out")]) == 2
    assert "afile/out: Not a directory" in capsys.readouterr().err


def test_a_model_is_named_once(tiny, capsys):
    assert main(["thoughts", tiny, f"{tiny}/sft", "--task", "countdown"]) == 2
    assert "is named twice" in capsys.readouterr().err


def test_a_model_without_thoughts_is_refused(neox, capsys):
    assert main(["thoughts", str(neox), "--task", "countdown"]) == 2
    assert "has no thought section" in capsys.readouterr().err
