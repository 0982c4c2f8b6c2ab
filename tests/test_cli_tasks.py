"""`steep tasks`, and `steep eval` and `steep train` on a file of problems."""

import json
import re
from pathlib import Path

import pytest

from steep.cli import main
from steep.cli.train import load
from steep.runs import Run
from steep.tasks.jsonl import FIELDS, Jsonl

TINY = str(Path(__file__).parent / "recipes" / "tiny.py")
SAMPLES = Path(__file__).parent / "tasks" / "samples"
GUIDE = Path(__file__).parent.parent / "docs" / "guide.md"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model that has learnt nothing."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", TINY, "--run", str(path), "--pretrain", "none", "--rl", "none"]) == 0
    return str(path)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STEEP_DATA", str(tmp_path / "data"))
    return tmp_path


def write(*rows, name="mine.jsonl"):
    Path(name).write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))


def sums(count=30):
    return [{"prompt": f"What is {n}+{n}?", "answer": 2 * n} for n in range(1, count + 1)]


def checked(capsys, *words):
    """The exit code, the object that is printed last, and all that is said."""
    code = main(["tasks", "check", *words, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


def test_a_good_file_is_shown_and_can_be_used(elsewhere, capsys):
    write(*sums())
    code, found, told = checked(capsys, "mine.jsonl", "--verifier", "number")
    assert (code, found["errors"], found["warnings"], found["overlaps"]) == (0, [], [], [])
    assert found["problems"] == sum(found["splits"].values()) == 30
    assert told.count("user: What is ") == 10
    assert "number '2'" in told
    assert "mine.jsonl can be used: steep eval MODEL --task mine.jsonl, steep train --model MODEL --task mi" in told


def test_the_examples_of_the_guide_can_be_used(elsewhere, capsys):
    guide = GUIDE.read_text()
    for name, kind, count in (("mine.jsonl", "json", 2), ("mine.py", "python", 98)):
        Path(name).write_text(guide.partition(f"```{kind}\n")[2].partition("```")[0])
        code, found, _ = checked(capsys, name)
        assert (code, found["problems"], found["errors"], found["warnings"]) == (0, count, [], [])
    named = re.findall(r"^\| `(\w+)` \|", guide, re.M)
    assert sorted([*named, "pass_rate"]) == sorted(FIELDS)


def test_every_error_is_told_with_its_line(elsewhere, capsys):
    same = {"prompt": "What is 9+9?", "answer": "18"}
    write({"prompt": "x"}, '{"prompt"\n', {"prompt": "5?", "answer": "five"}, same, same | {"colour": "red"})
    code, found, told = checked(capsys, "mine.jsonl", "--verifier", "number")
    assert code == 2
    assert [(error["line"], error["text"]) for error in found["errors"]] == [
        (1, "no answer"),
        (2, "not JSON: Expecting ':' delimiter at character 10"),
        (3, "its answer 'five' does not verify: invalid: the gold answer 'five' is not a number"),
    ]
    assert [(warning["line"], warning["text"]) for warning in found["warnings"]] == [
        (5, "the field 'colour' is not used"),
        (5, "the same problem as 4"),
    ]
    assert "errors: 3\n  line 1: no answer\n  line 2: not JSON" in told
    assert "Traceback" not in told


def test_many_errors_are_counted(elsewhere, capsys):
    write(*({"prompt": str(n)} for n in range(50)))
    code, found, told = checked(capsys, "mine.jsonl")
    assert (code, len(found["errors"])) == (2, 50)
    assert "errors: 50\n" in told
    assert "line 20: no answer\n  and 30 more\n" in told
    assert "line 21" not in told


def test_an_empty_file_is_an_error(elsewhere, capsys):
    write("\n")
    code, found, _ = checked(capsys, "mine.jsonl")
    assert (code, found["errors"]) == (2, [{"line": 1, "text": "there are no problems"}])


def test_patterns_are_tried_but_are_no_answers(elsewhere, capsys):
    write(*({"prompt": pattern, "answer": pattern, "verifier": "regex"} for pattern in ("[0-9]+", "(")))
    code, found, _ = checked(capsys, "mine.jsonl")
    assert code == 2
    assert [error["line"] for error in found["errors"]] == [2]


def test_thirteen_words_in_a_row_of_a_test_set_are_told(elsewhere, capsys):
    data = elsewhere / "data" / "gsm8k"
    data.mkdir(parents=True)
    (data / "test.jsonl").write_bytes((SAMPLES / "gsm8k" / "train.jsonl").read_bytes())
    ten_words = "Mara has 12 shells and finds 7 more. Then Mara gives half of them to Otto. How many are left?"
    thirteen_words = "Today MARA has 12 shells, and finds 7 more. Then Mara doubles all of hers."
    write(*sums(3), {"prompt": ten_words, "answer": 9}, {"prompt": thirteen_words, "answer": 38})
    code, found, told = checked(capsys, "mine.jsonl", "--verifier", "number")
    text = "gsm8k, problem 1: 'mara has 12 shells and finds 7 more then mara doubles all of'"
    assert (code, found["overlaps"]) == (0, [{"line": 5, "text": text}])
    assert f"problems that are in a test set: 1\n  line 5: {text}" in told


def test_what_a_file_was_not_compared_with_is_told(elsewhere, capsys):
    data = elsewhere / "data"
    for name in ("gsm8k", "svamp"):
        (data / name).mkdir(parents=True)
    (data / "gsm8k" / "test.jsonl").write_bytes((SAMPLES / "gsm8k" / "train.jsonl").read_bytes())
    (data / "svamp" / "test.jsonl").write_text("{}\n")
    write(*sums(3))
    code, found, told = checked(capsys, "mine.jsonl", "--verifier", "number")
    assert (code, found["not_compared"]) == (0, ["math", "svamp", "arc", "aime"])
    assert "not compared with math, svamp, arc, aime, which are not in $STEEP_DATA or cannot be read" in told


def test_a_task_whose_examples_raise_is_told(elsewhere, capsys):
    Path("mine.py").write_text(
        "from steep.tasks.arithmetic import Arithmetic\n"
        "class Raises(Arithmetic):\n"
        "    def verify(self, problem, answer):\n        raise KeyError('gone')\n"
        "class Without(Arithmetic):\n"
        "    def examples(self):\n        raise KeyError('lost')\n"
    )
    code, found, _ = checked(capsys, "mine.py:Raises")
    assert code == 2
    assert "is invalid, not correct: KeyError: 'gone'" in found["errors"][0]["text"]
    assert main(["tasks", "check", "mine.py:Without"]) == 2
    assert "the task arithmetic cannot make examples: KeyError: 'lost'" in capsys.readouterr().err


def test_a_published_set_is_checked_as_a_whole(elsewhere, capsys):
    data = elsewhere / "data" / "gsm8k"
    data.mkdir(parents=True)
    rows = [{"question": f"What is {n}+{n}?", "answer": f"It is #### {2 * n}"} for n in range(20)]
    (data / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:5]))
    (data / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[3:]))
    code, found, told = checked(capsys, "gsm8k")
    assert (code, found["problems"], found["splits"]["test"], found["left_out"]) == (0, 20, 5, 2)
    assert "2 more training problems are not used: they share 13 words in a row with a test problem" in told
    (data / "test.jsonl").write_text(json.dumps({"question": "Twelve?", "answer": "It is #### twelve"}))
    code, found, _ = checked(capsys, "gsm8k")
    assert (code, [error["line"] for error in found["errors"]]) == (2, [18])
    assert "its answer 'twelve' does not verify: invalid" in found["errors"][0]["text"]


