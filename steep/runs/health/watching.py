"""Health: shows each step of a stage to the rules, writes down what they find, and reacts.

    health.jsonl    a line where a reaction begins, changes or is over, and for each one that is more than a warning

    {"step": 41, "rule": "truncation", "reaction": "warn", "value": 0.31, "limit": 0.1, "evidence": {"truncated": 0.31},
     "rollouts": ["0/3", "7/1"], "message": "0.31, limit 0.1: share of rollouts ... Next: raise rl.rollouts.answer ..."}

`rollouts` are groups and samples of the step's rollouts on disk. `message` says what was found and what is done.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from steep.errors import PausedError
from steep.runs.checkpoint import Checkpoint
from steep.runs.health.limits import REACTIONS, WAITING, HealthConfig, Limit, Reaction, WarnLimit
from steep.runs.health.rules import RULES, Memory, Rule, Seen, When
from steep.runs.progress import number
from steep.runs.stage import Stage
from steep.runs.stopping import Stopping
from steep.types import Group

Tell = Callable[[str], object]

SHOWN_ROLLOUTS = 8
MOST_ROLL_BACKS = 2
"""To one and the same checkpoint; what still goes wrong then is no matter of data."""
OVER = "over"
BEFORE: Mapping[Reaction, str] = {
    "warn": "",
    "skip": "this update is not applied; ",
    "roll_back": "going back to the newest checkpoint, and on with other data; if it comes again: ",
    "pause": "pausing; ",
}
"""What the next action is besides the rule's own advice."""


class RollBackError(Exception):
    """Asks whoever runs the stage to begin it again, from its newest checkpoint if there is one."""


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """A line of `health.jsonl`."""

    step: int
    rule: str
    reaction: str
    value: float
    limit: float
    evidence: Mapping[str, Any]
    rollouts: Sequence[str]
    message: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.rule} {self.message}"


