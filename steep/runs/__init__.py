"""Run directories, metrics, checkpoints, health, listings, progress and evidence."""

from steep.runs.checkpoint import Checkpoint, Rejection, load_best, load_latest, save
from steep.runs.environment import git, machine, machine_line, versions
from steep.runs.evidence import Claim, evidence, read_claims, write_evidence
from steep.runs.files import Log, read_json, when_room, write_atomic, write_json
from steep.runs.health import Health, HealthConfig, RollBackError, Trouble, held_out, held_out_overlap, measures
from steep.runs.listing import ABSENT, Comparison, Row, RunDetail, RunSummary, StageSummary, compare, list_runs, show
from steep.runs.progress import Progress, duration, number, printable
from steep.runs.remaining import TrainingLeft, recorded, steps
from steep.runs.run import Run, RunInfo, RunStatus
from steep.runs.stage import Metrics, Stage
from steep.runs.stopping import PARENT, Stopping, stop_with_parent
from steep.runs.trackers import Tracker, Trackers, check_trackers

__all__ = [
    "ABSENT",
    "PARENT",
    "Checkpoint",
    "Claim",
    "Comparison",
    "Health",
    "HealthConfig",
    "Log",
    "Metrics",
    "Progress",
    "Rejection",
    "RollBackError",
    "Row",
    "Run",
    "RunDetail",
    "RunInfo",
    "RunStatus",
    "RunSummary",
    "Stage",
    "StageSummary",
    "Stopping",
    "Tracker",
    "Trackers",
    "TrainingLeft",
    "Trouble",
    "check_trackers",
    "compare",
    "duration",
    "evidence",
    "git",
    "held_out",
    "held_out_overlap",
    "list_runs",
    "load_best",
    "load_latest",
    "machine",
    "machine_line",
    "measures",
    "number",
    "printable",
    "read_claims",
    "read_json",
    "recorded",
    "save",
    "show",
    "steps",
    "stop_with_parent",
    "versions",
    "when_room",
    "write_atomic",
    "write_evidence",
    "write_json",
]