def test_a_set_for_evaluation_only_is_checked(elsewhere, capsys, monkeypatch):
    monkeypatch.setenv("STEEP_DATA", str(SAMPLES))
    code, found, _ = checked(capsys, "aime")
    assert (code, found["problems"], found["splits"]) == (0, 1, {"test": 1})


def test_a_python_file_is_checked(elsewhere, capsys):
    Path("mine.py").write_text(
        "def problems():\n"
        "    return [{'prompt': f'A multiple of {n}?', 'answer': n} for n in range(1, 20)] + [{'prompt': 'none'}]\n"
        "def verify(problem, answer):\n"
        "    return problem.key['answer'] != '7' and int(answer) % int(problem.key['answer']) == 0\n"
    )
    code, found, told = checked(capsys, "mine.py")
    assert code == 2
    assert [error["line"] for error in found["errors"]] == [20, 7]
    assert "row 7: its answer '7' does not verify: wrong" in told
    assert "row 20: no answer" in told


def test_a_task_object_is_checked_by_its_examples(elsewhere, capsys):
    Path("mine.py").write_text("from steep.tasks.arithmetic import Arithmetic\nTASK = Arithmetic(levels=(1,))\n")
    code, found, _ = checked(capsys, "mine.py")
    assert (code, found["errors"]) == (0, [])
    assert found["splits"]["train"] == 50


