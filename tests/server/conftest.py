"""Run directories as a recipe leaves them, for the page to show, servers of tiny models, and a browser."""

import pytest

from steep.runs import Run
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
