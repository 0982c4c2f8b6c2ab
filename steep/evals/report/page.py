"""A report: one page that a person can read, its plots as PNG files, and its figures as JSON.

    out/index.html     everything in one file, which asks the network for nothing
    out/*.png          each plot
    out/report.json    the claims with commit, machine and versions; all cells, fits and rank correlations

A run that has not got far, or died, is reported as far as it goes, and the page says what is missing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from string import Template as Page
from typing import Any

from steep.errors import SteepError
from steep.evals.reading import Survey, survey
from steep.evals.report.curves import by_level, courses, thinking
from steep.evals.report.gallery import Gallery, Looks, budget_curves
from steep.evals.report.html import text
from steep.evals.report.rollouts import to_read
from steep.evals.report.spending import spending
from steep.evals.report.words import making, opening
from steep.evals.source import Source, modes, open_sources, watched
from steep.runs import Claim, evidence, read_claims, write_atomic, write_json


@dataclass(frozen=True, kw_only=True)
class ReportFiles:
    """What was written."""

    index: Path
    json: Path | None
    plots: tuple[Path, ...]


def report(paths: Sequence[Path], out: Path, claims: Sequence[Claim] = (), alone: bool = False) -> ReportFiles:
    """Report on runs, evaluations or both. `claims` are shown first, and written to `report.json`.

    Where none are given, those that the first path has written down are taken. `alone`: nothing is beside the page.
    """
    sources = open_sources(paths)
    first = sources[0].path
    claims = claims or read_claims(first / "claims.json") or read_claims(first / "eval" / "claims.json")
    surveys = [survey(source) for source in sources]
    gallery = Gallery(_directory(out), pictures=not alone)
    looks = Looks(sources)
    title = " and ".join(source.name for source in sources)
    sections = [
        opening(title, sources, claims),
        thinking(sources, looks, gallery),
        spending(sources, gallery),
        by_level(sources, surveys, looks, gallery),
        courses(sources, looks, gallery),
        to_read(sources, surveys),
        making(sources),
    ]
    page = Page(files("steep.evals").joinpath("report.html").read_text(encoding="utf-8"))
    html = page.substitute(title=text(f"{title}: report"), content="\n".join(sections))
    write_atomic(out / "index.html", html.encode())
    if alone:
        return ReportFiles(index=out / "index.html", json=None, plots=())
    write_json(out / "report.json", _document(sources, surveys, claims))
    return ReportFiles(index=out / "index.html", json=out / "report.json", plots=tuple(gallery.paths))


def _directory(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise SteepError(f"{out} cannot hold a report: a file is in the way", "name another directory") from None
    return out


def _document(sources: Sequence[Source], surveys: Sequence[Survey], claims: Sequence[Claim]) -> dict[str, Any]:
    """The content of report.json."""
    seconds = sum(source.seconds(stage) for source in sources for stage in source.stages.values())
    cells, fits, ranks = [], [], []
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
    course = [{"run": source.name, **asdict(w)} for source in sources for w in watched(source)]
    scalings = [
        {"run": source.name, "task": task, "budget": budget, **asdict(fit)}
        for source in sources
        for (task, budget), fit in source.scalings.items()
    ]
    o1 = {source.name: asdict(source.findings) for source in sources if source.findings.choices}
    missing = {source.name: source.missing for source in sources}
    return evidence(claims, seconds) | {
        "missing": missing, "cells": cells, "fits": fits, "thought_by_level": ranks, "training": course,
        "scaling": scalings, "o1": o1,
    }  # fmt: skip