def test_a_model_shows_whether_there_is_signal(tiny, elsewhere, capsys):
    write(*sums(), {"prompt": "Say anything.", "answer": "(?s).*", "verifier": "regex", "split": "train"})
    words = ["--model", tiny, "--samples", "2", "--problems", "6", "--budget", "4", "--verifier", "number"]
    code, found, told = checked(capsys, "mine.jsonl", *words)
    assert code == 0
    signal = found["signal"]
    assert signal["never"] + signal["sometimes"] + signal["always"] + signal["invalid"] == 6
    assert (signal["group_size"], found["levels"]) == (16, [])
    assert "problems  never  sometimes  always     pass@1     pass@2  signal\nall" in told
    assert "<|user|>" in told


def test_a_generated_task_is_checked_and_measured_by_level(tiny, elsewhere, capsys):
    words = ["--model", tiny, "--samples", "2", "--problems", "12", "--budget", "4"]
    code, found, told = checked(capsys, "arithmetic", *words)
    assert (code, found["errors"], found["signal"]["never"]) == (0, [], 12)
    assert [(level["level"], level["never"]) for level in found["levels"]] == [(level, 2) for level in range(1, 7)]
    assert "\nlevel 6         2      2          0       0  0% (0-66)  0% (0-66)      0%\n" in told
    assert "no signal: RL has nothing to learn from; start with easier problems or demonstrations\n" in told


def test_problems_in_between_are_kept_with_the_held_out_ones(tiny, elsewhere, capsys):
    lines = [{"prompt": f"Say {n}.", "answer": answer, "verifier": "regex"} for n, answer in enumerate([".*", "x"] * 9)]
    write(*lines)
    words = ["--model", tiny, "--samples", "2", "--problems", "99", "--budget", "4", "--keep", "kept.jsonl"]
    assert checked(capsys, "mine.jsonl", *words, "--between", "0", "0.1")[0] == 0
    kept = [json.loads(line) for line in Path("kept.jsonl").read_text().splitlines()]
    whole = {problem.id.partition("/")[2]: problem for problem in Jsonl(file=Path("mine.jsonl")).every()}
    again = {problem.id.partition("/")[2]: problem for problem in Jsonl(file=Path("kept.jsonl")).every()}
    assert {name for name, p in whole.items() if p.split != "train"} <= again.keys()
    assert all((p.prompt, p.key, p.split) == (whole[n].prompt, whole[n].key, whole[n].split) for n, p in again.items())
    assert {row["pass_rate"] for row in kept if row["split"] == "train"} == {0.0}
    assert all("pass_rate" not in row for row in kept if row["split"] != "train")
    assert main(["tasks", "check", "mine.jsonl", *words]) == 2
    assert "cannot be written to kept.jsonl" in capsys.readouterr().err


