"""Rollouts for people to read: a fair choice of them, and their text with what the budget forced marked."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np

from steep.errors import SteepError
from steep.evals.mending import REPLAYERS, Doubting, Mending, doubting, mending
from steep.evals.saturation import Saturation, saturation
from steep.evals.source import Source
from steep.evals.statistics import spearman
from steep.tokens import Template, load_template
from steep.types import Replayer

KEPT = 6  # candidates of a kind
LAST_STEPS = 2  # of RL


Key = tuple[str, str, str]
SlipPart = Literal["wrong", "mended", "mending"]


@dataclass(frozen=True)
class Span:
    """A piece of a response. Its text is that of the model: escape it."""

    text: str
    forced: bool = False
    """Injected by the budget."""
    control: bool = False
    """The name of a control token."""
    slip: SlipPart | None = None
    """Part of a step that was worked out again: it is wrong and stays so, is wrong and mended later, or mends one."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One rollout, ready to be shown."""

    source: str
    origin: str
    """Where in the run it comes from: "rl step 49", "test sampled"."""
    model: str
    task: str
    level: int
    budget: int | None
    prompt: str
    thought: tuple[Span, ...]
    answer: tuple[Span, ...]
    thought_tokens: int
    interrupted: bool
    verdict: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What one pass over the rollouts of an evaluation gives; what is by key is by model, task and mode."""

    candidates: list[Mapping[str, Any]]
    longer_where_hard: Mapping[Key, float]
    """Spearman's rank correlation of level and thinking tokens at the largest budget."""
    saturations: Mapping[Key, Saturation]
    mended: Mapping[Key, Mending]
    """At the largest budget, one thought of each problem; of tasks whose thoughts can be worked out again."""
    doubting: Mapping[Key, Doubting]
    """Likewise of the other tasks, where there are thoughts."""


