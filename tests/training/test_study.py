"""Arms begin in their order, fail alone, stop with the study, and are not run twice."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from steep.cli import main
from steep.config import load_recipe, override, to_json
from steep.errors import ConfigError, SteepError
from steep.runs import Run, Stage, TrainingLeft, read_claims, steps
from steep.training.study import Arm, Study, carry_out_arms, run_study, standing, within, workers

STUDY = Path(__file__).parent.parent / "recipes" / "study.py"
RECIPE = load_recipe(STUDY.with_name("tiny.py"))


def arm(*after: str, start: str | None = None) -> Arm:
    return Arm(recipe=replace(RECIPE, start=start), after=after)


def script(path: Path, bodies: dict[str, str]):
    """Arms as small programs: each writes its name to `order` when it begins and when it ends."""

    def command(name: str) -> list[str]:
        note = f"open({str(path / 'order')!r}, 'a').write({name!r} + "
        body = f"import sys, time\n{note}' begins\\n')\n{bodies.get(name, '')}\n{note}' ends\\n')\n"
        return [sys.executable, "-c", body]

    return command


def order(path: Path) -> list[str]:
    return (path / "order").read_text().splitlines()


# The config


@pytest.mark.parametrize(
    ("arms", "told"),
    [
        ({"a": arm("b")}, "the arm a waits for b, which is no arm\n  there are: a"),
        ({"a": arm("b"), "b": arm("a")}, "arms wait for each other: "),
        ({"a": arm(), "a/b": arm()}, "the arm a/b lies within another arm"),
        ({"../a": arm()}, "'../a' cannot be the name of an arm"),
        ({"/a": arm()}, "'/a' cannot be"),
        ({"a": arm(), "b": arm(start="{study}/a/sft")}, "the arm b starts from {study}/a/sft without waiting for it"),
    ],
)
def test_a_study_that_cannot_be_carried_out_is_refused(arms, told):
    with pytest.raises(ConfigError) as error:
        Study(arms=arms)
    assert told in str(error.value)


def test_an_arm_starts_from_a_model_of_another():
    study = Study(arms={"a": arm(), "b": arm("a", start="{study}/a/sft"), "c": arm(start="elsewhere")})
    assert within(Path("runs/x"), study.arms["b"].recipe).start == "runs/x/a/sft"
    assert within(Path("runs/x"), study.arms["c"].recipe).start == "elsewhere"
    assert within(Path("runs/x"), study.arms["a"].recipe) == study.arms["a"].recipe


def test_a_study_is_overridden_as_far_as_its_own_fields_go():
    study = Study(arms={"a": arm()})
    assert override(study, ["--workers", "3"]).workers == 3
    with pytest.raises(ConfigError, match="no field 'a' in dict"):
        override(study, ["--arms.a.recipe.seed", "1"])
    with pytest.raises(ConfigError, match="no field 'seed' in Study"):
        override(study, ["--seed", "1"])
    with pytest.raises(ConfigError, match="0 workers"):
        override(study, ["--workers", "0"])


# The order of things


def test_arms_wait_for_those_that_they_come_after(tmp_path: Path):
    study = Study(arms={"0/late": arm("0/early"), "0/early": arm(), "1/own": arm("0/late")}, workers=3)
    file = io.StringIO()
    carry_out_arms(tmp_path, study, script(tmp_path, {"0/early": "print('hello')"}), Console(file=file))
    names = ("0/early", "0/late", "1/own")
    assert order(tmp_path) == [f"{name} {what}" for name in names for what in ("begins", "ends")]
    assert (tmp_path / "0/early.log").read_text() == "hello\n"
    told = file.getvalue().splitlines()
    assert told[:3] == [f"{tmp_path.name}: 0/3", "0/early: begun", "0/early: finished"]
    assert told[-1] == f"{tmp_path.name}: 3/3"


def test_no_more_than_the_workers_are_under_way(tmp_path: Path):
    study = Study(arms={name: arm() for name in "abcd"}, workers=2)
    carry_out_arms(tmp_path, study, script(tmp_path, dict.fromkeys("abcd", "time.sleep(0.2)")), Console(quiet=True))
    under_way = most = 0
    for line in order(tmp_path):
        under_way += 1 if line.endswith("begins") else -1
        most = max(most, under_way)
    assert most == 2


def test_an_arm_that_fails_stops_only_those_that_wait_for_it(tmp_path: Path):
    study = Study(arms={"bad": arm(), "after": arm("bad"), "good": arm()}, workers=1)
    bodies = {"bad": "print('begun\\nsteep: the disk is full\\n  free some space'); sys.exit(2)"}
    with pytest.raises(SteepError) as error:
        carry_out_arms(tmp_path, study, script(tmp_path, bodies), Console(quiet=True))
    assert error.value.message == "2 of 3 arms are not finished\n  bad: the disk is full\n  after: waits for bad"
    assert f"go on with `steep resume {tmp_path}`" in error.value.fix
    assert order(tmp_path) == ["bad begins", "good begins", "good ends"]


def test_the_reason_of_a_bug_is_its_last_line(tmp_path: Path):
    (tmp_path / "bad.log").write_text("steep: of an earlier process\n")
    for body, why in (("raise ValueError('x')", "ValueError: x"), ("sys.exit(3)", "exit code 3")):
        with pytest.raises(SteepError, match=why):
            carry_out_arms(tmp_path, Study(arms={"bad": arm()}), script(tmp_path, {"bad": body}), Console(quiet=True))


def test_finished_arms_are_not_run_again(tmp_path: Path):
    study = Study(arms={"a": arm(), "b": arm("a")})
    with Run.create(tmp_path / "a", recipe="x.py:a", overrides=[], config=RECIPE, seed=0):
        pass
    carry_out_arms(tmp_path, study, script(tmp_path, {}), Console(quiet=True))
    assert order(tmp_path) == ["b begins", "b ends"]


def test_claims_that_raise_are_the_recipes_to_mend(tmp_path: Path):
    study = Study(arms={"a": arm()}, claims=lambda runs: [runs["b"]])  # type: ignore[list-item]
    with Run.create(tmp_path / "a", recipe="x.py:a", overrides=[], config=RECIPE, seed=0):
        pass
    with Run.create(tmp_path / "study", recipe="x.py", overrides=[], config=study, seed=0) as run:
        (tmp_path / "a").rename(run.path / "a")
        with pytest.raises(ConfigError, match=r"x.py: KeyError: 'b'\n  mend the recipe"):
            run_study(run, study, script(tmp_path, {}), Console(quiet=True))


def test_ctrl_c_asks_the_arms_to_save(tmp_path: Path):
    saves = "try: time.sleep(60)\nexcept KeyboardInterrupt: print('saved'); sys.exit(130)"
    study = Study(arms={"a": arm(), "b": arm(), "c": arm()})

    def interrupt():
        while not (tmp_path / "order").exists() or len(order(tmp_path)) < 2:
            time.sleep(0.01)
        time.sleep(0.2)  # until both are in their `try`
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        carry_out_arms(tmp_path, study, script(tmp_path, dict.fromkeys("abc", saves)), Console(quiet=True))
    thread.join()
    assert [(tmp_path / f"{name}.log").read_text() for name in "ab"] == ["saved\n", "saved\n"]
    assert not (tmp_path / "c.log").exists()


# What is told


def test_how_far_an_arm_is(tmp_path: Path):
    path = tmp_path / "arm"
    assert standing(path) == "starts"
    with Run.create(path, recipe="x.py", overrides=[], config=RECIPE, seed=0) as run:
        assert standing(path) == "starts"
        stage = run.stage("sft")
        assert standing(path) == "sft"
        stage.record(0, {"loss": 2.5, "lr": 0.1})
        (path / "sft" / "timing.jsonl").write_text(json.dumps({"step": 0, "elapsed_s": 20.0}) + "\n")
        assert standing(path) == "sft 1/3, loss 2.5, 40 s left in sft"
        run.stage("eval")
        assert standing(path) == "eval"
    assert [steps(run.info.config, name) for name in ("pretrain", "sft", "rl", "eval")] == [3, 3, 3, None]


def test_the_training_left_is_what_recorded_steps_took(tmp_path: Path):
    recipe = to_json(replace(RECIPE, rl=None))
    paths = [tmp_path / name for name in "ab"]

    def record(path: Path, steps: int, elapsed_s: float) -> None:
        path.mkdir(parents=True)
        (path / "timing.jsonl").write_text(json.dumps({"step": steps - 1, "elapsed_s": elapsed_s}) + "\n")

    record(paths[0] / "pretrain", 3, 30.0)
    assert TrainingLeft((path, recipe) for path in paths).seconds() is None  # nobody has fine-tuned yet
    record(paths[0] / "sft", 1, 7.0)
    left = TrainingLeft((path, recipe) for path in paths)
    assert left.seconds() == 3 * 10.0 + (2 + 3) * 7.0
    record(paths[1] / "sft", 3, 21.0)
    assert left.seconds() == 3 * 10.0 + (2 + 3) * 7.0  # not looked at again so soon


def test_as_many_arms_run_at_once_as_there_are_cores_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("steep.training.study.machine", lambda: {"cores": 8})
    arms = {str(threads): Arm(recipe=replace(RECIPE, device="cpu", threads=threads)) for threads in (1, 3)}
    assert workers(Study(arms=arms, workers=None)) == 2
    assert workers(Study(arms={"all": Arm(recipe=replace(RECIPE, device="cpu"))}, workers=None)) == 1
    assert workers(Study(arms=arms, workers=5)) == 5


# The command line


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two arms that was carried out."""
    path = tmp_path_factory.mktemp("runs") / "study"
    assert main(["train", str(STUDY), "--run", str(path)]) == 0
    return path


