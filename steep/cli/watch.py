"""`steep runs watch`: a run as it goes on, drawn in a terminal.

runs/nano: running, rl 120/300, 2.1 s each, 6 min 18 s left, 22,766 tokens/s
reward              ▁▂▂▃▄▄▅▆▆▇█  0.531  (0.21 to 0.56)
valid/countdown     64 ▁▃▅▆ 43%   512 ▂▅▇█ 87%
health: step 98: entropy (note): it fell below 0.1
"""

import math
import os
import re
import select
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.live import Live
from rich.text import Text

from steep.cli.outcome import Output
from steep.runs import duration, number, printable
from steep.runs.watching import RunWatch, StageWatch

LOOK_EVERY_S = 1.0
LEVELS, PLAIN_LEVELS = "▁▂▃▄▅▆▇█", "_.-~=+*#"
CURVES = ("reward", "signal", "thought", "entropy", "loss", "grad_norm")
"""What is drawn of a stage, as far as it is recorded."""
ACCURACY = re.compile(r"(?:start/)?(valid/.+)@(\d+)")
LONG_CURVE, SHORT_CURVE = 40, 10
EVENTS = 3
SILENT_S = 60.0  # from when on it is told how long ago the last record was
PIPE_WIDTH, PIPE_HEIGHT = 120, 40  # where no terminal has them