class Health:
    """Watches one stage. It outlives the attempts at the stage that end in a roll back."""

    def __init__(
        self,
        stage: Stage,
        config: HealthConfig,
        tell: Tell,
        look: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        """`tell` prints what is found before the first step; `look` measures what is looked at once in a stage."""
        self.stage, self.config, self.tell, self.look = stage, config, tell, look
        self.passed_over = 0
        """Batches that are left out for good: those between a checkpoint and what made the run go back to it (as for
        PaLM, arXiv 2204.02311, section 5.1)."""
        self._fault: Trouble | None = None
        self._faults: dict[int, list[int]] = {}
        """Steps that this process went back from, by the step that it went back to."""
        self._take_up({})

    def _take_up(self, state: Mapping[str, Any]) -> None:
        self.memory: dict[str, Memory] = state.get("memory", {})
        self.in_a_row: dict[str, int] = state.get("in_a_row", {})
        """By rule and reaction, for how many steps the value has been above the line."""
        self.open: dict[str, Reaction] = state.get("open", {})
        self._found: dict[str, tuple[float, float, Reaction | None]] = {}
        """Value, line and reaction of the rules that were asked in this step."""
        self._drift_s: float | None = None

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to find the same; nothing of what depends on the clock."""

        def kept(of: Mapping[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in of.items() if RULES[key.split(".")[0]].when != "clock"}

        state = {"memory": kept(self.memory), "in_a_row": kept(self.in_a_row), "open": kept(self.open)}
        return {**state, "passed_over": self.passed_over}

    def begin(self, checkpoint: Checkpoint | None, taken_up: Mapping[str, Any]) -> int:
        """Look at what there is to see before the first step. `taken_up` is the state that the stage has now: that of
        the checkpoint, if nothing was lost, and its `weights`.

        Returns how many batches are passed over beyond those that the checkpoint knows of."""
        step = checkpoint.step if checkpoint else 0
        saved = {**checkpoint.state, "weights": checkpoint.weights} if checkpoint else taken_up
        lost = differences({part: saved[part] for part in taken_up if part in saved}, taken_up)
        state = saved.get("health", {})
        self._take_up(state)
        self._go_on_after_fault(step)
        left_out = sum(at + 1 - step for at in self._faults.get(step, ()))
        self.passed_over = state.get("passed_over", 0) + left_out
        metrics = {"lost_state": len(lost), "lost": ", ".join(lost), **(self.look() if step == 0 else {})}
        self._ask(Seen(metrics=metrics), "start")
        for trouble in self._conclude(step, Seen(metrics=metrics), self.tell):
            if trouble.reaction != "warn":
                raise self._paused(f"{self.stage.name} was not begun", trouble)
        return left_out

    def accepts(self, metrics: Mapping[str, float]) -> bool:
        """Whether an update with such metrics is to be applied."""
        self._ask(Seen(metrics=metrics), "update")
        return not any(
            reaction == "roll_back" or self.in_a_row.get(f"{name}.skip")  # even where the reaction is to pause
            for name, (_, _, reaction) in self._found.items()
        )

    def check(
        self, step: int, metrics: Mapping[str, Any], groups: Sequence[Group], tell: Tell, stopping: Stopping
    ) -> None:
        """Look at a step that is done. To pause, `stopping` is asked; a RollBackError to go back."""
        seen = Seen(metrics={**metrics, **self._machine()}, groups=groups)
        self._ask(seen, "step", "clock")
        troubles = {trouble.reaction: trouble for trouble in self._conclude(step, seen, tell)}
        if "roll_back" in troubles:
            self._fault = troubles["roll_back"]
            raise RollBackError(str(self._fault))
        if "pause" in troubles:
            stopping.stop(self._paused(f"{self.stage.name} was paused", troubles["pause"]))

    @property
    def good(self) -> bool:
        """Whether this is a state to go back to: no rule is on its way to a roll back."""
        return not any(count for key, count in self.in_a_row.items() if key.endswith(".roll_back"))

    def _go_on_after_fault(self, step: int) -> None:
        """What made the run go back was cut off the log with the steps that it took back."""
        if self._fault is None:
            return
        fault, self._fault = self._fault, None
        self.stage.append("health", asdict(fault))
        self.open[fault.rule] = "roll_back"
        faults = self._faults.setdefault(step, [])
        faults.append(fault.step)
        if len(faults) > MOST_ROLL_BACKS:
            raise self._paused(f"{self.stage.name} went back to step {step} {MOST_ROLL_BACKS} times", fault)

    def _ask(self, seen: Seen, *when: When) -> None:
        for name, rule in RULES.items():
            limit = getattr(self.config, name)
            if limit is None or rule.when not in when:
                continue
            value = rule.measure(seen, self.memory.setdefault(name, {}))
            if value is not None:
                self._found[name] = (value, *self._react(name, limit, value))

    def _react(self, name: str, limit: WarnLimit, value: float) -> tuple[float, Reaction | None]:
        """The strongest reaction whose line the value is above, and that line."""
        found: tuple[float, Reaction | None] = (0.0, None)
        for reaction in REACTIONS:
            line: float | None = getattr(limit, reaction, None)
            if line is None:
                continue
            key = f"{name}.{reaction}"
            count = self.in_a_row[key] = self.in_a_row.get(key, 0) + 1 if value > line else 0
            waits = isinstance(limit, Limit) and reaction in WAITING and count < limit.steps
            if count and not waits:
                found = (line, reaction)
            elif count and found[1] is None:
                found = (line, "warn")
        return found

    def _conclude(self, step: int, seen: Seen, tell: Tell) -> list[Trouble]:
        """Write down what was found in the step, and tell what is new. Returns all that is wrong."""
        troubles = []
        for name, (value, line, reaction) in self._found.items():
            before, rule, shown = self.open.pop(name, None), RULES[name], number(value)
            if reaction is not None:
                self.open[name] = reaction
                trouble = Trouble(
                    step=step,
                    rule=name,
                    reaction=reaction,
                    value=value,
                    limit=line,
                    evidence={key: seen.metrics[key] for key in rule.reads if key in seen.metrics},
                    rollouts=_chosen(rule, seen.groups),
                    message=f"{shown}, limit {number(line)}: {rule.value}. Next: {BEFORE[reaction]}{rule.do}",
                )
                troubles.append(trouble)
                if reaction != before or reaction != "warn":
                    self.stage.append("health", asdict(trouble))
                    tell(f"health: {trouble}")
            elif before is not None:
                over = {"step": step, "rule": name, "reaction": OVER, "value": value, "message": shown}
                self.stage.append("health", over)
        self._found.clear()
        return troubles

    def _machine(self) -> dict[str, float]:
        """What no step records: how far the wall clock jumped, and whether checkpoints still fit on the disk."""
        drift_s = time.time() - time.monotonic()
        jump_s = 0.0 if self._drift_s is None else abs(drift_s - self._drift_s)
        self._drift_s = drift_s
        facts = {"clock_jump_s": jump_s}
        with suppress(OSError, ValueError):  # there is none yet, or a thread is about to delete it
            oldest = min(self.stage.checkpoints.glob("step-*"))
            size = sum(file.stat().st_size for file in oldest.iterdir())
            facts["checkpoint_of_disk"] = size / max(shutil.disk_usage(self.stage.path).free, 1)
        return facts

    def _paused(self, what: str, trouble: Trouble) -> PausedError:
        resume = f"steep resume {self.stage.path.parent}"
        without = f"`{resume} --health.{trouble.rule} none` does so without this rule"
        return PausedError(f"{what}: {trouble}", f"`{resume}` goes on; {without}")


def troubles(stage: Stage) -> list[Trouble]:
    """What is wrong now: of each rule the last line, if it is not over."""
    last = {row["rule"]: row for row in stage.log("health").rows()}
    return [Trouble(**row) for row in last.values() if row["reaction"] != OVER]


def differences(saved: Any, now: Any, at: str = "") -> list[str]:
    """Where a saved state is not what it was, such as `policy.optimizer.0.state.3.step`.

    Fields that it has not are those of a newer version, and nothing that was lost.
    """
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        return [d for key in saved for d in differences(saved[key], now.get(key), f"{at}.{key}".lstrip("."))]
    if isinstance(saved, list | tuple) and isinstance(now, list | tuple) and len(saved) == len(now):
        return [d for i, pair in enumerate(zip(saved, now, strict=True)) for d in differences(*pair, f"{at}.{i}")]
    if isinstance(saved, np.ndarray) and isinstance(now, np.ndarray):
        return [] if np.array_equal(saved, now) else [at]
    if isinstance(saved, torch.Tensor) and isinstance(now, torch.Tensor):
        return [] if torch.equal(saved.cpu(), now.cpu()) else [at]
    return [] if saved == now else [at]


def _chosen(rule: Rule, groups: Sequence[Group]) -> list[str]:
    """Group and sample of the first rollouts that show what the rule found."""
    if rule.which is None:
        return []
    chosen = [f"{number}/{r.sample}" for number, g in enumerate(groups) for r in g.rollouts if rule.which(g, r)]
    return chosen[:SHOWN_ROLLOUTS]
