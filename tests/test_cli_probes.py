"""`steep probes`."""

import json
import re
from pathlib import Path

import pytest
import torch

from steep.cli import main
from steep.engines import save_model
from steep.evals.probes import SHIPPED, probes
from steep.models.transformer import ModelConfig, Transformer, initialise
from steep.tasks.verifiers import VERIFIERS
from steep.tokens import Template, Tokenizer, compact


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that has learnt nothing."""
    directory = tmp_path_factory.mktemp("models") / "random"
    template = Template(Tokenizer.train(["How many r's are in strawberry?"] * 3, 300, compact().control), compact())
    shape = ModelConfig(
        vocab_size=template.tokenizer.vocab_size, hidden_size=16, num_layers=1, num_heads=1, num_kv_heads=1,
        head_dim=16, intermediate_size=16, max_positions=512,
    )  # fmt: skip
    network = Transformer(shape)
    initialise(network, torch.Generator().manual_seed(0))
    save_model(directory, network, template)
    return str(directory)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def last_json(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_probes_are_listed_with_those_of_ones_own(capsys):
    assert main(["probes", "--json"]) == 0
    assert len(last_json(capsys)["probes"]) == 60
    words = ["How many e's are in cheese?", "--check", "number", "--answer", "3", "--category", "letters", "--id", "e"]
    assert main(["probes", "add", *words]) == 0
    assert "probes.jsonl has the probe probes/e: number '3'" in capsys.readouterr().out
    assert json.loads(Path("probes.jsonl").read_text())["split"] == "test"
    assert main(["probes", "list"]) == 0
    told = capsys.readouterr().out
    assert "  probes/e: How many e's are in cheese?\n" in told
    assert "\n61 probes" in told


def test_a_model_is_asked_without_and_with_a_thought(model, capsys):
    words = ["run", model, "--samples", "2", "--budget", "4", "--answer", "6", "--json"]
    assert main(["probes", *words]) == 0
    out, told = capsys.readouterr()
    found = json.loads(out.splitlines()[-1])
    assert re.search(r"random +random *\ncategory +probes +no thought +4 tokens *\n", told)
    (result,) = found["models"]
    assert result["tallies"].keys() == {"0", "4"}
    assert all(t["right"] + t["wrong"] + t["invalid"] == 2 for t in result["tallies"]["4"].values())
    assert {share["part"] for share in found["shares"]} >= {"all", "letters", "family"}
    assert len(Path("runs/probes.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(("history", "message"), [("afile/h.jsonl", "afile: "), (".", "Is a directory")])
def test_a_history_that_cannot_be_written_is_told_before_a_model_is_asked(history, message, model, capsys, monkeypatch):
    Path("afile").touch()
    monkeypatch.setattr("steep.cli.probes.ask", None)
    assert main(["probes", "run", model, "--history", history]) == 2
    assert message in capsys.readouterr().err


def test_what_came_back_since_the_last_time_is_told(model, capsys):
    words = ["probes", "run", model, "--budget", "0", "--answer", "2", "--file", "mine.jsonl"]
    Path("mine.jsonl").write_text('{"id": "any", "prompt": "Say it.", "answer": "(?s).*", "verifier": "regex"}\n')
    assert main(words) == 0
    line = json.loads(Path("runs/probes.jsonl").read_text())
    line["tallies"]["0"]["mine/any"] = {"right": 0, "wrong": 8, "invalid": 0, "reason": ""}
    line["tallies"]["0"]["probes/bat"] = {"right": 8, "wrong": 0, "invalid": 0, "reason": ""}
    Path("runs/probes.jsonl").write_text(json.dumps(line) + "\n")
    capsys.readouterr()
    assert main([*words, "--by", "probe"]) == 0
    told = capsys.readouterr().out
    assert "random without a thought, came back: A bat and a ball cost" in told
    assert "(8 of 8, now 0 of 8 right)" in told


def test_a_check_that_fails_is_invalid_and_shown(model, capsys, monkeypatch):
    def broken(gold, answer):
        raise RuntimeError("the checker is gone")

    monkeypatch.setitem(VERIFIERS, "exact", broken)
    words = ["--budget", "0", "--answer", "300", "--json"]  # by chance some of its answers end
    assert main(["probes", "run", model, *words]) == 0
    out, told = capsys.readouterr()
    assert "checks failed: RuntimeError: the checker is gone" in told
    assert " invalid\n" in told
    tallies = json.loads(out.splitlines()[-1])["models"][0]["tallies"]["0"]
    failed = {name for name, tally in tallies.items() if tally["invalid"]}
    assert failed
    assert failed <= {problem.id for problem in probes([SHIPPED]) if problem.key["verifier"] == "exact"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["walk"], "there is no `steep probes walk`"),
        (["run"], "`steep probes run` with 0 names"),
        (["add", "How many?"], "a probe needs its right answer"),
        (["run", "MODEL", "--answer", "three"], "--answer 'three' is no number of tokens"),
        (["list", "--file", "none.jsonl"], "there is no file none.jsonl"),
        (["add", "How many?", "--answer", "three", "--check", "number"], "its answer 'three' does not verify"),
    ],
)
def test_mistakes_are_told(words, message, model, capsys):
    assert main(["probes", *(model if word == "MODEL" else word for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_a_model_without_thoughts_is_asked_once(neox, capsys):
    Path("mine.jsonl").write_text('{"prompt": "2+3?", "answer": "5"}\n')
    assert main(["probes", "run", str(neox), "--samples", "1", "--answer", "2", "--file", "mine.jsonl", "--json"]) == 0
    out, told = capsys.readouterr()
    assert "has no thought section" in told
    assert json.loads(out.splitlines()[-1])["models"][0]["tallies"].keys() == {"0"}