def test_tasks_are_listed(elsewhere, capsys, monkeypatch):
    monkeypatch.setenv("STEEP_DATA", str(SAMPLES))
    assert main(["tasks", "--json"]) == 0
    tasks = {task["name"]: task["problems"] for task in json.loads(capsys.readouterr().out)["tasks"]}
    assert tasks["countdown"] == "generated"
    assert tasks["gsm8k"] == "on this machine"
    monkeypatch.delenv("STEEP_DATA")
    assert main(["tasks", "list"]) == 0
    assert "from the hub" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tasks", "chek", "x.jsonl"], "there is no `steep tasks chek`\n  did you mean check?"),
        (["tasks", "check"], "`steep tasks check` with 0 names"),
        (["tasks", "check", "no.jsonl"], "there is no file no.jsonl"),
        (["tasks", "check", "gsm9k"], "there is no task 'gsm9k'\n  did you mean gsm8k?"),
        (["tasks", "check", "mine.jsonl", "--keep", "k.jsonl"], "--keep needs pass rates\n  name the model"),
        (["tasks", "check", "countdown", "--keep", "k.jsonl", "--model", "m"], "countdown checks answers by itself"),
        (["tasks", "check", "own.py", "--keep", "k.jsonl", "--model", "m"], "own checks answers by itself"),
        (
            ["tasks", "check", "mine.jsonl", "--keep", "k.txt", "--model", "m"],
            "cannot be written to k.txt\n  name a new",
        ),
        (["tasks", "check", "mine.jsonl", "--keep", "no/k.jsonl", "--model", "m"], "cannot be written to no/k.jsonl"),
        (["tasks", "check", "mine.jsonl", "--between", "0.9", "0.1"], "no pass rates between 0.9 and 0.1"),
        (["tasks", "check", "mine.jsonl", "--verifier", "maths"], "there is no verifier 'maths'\n  did you mean math?"),
        (["tasks", "check", "mine.jsonl", "--model", "nowhere"], "there is no model at nowhere"),
        (["eval", "nowhere", "--task", "arithmetic", "--verifier", "math"], "arithmetic has a verifier of its own"),
        (["eval", "nowhere", "--task", "mine.csv"], "there is no task 'mine.csv'"),
    ],
)
def test_mistakes_are_told(words, message, elsewhere, capsys):
    write(*sums(2))
    Path("own.py").write_text("def problems(): return []\ndef verify(problem, answer): return True\n")
    assert main(words) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


