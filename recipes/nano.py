"""From random weights to a model that thinks, on two cores of a laptop.

    steep train recipes/nano.py

One model of a million parameters learns to spell and count letters, to add and multiply, to say hello, and above all
countdown: make 25 from 3, 5 and 8.
"""

import numpy as np
from numpy.typing import NDArray

from steep.engines import NativeConfig
from steep.evals.claims import (
    Curve,
    answers,
    claim_cell,
    claim_cost,
    claim_gain,
    claim_r2,
    claim_smallest_gain,
    claim_training_gain,
    curve,
    over_seeds,
)
from steep.evals.evaluate import EvalConfig
from steep.evals.suite import SuiteConfig, load_cells
from steep.models.transformer import ModelConfig
from steep.policies import OptimizerConfig, PolicyConfig
from steep.rollouts import RolloutConfig
from steep.runs import Claim, Run
from steep.tasks.arithmetic import Arithmetic
from steep.tasks.chat import Chat
from steep.tasks.countdown import Countdown
from steep.tasks.letters import Letters
from steep.tasks.mixture import Share
from steep.tasks.only import Only
from steep.training.pretrain import PretrainConfig
from steep.training.recipe import Recipe, Suite, Watch
from steep.training.rl import RlConfig
from steep.training.sft import SftConfig

BUDGETS = (0, 16, 32, 64, 128, 256, 512)


def config() -> Recipe:
    muon = OptimizerConfig(kind="muon", lr=2e-3, matrix_lr=2e-2, decay="linear", decay_share=0.5, warmup_steps=20)
    annealed = OptimizerConfig(kind="adamw", lr=3e-4, warmup_steps=5, decay="linear")
    supervised = PolicyConfig(optimizer=muon, micro_batch_tokens=8192, autocast=True)
    return Recipe(
        tasks=(
            Share(task=Countdown(levels=(1,), slips=0.5), weight=4),
            Share(task=Letters(levels=(1, 2), made_up=0.5), weight=8),
            Share(task=Arithmetic(levels=(1, 2, 3)), weight=2),
            Share(task=Chat(), weight=1),
        ),
        vocabulary=300,  # words stay near to letters: there are few pieces whose spelling must be learned
        model=ModelConfig(
            hidden_size=128, num_layers=4, num_heads=4, num_kv_heads=4, head_dim=32, intermediate_size=384
        ),
        pretrain=PretrainConfig(steps=60, policy=supervised),
        sft=SftConfig(steps=5400, examples=16, cut_share=0.05, policy=supervised),
        engine=NativeConfig(rows=384, context=768, dtype="bfloat16"),
        rl=RlConfig(
            num_steps=66,
            eval_every=6,  # 12 evaluations: the forecast of RL takes 8, 5 of them in its first half
            groups_per_step=32,
            rollouts=RolloutConfig(thought=(32, 512), full_share=0.1, answer=48),
            policy=PolicyConfig(optimizer=annealed, autocast=True),
        ),
        watch=Watch(problems=300, budgets=(64, 512)),
        evals=(
            Suite(
                task=Countdown(levels=(1,)),
                config=SuiteConfig(problems=1200, modes=("sampled",), eval=EvalConfig(budgets=BUDGETS)),
            ),
            Suite(
                task=Letters(levels=(2,)),
                config=SuiteConfig(problems=200, eval=EvalConfig(budgets=(0, 64))),
                models=("rl",),
            ),
            Suite(
                task=Only(name="strawberry", task=Letters(), chosen=(Letters().strawberry(),)),
                config=SuiteConfig(problems=1, eval=EvalConfig(budgets=(0, 64), samples=100)),
                models=("rl",),
            ),
            Suite(
                task=Arithmetic(levels=(1, 2, 3)),
                config=SuiteConfig(problems=300, modes=("sampled",), eval=EvalConfig(budgets=(0, 128))),
                models=("rl",),
            ),
        ),
        claims=claims,
    )


def claims(run: Run) -> list[Claim]:
    """What the run must show."""
    command = "steep train recipes/nano.py"
    stage = run.stage("eval")
    cells, rollouts = load_cells(stage.path), answers(stage)
    countdown = {"model": "rl", "task": "countdown", "mode": "sampled", "level": None}
    letters = {"model": "rl", "task": "letters", "mode": "greedy", "level": None}
    strawberry = letters | {"task": "strawberry"}

    def scored(model: str) -> list[dict[str, NDArray[np.float64]]]:
        return over_seeds([rollouts], "score", BUDGETS, model=model, task="countdown", mode="sampled")

    def measured(*budgets: int) -> Curve:
        return curve(stage, model="rl", task="countdown", mode="sampled", budgets=budgets)

    rising = measured(16, 32, 64, 128, 256)
    course = [row for each in run.stages() if each.name == "rl" for row in each.metrics()]
    shown = [
        *claim_smallest_gain("nano.countdown_rises_to_256", rising, "> 0", command),
        *claim_smallest_gain("nano.countdown_gain_256_to_512", measured(256, 512), ">= 0", command),
        *claim_r2("nano.countdown_loglinear_r2", measured(16, 32, 64, 128, 256, 512), ">= 0.95", command),
        *claim_cell("nano.countdown_at_512", cells, ">= 0.85", command, **countdown, budget=512),
        *claim_cell("nano.countdown_without_thought", cells, "<= 0.2", command, **countdown, budget=0),
        *claim_gain("nano.countdown_rl_over_sft", scored("rl"), scored("sft"), "> 0", command),
        *claim_training_gain("nano.countdown_rl_gain_at_64", course, "valid/countdown@64", "> 0", command),
        *claim_cell("nano.letters_with_thought", cells, ">= 0.98", command, **letters, budget=64),
        *claim_cell("nano.strawberry_with_thought", cells, ">= 0.98", command, **strawberry, budget=64),
    ]
    return [*shown, *claim_cost("nano", run, "<= 15", "<= 4", command)] if shown else []
