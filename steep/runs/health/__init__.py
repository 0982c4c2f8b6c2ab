"""What goes wrong in training, and what to do about it: rules over what a run records."""

from steep.runs.health.grams import held_out_overlap
from steep.runs.health.limits import HealthConfig, Limit, UpdateLimit, WarnLimit
from steep.runs.health.measures import held_out, measures
from steep.runs.health.rules import RULES, Rule, Seen, table
from steep.runs.health.watching import Health, RollBackError, Trouble, differences, troubles

__all__ = [
    "RULES",
    "Health",
    "HealthConfig",
    "Limit",
    "RollBackError",
    "Rule",
    "Seen",
    "Trouble",
    "UpdateLimit",
    "WarnLimit",
    "differences",
    "held_out",
    "held_out_overlap",
    "measures",
    "table",
    "troubles",
]