@pytest.mark.parametrize("name", ["mine.jsonl", "mine.py"])
def test_eval_takes_a_file(name, tiny, elsewhere, capsys):
    write(*sums(), name="mine.jsonl")
    Path("mine.py").write_text(f"def problems(): return {sums()!r}\ndef verify(problem, answer): return False\n")
    words = ["--task", name, "--verifier", "number", "--budgets", "0", "--problems", "4", "--out", "e"]
    assert main(["eval", tiny, *words, "--answer", "4", "--json"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert (cell["task"], cell["budget"], cell["invalid"]) == ("mine", 0, 0)
    settings = json.loads(Path("e/eval.json").read_text())
    assert settings["task"]["file"] == str(elsewhere / name)


def test_eval_of_a_file_with_a_mistake_names_the_line(tiny, elsewhere, capsys):
    write(*sums(2), {"prompt": "x"})
    assert main(["eval", tiny, "--task", "mine.jsonl"]) == 2
    assert "mine.jsonl, line 3: no answer\n  `steep tasks check " in capsys.readouterr().err


SHORT = [
    *("--sft.steps", "2", "--sft.examples", "2", "--engine.context", "256"),
    *("--watch.problems", "2", "--watch.budgets", "0,4", "--watch.answer", "8"),
    *("--rl.num_steps", "1", "--rl.groups_per_step", "2", "--rl.rollouts.thought", "2,4", "--rl.rollouts.answer", "4"),
    *("--evals.0.config.problems", "2", "--evals.0.config.eval.budgets", "0,4"),
]


def test_a_model_is_trained_on_a_file(tiny, elsewhere, capsys):
    write(*sums(60))
    words = ["train", "--model", tiny, "--task", "mine.jsonl", "--verifier", "number", *SHORT[4:]]
    assert main(words) == 0
    assert "sft is left out: mine lacks demonstrations\n" in capsys.readouterr().out
    run = Run.open(Path("runs/mine"))
    assert [stage.name for stage in run.stages()] == ["rl", "eval"]
    assert {row["task"] for row in run.stage("rl").rollouts()} == {"mine"}
    assert {(c["model"], c["budget"]) for c in json.loads(Path("runs/mine/eval/cells.json").read_text())} == {
        (model, budget) for model in ("start", "rl") for budget in (0, 4)
    }
    assert run.info.overrides[:6] == ("--task", "mine.jsonl", "--verifier", "number", "--start", tiny)
    assert main(words) == 0  # finished, and still the same run


def test_demonstrations_are_learnt_from_first(tiny, elsewhere):
    write(*(row | {"thought": "I know."} for row in sums(60)))
    assert main(["train", "--model", tiny, "--task", "mine.jsonl", "--run", "shown", *SHORT]) == 0
    assert [stage.name for stage in Run.open(Path("runs/shown")).stages()] == ["sft", "rl", "eval"]


def test_a_file_that_changed_is_noticed(tiny, elsewhere, capsys, monkeypatch):
    write(*sums(60))
    monkeypatch.setattr("steep.cli.train.run_recipe", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    assert main(["train", "--model", tiny, "--task", "mine.jsonl", "--rl.num_steps", "7"]) == 130
    assert main(["resume", "runs/mine"]) == 130
    write(*sums(61))
    capsys.readouterr()
    assert main(["resume", "runs/mine"]) == 2
    assert "own is not what runs/mine began with: tasks.0.task.sha256" in capsys.readouterr().err


def test_a_recipe_takes_other_tasks_and_leaves_out_what_they_cannot_feed(tiny, elsewhere, capsys):
    write(*sums(60))
    words = ["--task", "mine.jsonl", "--task", "arithmetic", "--start", tiny, "--tasks.1.weight", "3"]
    recipe = load(TINY, words)
    assert [(share.task.name, share.weight) for share in recipe.tasks] == [("mine", 1), ("arithmetic", 3)]
    assert [suite.task.name for suite in recipe.evals] == ["mine", "arithmetic"]
    assert (recipe.pretrain, recipe.sft, recipe.rl.num_steps) == (None, None, 3)
    assert capsys.readouterr().out == (
        "pretrain is left out: mine has no documents\nsft is left out: mine lacks demonstrations\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "there is nothing to train on"),
        (["own"], "the recipe has no tasks"),
        (["--task", "mine.jsonl"], "random weights learn nothing from problems alone\n  start from a model: --model"),
        (["--task", "mine.jsonl", "--model", "nowhere"], "there is no model at nowhere"),
        (["--task", "none.jsonl"], "there is no file none.jsonl"),
        (["--task", "few.jsonl"], "few has no problems in split 'valid'"),
        ([TINY, "--verifier", "number"], "--verifier is for the files of --task"),
        ([TINY, "--task", "mine.jsonl", "--task", "mine.jsonl"], "two tasks of the mixture are called 'mine'"),
    ],
)
def test_mistakes_in_training_on_a_file_leave_no_run(words, message, elsewhere, capsys):
    write(*sums(60))
    write({"prompt": "1+1?", "answer": 2, "split": "train"}, name="few.jsonl")
    assert main(["train", *words]) == 2
    assert message in capsys.readouterr().err
    assert not Path("runs").exists()
