"""What is not code: the package's data, the pinned releases, the licence."""

import json
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


def test_the_readme_quotes_the_figures_that_were_measured():
    """Each row of the table names a claim; value, interval and bar are those of docs/results/nano.json."""
    claims = {c["id"]: c for c in json.loads((ROOT / "docs/results/nano.json").read_text())["claims"]}
    rows = re.findall(r"^\| .* \| `(nano\.\w+)` \| (.*) \| (.*) \|$", (ROOT / "README.md").read_text(), re.M)
    assert {id for id, _, _ in rows} == set(claims)
    for id, figure, bar in rows:
        claim = claims[id]
        assert figure == f"{claim['value']:.3f} ({claim['low']:.3f} to {claim['high']:.3f})"
        assert bar == f"{claim['bar']}, {'holds' if claim['holds'] else 'missed'}"
