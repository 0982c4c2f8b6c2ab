"""A report: one page that a person can read, its plots as PNG files, and its figures as JSON.

    out/index.html     everything in one file, which asks the network for nothing
    out/*.png          each plot
    out/report.json    the claims with commit, machine and versions; all cells, fits and rank correlations

    FILE.md            or the same as Markdown, with the plots as FILE-*.png

A run that has not got far, or died, is reported as far as it goes, and the page says what is missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from string import Template as Page
from typing import Any

from steep.errors import SteepError
from steep.evals.reading import Key, Survey, survey
from steep.evals.report import closer
from steep.evals.report.curves import by_level, courses, thinking
from steep.evals.report.gallery import Gallery, Looks, budget_curves
from steep.evals.report.html import contents, text
from steep.evals.report.markdown import as_markdown
from steep.evals.report.rollouts import to_read
from steep.evals.report.spending import levels, spending
from steep.evals.report.words import claimed, making, opening
from steep.evals.source import Source, modes, open_sources, watched
from steep.evals.thoughts import FILE as THOUGHTS
from steep.runs import Claim, evidence, read_claims, write_atomic, write_json


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """What was written."""

    index: Path
    json: Path | None
    plots: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Given:
    """The paths of a report by what they hold."""

    runs: list[Path]
    """Runs and evaluations."""
    thoughts: list[Path]
    """Directories that `steep thoughts` wrote."""
    probes: list[Path]
    """Histories that `steep probes run` wrote."""


def sorted_out(paths: Sequence[Path]) -> Given:
    thoughts = [path for path in paths if (path / THOUGHTS).is_file()]
    histories = [path for path in paths if path.is_file()]
    runs = [path for path in paths if path not in (*thoughts, *histories)]
    if not runs:
        raise SteepError("there is nothing to report on", "name one or more run directories")
    return Given(runs=runs, thoughts=thoughts, probes=histories)


def report(paths: Sequence[Path], out: Path, claims: Sequence[Claim] = (), alone: bool = False) -> ReportFiles:
    """Report on runs, evaluations or both, and on what was found beside them of thoughts and probes.

    Where no `claims` are given, those that the first run or evaluation has written down are taken. They are shown, and
    written to `report.json`. `alone`: nothing is beside the page.
    """
    read = _read(paths, claims)
    gallery = Gallery(_directory(out), pictures=not alone)
    chapters = _chapters(read, gallery)
    page = Page(files("steep.evals").joinpath("report.html").read_text(encoding="utf-8"))
    content = "\n".join([opening(read.title, read.sources), contents(chapters), chapters])
    html = page.substitute(title=text(f"{read.title}: report"), content=content)
    write_atomic(out / "index.html", html.encode())
    if alone:
        return ReportFiles(index=out / "index.html", json=None, plots=())
    write_json(out / "report.json", _document(read))
    return ReportFiles(index=out / "index.html", json=out / "report.json", plots=tuple(gallery.paths))


def report_markdown(paths: Sequence[Path], file: Path) -> ReportFiles:
    """The same chapters as a Markdown file, and pictures beside it whose names begin with its own."""
    read = _read(paths)
    gallery = Gallery(_directory(file.parent), pictures=True, prefix=f"{file.stem}-")
    page = opening(read.title, read.sources) + _chapters(read, gallery)
    write_atomic(file, as_markdown(page, gallery.prefix).encode())
    return ReportFiles(index=file, json=None, plots=tuple(gallery.paths))


@dataclass(frozen=True, kw_only=True)
class _Read:
    """What a report is made from."""

    given: Given
    sources: list[Source]
    surveys: list[Survey]
    claims: Sequence[Claim]

    @property
    def title(self) -> str:
        return " and ".join(source.name for source in self.sources)


def _read(paths: Sequence[Path], claims: Sequence[Claim] = ()) -> _Read:
    given = sorted_out(paths)
    sources = open_sources(given.runs)
    first = sources[0].path
    claims = claims or read_claims(first / "claims.json") or read_claims(first / "eval" / "claims.json")
    return _Read(given=given, sources=sources, surveys=[survey(source) for source in sources], claims=claims)


def _chapters(read: _Read, gallery: Gallery) -> str:
    sources, surveys, looks = read.sources, read.surveys, Looks(read.sources)
    return "\n".join(
        [
            thinking(sources, surveys, looks, gallery),
            claimed(read.claims),
            spending(sources, gallery),
            levels(sources),
            closer.thoughts(sources, surveys, by_level(sources, surveys, looks, gallery), read.given.thoughts),
            closer.probed(sources, read.given.probes),
            closer.cards(sources),
            courses(sources, looks, gallery),
            to_read(sources, surveys),
            making(sources),
        ]
    )


def _directory(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise SteepError(f"{out} cannot hold a report: a file is in the way", "name another directory") from None
    return out


def _document(read: _Read) -> dict[str, Any]:
    """The content of report.json."""
    sources, surveys = read.sources, read.surveys
    seconds = sum(source.seconds(stage) for source in sources for stage in source.stages.values())
    cells, fits, ranks, saturations, mended = [], [], [], [], []
    for source, surveyed in zip(sources, surveys, strict=True):
        cells += [{"run": source.name, **asdict(cell)} for cell in source.cells]
        for mode in modes(source.cells):
            for task in dict.fromkeys(cell.task for cell in source.cells):
                for curve in budget_curves([source], task, mode, Looks([source])):
                    where = {"run": source.name, "model": curve.name, "task": task, "mode": mode}
                    fits += [{**where, **asdict(curve.fit)}] if curve.fit else []
        ranks += [
            {"run": source.name, "model": model, "task": task, "mode": mode, "spearman": rank}
            for (model, task, mode), rank in surveyed.longer_where_hard.items()
        ]
        saturations += _by_key(source, surveyed.saturations)
        mended += _by_key(source, surveyed.mended)
    course = [{"run": source.name, **asdict(w)} for source in sources for w in watched(source)]
    scalings = [
        {"run": source.name, "task": task, "budget": budget, **asdict(fit)}
        for source in sources
        for (task, budget), fit in source.scalings.items()
    ]
    o1 = {source.name: asdict(source.findings) for source in sources if source.findings.choices}
    missing = {source.name: source.missing for source in sources}
    return evidence(read.claims, seconds) | {
        "missing": missing, "cells": cells, "fits": fits, "thought_by_level": ranks, "training": course,
        "scaling": scalings, "o1": o1, "saturations": saturations, "mended": mended,
    }  # fmt: skip


def _by_key(source: Source, found: Mapping[Key, Any]) -> list[dict[str, Any]]:
    return [
        {"run": source.name, "model": model, "task": task, "mode": mode, **asdict(figure)}
        for (model, task, mode), figure in found.items()
    ]
