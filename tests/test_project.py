"""What is not code: the package's data, the pinned releases, the licence."""

import re
import tomllib
from pathlib import Path

import steep

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


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
    wanted = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
    assert {re.match(r"[\w-]+", requirement)[0] for requirement in wanted} - pinned == set()


def test_the_command_is_there():
    assert PROJECT["project"]["scripts"] == {"steep": "steep.cli:main"}


def test_the_licence_is_whole():
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert "END OF TERMS AND CONDITIONS" in text
