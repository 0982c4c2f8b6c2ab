import json
import math
import subprocess

import pytest

from steep.runs import Claim, environment, evidence, write_evidence


def claim(value=0.97, bar=">= 0.95", **changes):
    arguments = {"id": "r2", "value": value, "low": value, "high": value, "bar": bar, "command": "steep train nano"}
    return Claim(**(arguments | changes))


@pytest.mark.parametrize(
    ("value", "bar", "holds"),
    [
        (0.95, ">= 0.95", True),
        (0.9499, ">= 0.95", False),
        (0.2, "<= 0.2", True),
        (0.2, "<0.2", False),
        (1e-7, "< 1e-6", True),
        (-3, "> -4", True),
        (0, "== 0", True),
        (1, "== .5", False),
    ],
)
def test_bars(value, bar, holds):
    assert claim(value, bar).holds is holds


@pytest.mark.parametrize("bar", ["", "0.95", "good", ">= ", ">= x", "=> 0.95", ">= 0.95 or so", ">= nan", "95%", "= 1"])
def test_bars_that_cannot_be_read_are_refused(bar):
    with pytest.raises(ValueError, match="is not like"):
        claim(bar=bar)


def test_figures_that_were_not_measured_are_refused():
    with pytest.raises(ValueError, match="was not measured"):
        claim(math.nan)
    with pytest.raises(ValueError, match="was not measured"):
        claim(high=math.inf)
    with pytest.raises(ValueError, match="above high"):
        claim(low=1.0, high=0.5)
    with pytest.raises(ValueError, match="more than once: r2"):
        evidence([claim(), claim()], 1.0)


def test_evidence_on_disk(tmp_path):
    document = write_evidence(tmp_path / "r2.json", [claim(low=0.95, high=0.98)], 512.34)
    assert json.loads((tmp_path / "r2.json").read_text()) == document
    assert document["claims"] == [
        {
            "id": "r2", "value": 0.97, "low": 0.95, "high": 0.98, "bar": ">= 0.95", "holds": True,
            "command": "steep train nano",
        }
    ]  # fmt: skip
    assert document["seconds"] == 512.3
    assert "torch" in document["versions"]
    assert "cores" in document["machine"]


def test_commit_is_that_of_the_checkout_and_of_no_other_repository(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True)

    package = tmp_path / "steep"
    package.mkdir()
    assert environment.git(package) is None
    (package / "a.py").touch()
    git("init")
    git("add", ".")
    git("commit", "-m", "one")
    assert environment.git(package)["dirty"] is False
    (package / "a.py").write_text("changed")
    assert environment.git(package)["dirty"] is True
    assert len(environment.git(package)["commit"]) == 40
    nested = tmp_path / "venv" / "steep"
    nested.mkdir(parents=True)
    assert environment.git(nested) is None
