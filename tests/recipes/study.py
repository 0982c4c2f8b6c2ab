"""A study of some seconds: an arm, and another that starts from its model.

steep train tests/recipes/study.py
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from steep.config import load_recipe
from steep.evals.claims import claim_spread
from steep.runs import Claim, Run
from steep.training.study import Arm, Study


def config() -> Study:
    tiny = load_recipe(Path(__file__).with_name("tiny.py"))
    short = replace(tiny, pretrain=None, rl=None, evals=(), threads=1)
    further = replace(short, start="{study}/0/main/sft", seed=1000)
    return Study(arms={"0/further": Arm(recipe=further, after=("0/main",)), "0/main": Arm(recipe=short)}, claims=claims)


def claims(runs: Mapping[str, Run]) -> list[Claim]:
    steps = [float(len(run.stage("sft").metrics())) for run in runs.values()]
    return claim_spread("study.steps", steps, ">= 3", "steep train tests/recipes/study.py")
