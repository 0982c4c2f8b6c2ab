"""Run directories as a recipe leaves them, for the page to show, servers of tiny models, and a browser."""

import os
import shutil
import subprocess
import tempfile
from itertools import count
from pathlib import Path

import pytest

from steep.evals.report import report
from steep.runs import Run, write_json
from tests.evals.conftest import evaluated, new_run, reinforced, supervised, template
from tests.server.browsing import browser
from tests.server.serving import serving

__all__ = ["browser", "template"]


@pytest.fixture(scope="session")
def root(tmp_path_factory, template):
    """A finished run with everything, one under way, and a study with one of its two arms; read only."""
    root = tmp_path_factory.mktemp("runs")
    with new_run(root / "nano") as run:
        supervised(run, "pretrain", 60, template)
        stage = reinforced(run, template, finish=False)
        stage.log("health").append({"step": 7, "rule": "entropy", "reaction": "warn", "message": "fell by half"})
        stage.finish({})
        evaluated(run, template)
    study = {"_": "Study", "arms": {"0/main": {}, "0/control": {}}}
    Run.create(root / "study", recipe="recipes/study.py", overrides=[], config=study, seed=None)
    with new_run(root / "study/0/main") as run:
        supervised(run, "pretrain", 5, template)
    reinforced(new_run(root / "young"), template, steps=3, finish=False)
    return root


@pytest.fixture(scope="session")
def reported(root, tmp_path_factory):
    """A run and an evaluation of its model, both with a report; another evaluation, of a model elsewhere, without."""
    runs = tmp_path_factory.mktemp("reported")
    shutil.copytree(root / "nano", runs / "nano")
    for name, model in (("nano-rl-o1", runs / "nano" / "rl" / "model"), ("other", "/elsewhere/model")):
        shutil.copytree(root / "nano" / "eval", runs / "evals" / name)
        write_json(runs / "evals" / name / "eval.json", {"model": str(model), "command": f"steep eval {model}"})
    report([runs / "nano"], runs / "nano" / "report", alone=True)
    report([runs / "evals" / "nano-rl-o1"], runs / "evals" / "nano-rl-o1" / "report", alone=True)
    return runs


@pytest.fixture(scope="module")
def server():
    """Of a model whose answers end anywhere."""
    with serving() as client:
        yield client


@pytest.fixture(scope="module")
def endless():
    """Of a model whose answers are ended by limits alone."""
    with serving(endless=True) as client:
        yield client


@pytest.fixture(scope="session")
def postgres():
    """Makes an empty database of a PostgreSQL server, and gives its URL."""
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which("pg_ctl") or (installed and installed[-1] / "pg_ctl")
    if not found:
        pytest.skip("PostgreSQL is not installed")
    bin = Path(found).parent
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    home = Path(tempfile.mkdtemp(prefix="steep-postgres-"))
    if user is not None:
        shutil.chown(home, user)

    def call(program, *arguments):
        subprocess.run([bin / program, *arguments], user=user, cwd=home, check=True, stdout=subprocess.DEVNULL)

    data, numbers = home / "data", count()
    call("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
    options = f"-k {home} -c listen_addresses='' -c fsync=off"
    call("pg_ctl", "start", "-w", "-D", data, "-l", home / "log", "-o", options)

    def new():
        name = f"steep{next(numbers)}"
        with psycopg.connect(host=str(home), user="postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://postgres@/{name}?host={home}"

    yield new
    call("pg_ctl", "stop", "-m", "immediate", "-D", data)
    shutil.rmtree(home)