def survey(source: Source) -> Survey:
    largest: dict[Key, int] = {}
    for cell in source.cells:
        key = (cell.model, cell.task, cell.mode)
        largest[key] = max(cell.budget, largest.get(key, 0))
    model = source.cells[-1].model if source.cells else None
    kinds: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    lengths: dict[Key, list[tuple[int, int]]] = defaultdict(list)
    scores: dict[Key, dict[int, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    thoughts: dict[Key, dict[str, tuple[str, str]]] = defaultdict(dict)
    for row in (row for stage in source.evaluations for row in stage.rollouts()):
        key = (row["model"], row["task"], row["mode"])
        if row["verdict"] != "invalid":
            scores[key][row["budget"]][row["problem"]].append(row["score"])
        if row["budget"] == largest.get(key):
            lengths[key].append((row["level"], row["thought_tokens"]))
            if row["budget"] > 0:
                thoughts[key].setdefault(row["problem"], (row["thought"], row["verdict"]))
        rare = row["verdict"] == "invalid"  # one kind, or the few would stand for most of what is shown
        kind = kinds[(row["task"], "invalid") if rare else (*key[1:], row["budget"], row["verdict"])]
        if row["model"] == model and len(kind) < KEPT:
            kind.setdefault(row["problem"], {**row, "origin": f"test, {row['mode']}"})
    return Survey(
        candidates=list(_in_turn(kind.values() for kind in kinds.values())),
        longer_where_hard={key: spearman(*zip(*pairs, strict=True)) for key, pairs in lengths.items()},
        saturations={
            key: found
            for key, by_budget in scores.items()
            if (found := saturation({b: {p: float(np.mean(s)) for p, s in of.items()} for b, of in by_budget.items()}))
        },
        mended={
            key: mending(REPLAYERS[key[1]], (thought for thought, _ in of.values()))
            for key, of in thoughts.items()
            if key[1] in REPLAYERS
        },
        doubting={
            key: doubting((thought, said == "correct") for thought, said in of.values() if said != "invalid")
            for key, of in thoughts.items()
            if key[1] not in REPLAYERS
        },
    )


def readings(source: Source, surveyed: Survey, count: int) -> list[Reading]:
    """About `count` rollouts of a source: a third from the last steps of RL, the others from its evaluation."""
    rows = surveyed.candidates
    late: list[Mapping[str, Any]] = []
    if "rl" in source.stages:
        stage = source.stages["rl"]
        kinds: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = defaultdict(dict)
        for row in stage.rollouts(stage.rollout_steps()[-LAST_STEPS:]):
            kind = kinds[row["task"], row["verdict"]]
            step = row["step"]
            kind.setdefault(f"{step} {row['problem']}", {**row, "origin": f"rl step {step}", "model": "rl"})
        late = list(_in_turn(kind.values() for kind in kinds.values()))
    from_rl = max(count // 3, count - len(rows))
    chosen = [*rows[: count - min(from_rl, len(late))], *late[:from_rl]]
    templates = _Templates(source)
    return [_reading(source.name, row, templates) for row in chosen]


def spans(row: Mapping[str, Any], template: Template | None) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """Thought and answer of a saved rollout; without a template nothing can be told of single tokens."""
    if template is None:
        return (Span(row["thought"]),), (Span(row["answer"]),)
    ids: list[int] = row["ids"]
    close = template.think_close_id
    end = 0 if close is None else ids.index(close) + 1 if close in ids else len(ids)
    tokens = list(zip(ids, row["sampled"], strict=True))
    return tuple(_spans(tokens[:end], template)), tuple(_spans(tokens[end:], template))


def _spans(tokens: Iterable[tuple[int, bool]], template: Template) -> Iterator[Span]:
    control = template.tokenizer.control_ids
    for (sampled, is_control), run in groupby(tokens, key=lambda token: (token[1], token[0] in control)):
        text = template.tokenizer.decode([id for id, _ in run], control=True)
        yield Span(text, forced=not sampled, control=is_control)


def mark_slips(spans: Sequence[Span], task: Replayer) -> tuple[Span, ...]:
    """The spans of a thought, cut further where one of its wrong steps, or what mends it, begins or ends."""
    parts: dict[tuple[int, int], SlipPart] = {}
    for slip in task.replay("".join(span.text for span in spans)).slips:
        parts[slip.start, slip.end] = "mended" if slip.mended else "wrong"
        if slip.mended:
            parts[slip.mended] = "mending"
    marked, start = [], 0
    for span in spans:
        end = start + len(span.text)
        inside = {at for part in parts for at in part if start < at < end}
        for left, right in pairwise([start, *sorted(inside), end]):
            slip_part = next((kind for (first, last), kind in parts.items() if first <= left < last), None)
            marked.append(replace(span, text=span.text[left - start : right - start], slip=slip_part))
        start = end
    return tuple(marked)


def _reading(source: str, row: Mapping[str, Any], templates: "_Templates") -> Reading:
    thought, answer = spans(row, templates.of(row["model"]))
    if row["task"] in REPLAYERS:
        thought = mark_slips(thought, REPLAYERS[row["task"]])
    names = ("origin", "model", "task", "level", "budget", "prompt", "thought_tokens", "interrupted")
    shown = {name: row[name] for name in (*names, "verdict", "reason")}
    return Reading(source=source, thought=thought, answer=answer, **shown)


class _Templates:
    """The template of each model, read once."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._loaded: dict[Path, Template | None] = {}

    def of(self, model: str) -> Template | None:
        """That of the model itself, or of any stage of the run, since all share one; None if there is none."""
        own = [self._source.path / model / "model", Path(model)]
        for directory in (*own, *(stage.model for stage in self._source.stages.values())):
            if directory not in self._loaded:
                self._loaded[directory] = _template(directory)
            template = self._loaded[directory]
            if template is not None:
                return template
        return None


def _template(directory: Path) -> Template | None:
    try:
        return load_template(directory)
    except SteepError:
        return None


def _in_turn(kinds: Iterable[Iterable[Mapping[str, Any]]]) -> Iterator[Mapping[str, Any]]:
    """One of each kind, then the next of each, with the kinds in a mixed order that is always the same."""
    left = [iter(kind) for kind in kinds]
    Random(0).shuffle(left)
    while left:
        for kind in list(left):
            row = next(kind, None)
            if row is None:
                left.remove(kind)
            else:
                yield row
