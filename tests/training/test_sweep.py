"""A grid becomes a study whose arms are runs of their own; what they reached is ranked over the seeds."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from steep.cli import main
from steep.config import load_recipe
from steep.errors import ConfigError
from steep.runs import Claim, Run, write_evidence
from steep.training.sweep import ranking, sweep

TINY = Path(__file__).parent.parent / "recipes" / "tiny.py"
RECIPE = load_recipe(TINY)
SHORT = ["--pretrain", "none", "--rl", "none", "--evals.0.config.problems", "1"]


def test_the_arms_are_all_combinations_with_all_seeds():
    made = sweep(replace(RECIPE, seed=7), ["sft.examples=2,4", "--sft.policy.optimizer.lr=1e-3"], 2)
    assert list(made.arms) == [
        "examples=2,lr=1e-3/7",
        "examples=2,lr=1e-3/8",
        "examples=4,lr=1e-3/7",
        "examples=4,lr=1e-3/8",
    ]
    last = made.arms["examples=4,lr=1e-3/8"].recipe
    assert (last.sft.examples, last.sft.policy.optimizer.lr, last.seed, last.threads) == (4, 1e-3, 8, 1)
    assert made.settings["examples=4,lr=1e-3/8"] == (
        "--threads=1", "--sft.examples=4", "--sft.policy.optimizer.lr=1e-3", "--seed=8",
    )  # fmt: skip
    assert list(sweep(RECIPE, [], 2).arms) == ["recipe/0", "recipe/1"]


def test_names_that_would_be_the_same_are_whole():
    lrs = ["sft.policy.optimizer.lr=1e-3", "rl.policy.optimizer.lr=1e-4"]
    (name,) = sweep(RECIPE, lrs, 1).arms
    assert name == "sft.policy.optimizer.lr=1e-3,rl.policy.optimizer.lr=1e-4/0"


@pytest.mark.parametrize(
    ("grid", "told"),
    [
        ("sft.polcy.optimizer.lr=1", "no field 'polcy' in SftConfig\n  did you mean policy?"),
        ("sft.examples=4,many", "--sft.examples many: Input should be a valid integer"),
        ("sft.examples=", "--grid sft.examples= gives a field no values"),
        ("seed=1,2", "a field is varied twice"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_begins(grid, told, tmp_path, capsys):
    assert main(["sweep", str(TINY), "--grid", "sft.steps=1", "--grid", grid, "--run", str(tmp_path / "x")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_field_is_varied_once():
    with pytest.raises(ConfigError, match="a field is varied twice"):
        sweep(RECIPE, ["sft.steps=1", "sft.steps=2"], 1)


def test_only_a_recipe_is_swept(capsys):
    assert main(["sweep", str(TINY.with_name("study.py"))]) == 2
    assert "study.py is no recipe of a single run" in capsys.readouterr().err


# The ranking


def swept(path: Path, losses: dict[str, list[float]], bar: str | None = None) -> Run:
    """A sweep whose arms recorded a loss and a reward, and claimed the loss under a bar."""
    made = sweep(RECIPE, ["sft.steps=" + ",".join(losses)], len(next(iter(losses.values()))))
    study = Run.create(path, recipe=TINY, overrides=[], config=made, seed=None)
    for name, value in zip(made.arms, [v for values in losses.values() for v in values], strict=True):
        with Run.create(path / name, recipe=TINY, overrides=[], config=made.arms[name].recipe, seed=0) as run:
            run.stage("rl").record(0, {"reward": 1 - value, "loss": value})
            if bar is not None:
                claim = Claim(id="level", value=value, low=value, high=value, bar=bar, command="x")
                run.stage("eval")
                write_evidence(run.path / "eval" / "claims.json", [claim], 1.0)
    return study


def test_settings_are_ranked_by_their_means(tmp_path):
    best, worst = ranking(swept(tmp_path, {"1": [0.5, 0.7, 0.9], "2": [0.1, 0.2, 0.3]}))
    assert (best.setting, worst.setting, best.finished, best.seeds) == ("steps=2", "steps=1", 3, 3)
    reward = best.figures["rl.reward"]
    assert reward.value == pytest.approx(0.8)
    assert reward.high - reward.value == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("by", "bar", "first"),
    [(None, None, "2"), ("rl.loss", None, "2"), ("level", "<= 1", "2"), ("level", ">= 0", "1"), (None, ">= 0", "1")],
)
def test_less_is_better_of_a_loss_and_under_an_upper_bar(tmp_path, by, bar, first):
    rows = ranking(swept(tmp_path, {"1": [0.5], "2": [0.1]}, bar), by)
    assert rows[0].setting == f"steps={first}"


def test_a_setting_that_diverged_is_last(tmp_path):
    rows = ranking(swept(tmp_path, {"1": [math.nan], "2": [0.9], "3": [0.1]}), "rl.loss")
    assert [row.setting for row in rows] == ["steps=3", "steps=2", "steps=1"]


def test_seeds_that_are_not_finished_are_left_out(tmp_path):
    study = swept(tmp_path, {"1": [0.5, 0.7], "2": [0.1, 0.2]})
    for arm in ("steps=1/0", "steps=2/0", "steps=2/1"):
        path = tmp_path / arm / "run.json"
        path.write_text(path.read_text().replace('"finished"', '"failed"'))
    best, none = ranking(study)
    assert (best.setting, best.finished, best.figures["rl.loss"].value) == ("steps=1", 1, 0.7)
    assert (none.finished, none.figures) == (0, {})


# The command line


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was_killed(tmp_path, capsys):
    path = tmp_path / "sweep"
    words = ["sweep", str(TINY), "--grid=sft.examples=2,4", "--run", str(path), *SHORT]
    assert main(words) == 0
    assert "setting, best first" in capsys.readouterr().out
    losses = {name: Run.open(path / name).stage("sft").metrics() for name in ("examples=2/0", "examples=4/0")}
    (path / "examples=4/0").rename(tmp_path / "lost")
    info = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(info | {"status": "running", "pid": 2**22 + 1}))
    log = (path / "examples=2/0.log").read_bytes()
    assert main(["resume", str(path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["settings"]
    assert sorted(row["setting"] for row in rows) == ["examples=2", "examples=4"]
    assert (path / "examples=2/0.log").read_bytes() == log
    assert {name: Run.open(path / name).stage("sft").metrics() for name in losses} == losses
    assert main([*words, "--by", "sft.los"]) == 2
    assert "the runs have no figure 'sft.los'\n  did you mean sft.loss or" in capsys.readouterr().err
