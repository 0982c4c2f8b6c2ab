"""What is not code: the package's data, the pinned releases, the licence."""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    """Each row of its tables names a claim; value, interval and bar are those in docs/results."""
    nano = claims_in("nano.json")
    assert set(nano) <= check_rows(nano, digits=".3f")
    rivals = claims_in("performance/*.json")
    assert check_rows(rivals, digits=".3g")


def claims_in(files: str) -> dict[str, Any]:
    results = (ROOT / "docs" / "results").glob(files)
    return {claim["id"]: claim for path in results for claim in json.loads(path.read_text())["claims"]}


def check_rows(claims: Mapping[str, Any], digits: str) -> set[str]:
    """The claims that README quotes, all of them rightly."""
    rows = re.findall(r"^\| .* \| `([\w.]+)` \| (.*) \| (.*) \|$", (ROOT / "README.md").read_text(), re.M)
    found = {id: (figure, bar) for id, figure, bar in rows if id in claims}
    for id, (figure, bar) in found.items():
        value, low, high = (format(claims[id][name], digits) for name in ("value", "low", "high"))
        assert figure == f"{value} ({low} to {high})"
        assert bar == f"{claims[id]['bar']}, {'holds' if claims[id]['holds'] else 'missed'}"
    assert {id for id, _, _ in rows} <= {*claims_in("nano.json"), *claims_in("performance/*.json")}
    return set(found)