def test_a_study_trains_its_arms_and_writes_its_claims(study: Path, capsys: pytest.CaptureFixture[str]):
    assert [Run.open(study / name).status for name in ("0/main", "0/further", "")] == ["finished"] * 3
    assert Run.open(study / "0/further").info.recipe == f"{STUDY}:0/further"
    (claim,) = read_claims(study / "claims.json")
    assert (claim.id, claim.value, claim.holds) == ("study.steps", 3.0, True)
    assert json.loads((study / "claims.json").read_text())["seconds"] > 0
    before, further = (Stage(study / name / "sft").metrics() for name in ("0/main", "0/further"))
    assert before[0]["loss"] != further[0]["loss"]


def test_a_finished_study_tells_its_claims_again(study: Path, capsys: pytest.CaptureFixture[str]):
    logs = {name: (study / f"{name}.log").read_bytes() for name in ("0/main", "0/further")}
    for words in (["train", str(STUDY), "--run", str(study)], ["resume", str(study)]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert "study.steps" in out
        assert ">= 3  holds" in out
    assert {name: (study / f"{name}.log").read_bytes() for name in logs} == logs


def test_arms_are_listed_below_their_study(study: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["runs", "--root", str(study.parent), "--json"]) == 0
    runs = json.loads(capsys.readouterr().out.splitlines()[-1])["runs"]
    assert [run["name"] for run in runs] == ["study", "study/0/further", "study/0/main"]
    assert {run["status"] for run in runs} == {"finished"}
    assert main(["runs", "show", "study/0/main", "--root", str(study.parent)]) == 0
    assert f"recipe   {STUDY}:0/main" in capsys.readouterr().out


def test_an_arm_that_was_killed_is_resumed(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """As a kill in the middle of fine-tuning leaves it: begun, not finished, without the arm that waits for it."""
    path = tmp_path / "study"
    main(["train", f"{STUDY}:0/main", "--run", str(path)])
    info = json.loads((path / "0/main/run.json").read_text())
    (path / "0/main/run.json").write_text(json.dumps(info | {"status": "running", "pid": 2**22 + 1}))
    (path / "0/main/sft/done.json").unlink()
    Run.create(tmp_path / "other", recipe=STUDY, overrides=[], config=load_recipe(STUDY), seed=None)
    (tmp_path / "other" / "run.json").rename(path / "run.json")
    assert main(["resume", str(path)]) == 0
    assert len(Run.open(path / "0/main").info.resumed) == 1
    for name in ("0/main", "0/further"):
        assert Stage(path / name / "sft").metrics() == Stage(study / name / "sft").metrics()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent is gone")
def test_arms_save_and_stop_when_their_study_is_killed(tmp_path: Path):
    recipe = tmp_path / "long.py"
    recipe.write_text(
        "from dataclasses import replace\nfrom pathlib import Path\nfrom steep.config import load_recipe\n"
        "from steep.training.study import Arm, Study\n"
        f"tiny = load_recipe(Path({str(STUDY.with_name('tiny.py'))!r}))\n"
        "def config():\n    sft = replace(tiny.sft, steps=10**6, checkpoint_every=10**6)\n"
        "    return Study(arms={'a': Arm(recipe=replace(tiny, pretrain=None, sft=sft, threads=1))})\n"
    )
    path = tmp_path / "study"
    study = subprocess.Popen([sys.executable, "-m", "steep.cli", "train", str(recipe), "--run", str(path)])
    wait_until((path / "a/sft/metrics.jsonl").exists)
    study.kill()
    study.wait()
    wait_until(lambda: Run.open(path / "a").status == "stopped")
    (saved,) = (path / "a/sft/checkpoints").iterdir()
    assert Run.open(path).status == "interrupted"
    assert int(saved.name.removeprefix("step-")) == len(Stage(path / "a/sft").metrics())


def wait_until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([f"{STUDY}:0/mian"], "has no arm '0/mian'\n  did you mean 0/main?"),
        ([f"{STUDY.with_name('tiny.py')}:a"], "tiny.py is no study, so it has no arm a"),
        ([str(STUDY), "--seed", "1"], "there is no field 'seed' in Study"),
    ],
)
def test_mistakes_with_arms_are_told(words, told, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["train", *words, "--run", str(tmp_path / "x")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
