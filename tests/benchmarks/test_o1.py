"""The bars of the o1 evaluation on a run that learned nothing: what is measured is claimed, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.o1 import rising_part
from steep.evals.suite import Cell

ROOT = Path(__file__).parent.parent.parent


def cell(budget, value, half=0.02):
    return Cell(
        model="rl", task="countdown", level=None, mode="sampled", budget=budget, problems=9, value=value,
        low=value - half, high=value + half, thought=0.0, interrupted=0.0, invalid=0,
    )  # fmt: skip


def test_the_rising_part_leaves_out_what_is_level():
    level = [cell(0, 0.01), cell(16, 0.05), cell(32, 0.06)]
    rising = [cell(64, 0.3), cell(128, 0.5), cell(256, 0.69)]
    assert rising_part([*level, *rising, cell(512, 0.7), cell(1024, 0.68)]) == (32, 64, 128, 256)
    assert rising_part([cell(16, 0.1), *rising]) == (16, 64, 128, 256)


@pytest.mark.slow
@pytest.mark.timeout(900)  # seven processes, of which each imports torch
def test_the_script_measures_a_run(tmp_path):
    def run(*words):
        return subprocess.run([sys.executable, "-m", *words], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)

    path = tmp_path / "tiny"
    run("steep.cli", "train", "tests/recipes/tiny.py", "--run", path)
    done = run("benchmarks.o1", path, "--quick", "--json", "--work", tmp_path / "o1")
    claims = {claim["id"]: claim for claim in json.loads(done.stdout)["claims"]}
    assert json.loads((tmp_path / "o1" / "o1.json").read_text())["claims"] == list(claims.values())
    assert claims["o1.grid_s"]["holds"]
    assert claims["o1.probes_s"]["value"] > 0
    assert claims["o1.cut_against_separate"]["value"] >= 0
    assert not any("forecast" in id or "planted" in id for id in claims)  # there is nothing to measure it on
