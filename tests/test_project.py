"""What is not code: the package's data, the pinned releases, the licence."""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import steep
from benchmarks import tables

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text()


def test_all_data_is_packaged():
    package = Path(steep.__file__).parent
    packaged = {
        path for pattern in PROJECT["tool"]["setuptools"]["package-data"]["steep"] for path in package.glob(pattern)
    }
    data = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    left_out = data - packaged - set(package.rglob("*.py"))
    assert sorted(str(path.relative_to(package)) for path in left_out) == []


def test_every_requirement_is_pinned():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    pinned = {line.split("==")[0] for line in lines}
    wanted = PROJECT["project"]["dependencies"] + required("dev") + required("gym")
    assert {re.match(r"[\w-]+", requirement)[0] for requirement in wanted} - pinned == set()


def required(extra: str) -> list[str]:
    """What an extra installs, with that of the extras it names."""
    found = []
    for requirement in PROJECT["project"]["optional-dependencies"][extra]:
        if others := re.fullmatch(r"steep\[(.*)\]", requirement):
            found += [each for other in others[1].split(",") for each in required(other)]
        else:
            found.append(requirement)
    return found


def test_the_command_is_there():
    assert PROJECT["project"]["scripts"] == {"steep": "steep.cli:main"}


def test_the_licence_is_whole():
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text


def test_skipped_tests_are_named():
    assert "-rs" in PROJECT["tool"]["pytest"]["ini_options"]["addopts"].split()


# Figures


def test_the_readme_quotes_the_figures_that_were_measured():
    """Each row of its tables names a claim; value, interval and bar are those in docs/results."""
    nano, arms, rivals = map(claims_in, ("nano.json", "nano_claims.json", "performance/*.json"))
    rows = re.findall(r"^\| .* \| `([\w.]+)` \| (.*) \| (.*), (holds|missed) \|$", README, re.M)
    quoted = {id: tuple(quote) for id, *quote in rows}
    assert len(quoted) == len(rows)
    expected = {id: in_words(claim, ".3f") for id, claim in nano.items()}
    measured = {id: in_words(claim, ".3g") for id, claim in rivals.items()}
    measured |= {id: in_words(claim, ".3f") for id, claim in arms.items()}
    assert quoted == expected | {id: measured[id] for id in quoted.keys() - expected.keys()}
    for some in (arms, rivals):  # where some are missed, one of those is quoted
        verdicts = {measured[id][-1] for id in some}
        assert {verdict for id, (*_, verdict) in quoted.items() if id in some} == verdicts


def test_the_page_of_performance_has_every_claim():
    page = (ROOT / "docs" / "performance.md").read_text()
    assert page == tables.page()
    rows = re.findall(r"^\| `([\w.]+)` \| (.*) \| (.*) \| (holds|missed) \|$", page, re.M)
    expected = {id: in_words(claim, ".3g") for id, claim in claims_in("performance/*.json").items()}
    assert {id: tuple(row) for id, *row in rows} == expected


def claims_in(files: str) -> dict[str, Any]:
    results = (ROOT / "docs" / "results").glob(files)
    return {claim["id"]: claim for path in results for claim in json.loads(path.read_text())["claims"]}


def in_words(claim: Mapping[str, Any], digits: str) -> tuple[str, str, str]:
    value, low, high = (format(claim[name], digits) for name in ("value", "low", "high"))
    spread = "" if claim["low"] == claim["high"] else f" ({low} to {high})"
    return f"{value}{spread}", claim["bar"], "holds" if claim["holds"] else "missed"


# make


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Runs the Makefile in an empty directory, and gives its exit status and what it said."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        done = subprocess.run(["make", "-f", ROOT / "Makefile", *words], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.parametrize("name", ["", "my env"])
def test_an_environment_has_a_name_of_one_word(name, make):
    for part in ("my", "env"):
        Path(part).mkdir()
    status, told = make("clean", f"VENV={name}")
    assert status == 2
    assert f'VENV is "{name}", which is not one path without spaces' in told
    assert Path("my").is_dir()
    assert Path("env").is_dir()


def test_clean_deletes_the_environment_alone_that_make_made(make):
    for name, files in {"notes": [], "other": ["pyvenv.cfg", "core.stamp"], "made": ["made.stamp"]}.items():
        Path(name).mkdir()
        for file in files:
            Path(name, file).touch()
    for name in ("notes", "other"):
        assert make("clean", f"VENV={name}")[0] == 0
        assert Path(name).is_dir()
    assert make("clean", "VENV=made")[0] == 0
    assert not Path("made").exists()


def test_an_environment_that_cannot_be_made_leaves_what_was_there(make):
    """A Python whose venv fails half way, as on Debian without python3-venv."""
    Path("python").write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\nmkdir -p $3/bin && touch $3/bin/python\nexit 1\n')
    Path("python").chmod(0o755)
    Path("there").mkdir()
    Path("there/notes").touch()
    for name in ("there", "new"):
        status, told = make(f"{name}/bin/python", f"VENV={name}", "PYTHON=./python")
        assert status == 2
        assert "apt install python3-venv" in told
    assert sorted(map(str, Path("there").rglob("*"))) == ["there/bin", "there/notes"]
    assert not Path("new").exists()