def watch(run: RunWatch, once: bool) -> None:
    """Draw the run until `q` or Ctrl-C; once only where nobody could go on looking."""
    output = Output()
    if once or not output.is_terminal:
        run.look()
        size = (output.width, output.height) if output.is_terminal else (PIPE_WIDTH, PIPE_HEIGHT)
        for line in frame(run, 0, *size, output.encoding):
            output.say(line)
        return
    shown, key = 0, ""
    with keys() as pressed, Live(console=output, screen=True, auto_refresh=False) as live:
        while key != "q":
            run.look()
            lines = frame(run, shown, output.width, output.height, output.encoding)
            live.update(Text("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)
            key = pressed(LOOK_EVERY_S)
            shown += key == " "


@contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """Gives a function that waits so many seconds for a key, and returns it, or nothing."""
    if not sys.stdin.isatty() or sys.platform == "win32":
        yield no_key
        return
    import termios
    import tty

    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([handle], [], [], seconds)
        return os.read(handle, 1).decode(errors="replace") if ready else ""

    try:
        tty.setcbreak(handle)
        yield pressed
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)


def no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def frame(run: RunWatch, shown: int, width: int, height: int, encoding: str = "utf-8") -> list[str]:
    """The lines for a screen of this size; `shown` counts through the newest rollouts."""
    lines = [f"{run.path}: {standing(run)}"]
    one = run
    if run.recipes:
        lines += ["", *arm_lines(run)]
        under_way = [arm for arm in run.arms.values() if arm.run.status == "running"]
        one = under_way[0] if under_way else run
        lines += ["", f"{one.path}: {standing(one)}"] if under_way else []
    if one.trained is not None:
        lines += [*curve_lines(one.trained), *health_lines(one.trained)]
    if one.stage is not None:
        lines += rollout_lines(one.stage.rollouts, shown, width, height - len(lines) - 1)
    if not encoding.startswith("utf"):
        lines = [line.translate(str.maketrans(LEVELS, PLAIN_LEVELS)) for line in lines]
    return [printable(line, encoding)[:width] for line in lines]


def standing(run: RunWatch) -> str:
    """How far it is: "running, rl 120/300, 2.1 s each, 6 min 18 s left, 22,766 tokens/s"."""
    status, stage = run.run.status, run.stage
    parts = [f"{status}: {run.run.info.error}" if run.run.info.error else status]
    if run.recipes:
        finished = sum(arm.run.status == "finished" for arm in run.arms.values())
        parts.append(f"{finished}/{len(run.recipes)} arms")
        if status == "running" and run.left_s is not None:
            parts.append(f"about {duration(run.left_s)} of training left")
    if stage is not None:
        parts.append(stage.name if stage.total is None else f"{stage.name} {stage.done}/{stage.total}")
        if stage.step_s is not None:
            parts.append(f"{number(stage.step_s)} s each")
        if status == "running" and stage.left_s:
            parts.append(f"{duration(stage.left_s)} left")
        if stage.tokens_per_s is not None:
            parts.append(f"{number(stage.tokens_per_s)} tokens/s")
        if status == "running" and stage.silent_s > SILENT_S:
            parts.append(f"last record {duration(stage.silent_s)} ago")
    return ", ".join(parts)


def arm_lines(study: RunWatch) -> list[str]:
    """A line for each arm: its main curve, and how far it is."""
    room = max(map(len, study.recipes))
    lines = []
    for name in study.recipes:
        arm = study.arms.get(name)
        stage = arm.trained if arm else None
        curve = next((c for c in CURVES if stage and stage.metrics and c in stage.metrics[-1]), None)
        drawn = ""
        if stage is not None and curve is not None:
            values = series(stage, curve)
            drawn = f"{spark(values, SHORT_CURVE)} {curve} {number(values[-1])}"
        lines.append(f"{name:{room}}  {drawn:32}  {standing(arm) if arm else 'waits'}")
    return lines


def curve_lines(stage: StageWatch) -> list[str]:
    lines = []
    for name in CURVES:
        values = series(stage, name)
        known = [value for value in values if math.isfinite(value)]
        if known:
            spread = f"({number(min(known))} to {number(max(known))})"
            lines.append(f"{name:18}  {spark(values, LONG_CURVE):{LONG_CURVE}}  {number(values[-1])}  {spread}")
    for task, budgets in accuracies(stage).items():
        drawn = (f"{b} {spark(values, SHORT_CURVE, 0, 1)} {values[-1]:.0%}" for b, values in budgets.items())
        lines.append(f"{task:18}  {'   '.join(drawn)}")
    return lines


def series(stage: StageWatch, name: str) -> list[float]:
    return [row[name] for row in stage.metrics if name in row]


def accuracies(stage: StageWatch) -> dict[str, dict[str, list[float]]]:
    """By task and budget, from before the first step on."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in stage.metrics:
        for name, value in row.items():
            if match := ACCURACY.fullmatch(name):
                found.setdefault(match[1], {}).setdefault(match[2], []).append(value)
    return found


def spark(values: Sequence[float], width: int, low: float | None = None, high: float | None = None) -> str:
    """A line of at most `width` bars; more values than that are averaged, what is not finite is left blank."""
    count = min(width, len(values))
    cells = [values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)]
    known = [[value for value in cell if math.isfinite(value)] for cell in cells]
    means = [sum(cell) / len(cell) if cell else None for cell in known]
    heights = [mean for mean in means if mean is not None]
    low = min(heights, default=0.0) if low is None else low
    high = max(heights, default=0.0) if high is None else high
    top = len(LEVELS) - 1
    return "".join(
        " " if m is None else LEVELS[round(top * (m - low) / (high - low)) if high > low else 0] for m in means
    )


def health_lines(stage: StageWatch) -> list[str]:
    return [f"health: step {e['step']}: {e['rule']} ({e['reaction']}): {e['message']}" for e in stage.health[-EVENTS:]]


def rollout_lines(rollouts: Sequence[Mapping[str, Any]], shown: int, width: int, height: int) -> list[str]:
    """One of the rollouts, its thought shortened in the middle to what there is room for."""
    if not rollouts:
        return []
    row = rollouts[shown % len(rollouts)]
    budget = "no budget" if row["budget"] is None else f"budget {row['budget']}"
    counted = f"rollout {shown % len(rollouts) + 1} of {len(rollouts)} (space: next)"
    asked = f"{row['task']} level {row['level']}, {budget}, thought {row['thought_tokens']}"
    verdict = f"{row['verdict']} {row['reason']}".rstrip()
    head = ["", f"step {row['step']}, {counted}: {asked}: {verdict}", *wrapped(row["prompt"], width, "  ")]
    thought, answer = wrapped(row["thought"], width, "  | "), wrapped(row["answer"], width, "  => ")
    room = max(height - len(head) - len(answer), 3)
    if len(thought) > room:
        thought = [*thought[: room // 2], "  | ...", *thought[len(thought) - (room - 1) // 2 :]]
    return [*head, *thought, *answer]


def wrapped(text: str, width: int, indent: str) -> list[str]:
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, max(width - len(indent), 10)) or [""]]
    return [indent + line for line in lines]
