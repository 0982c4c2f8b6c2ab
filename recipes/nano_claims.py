"""What the nano model shows over three seeds, held against the arms that could explain it away.

    steep train recipes/nano_claims.py

Each seed has five models. `main` learns the whole mixture: pretraining, fine-tuning, RL. `further` takes its fine-tuned
model and fine-tunes on, on new demonstrations, for at least as long as the RL took. `countdown`, `letters` and
`arithmetic` go the way of `main` on one task, with as many of its examples as the mixture has.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from steep.algorithms import cispo
from steep.engines import NativeConfig
from steep.evals.claims import (
    Rows,
    answers,
    claim_before_and_after,
    claim_gain,
    claim_length_by_level,
    claim_mean,
    claim_rising,
    claim_spread,
    over_seeds,
    replayed,
)
from steep.evals.evaluate import EvalConfig
from steep.evals.mending import mended_share
from steep.evals.suite import Mode, SuiteConfig
from steep.models.transformer import ModelConfig
from steep.policies import OptimizerConfig, PolicyConfig
from steep.rollouts import RolloutConfig
from steep.runs import Claim, Run
from steep.runs.health import HealthConfig, Limit
from steep.tasks.arithmetic import Arithmetic
from steep.tasks.chat import Chat
from steep.tasks.countdown import Countdown
from steep.tasks.letters import Letters
from steep.tasks.mixture import Share
from steep.training.pretrain import PretrainConfig
from steep.training.recipe import Recipe, Suite, Watch
from steep.training.rl import RlConfig
from steep.training.sft import SftConfig
from steep.training.study import Arm, Study
from steep.types import Task

COMMAND = "steep train recipes/nano_claims.py"
SEEDS = (0, 1, 2)
FURTHER_SEED = 1000  # added to a seed for demonstrations that its fine-tuning has not seen

MODEL = ModelConfig(hidden_size=128, num_layers=4, num_heads=4, num_kv_heads=4, head_dim=32, intermediate_size=384)
MIXTURE = (
    Share(task=Countdown(levels=(1, 3), careful=0.7), weight=7, level_weights=(3, 2)),
    Share(task=Letters(levels=(1, 2)), weight=3),
    Share(task=Arithmetic(), weight=3.5),
    Share(task=Chat(), weight=0.3),
)
ALONE = ("countdown", "letters", "arithmetic")

PRETRAIN_STEPS = 200
SFT_STEPS = 10000
SFT_EXAMPLES = 16
SFT_TOKENS = 1100  # the longest demonstration that is seen whole
CUT_SHARE = 0.05
TOLD_SHARE = 0.4
RL_TOLD_SHARE = 0.2
RL_STEPS = 220
RL_GROUPS = 40
NONE_SHARE = 0.2
FULL_SHARE = 0.1
RL_RATE = 1.2e-3
LATE = 1.0
THOUGHT = (16, 1024)
FURTHER_STEPS = 5500
FURTHER_RATE = 2e-3
ROWS = 384

BUDGETS = (0, 16, 32, 64, 128, 256, 512)
LONGEST = 1024
TOLD = (64, 128, 256)
FULL = {"countdown": 512, "letters": 64, "arithmetic": 256, "chat": 64}  # the budget at which the model decides
PROBLEMS = {"countdown": 2000, "letters": 200, "arithmetic": 600, "chat": 200}  # over the levels, fewer if there are
ANSWER = 48
WATCHED = Watch(problems=100, budgets=(64, 512))


def config() -> Study:
    arms = {"main": main, "further": further} | {name: alone(name) for name in ALONE}
    return Study(arms={f"{seed}/{name}": arm(seed) for seed in SEEDS for name, arm in arms.items()}, claims=claims)


def main(seed: int) -> Arm:
    own = (suite(name, (0, FULL[name]), ("rl",)) for name in ("letters", "arithmetic", "chat"))
    told = suite("countdown", TOLD, ("rl",), mode="told")
    return Arm(recipe=pipeline(seed, MIXTURE, (countdown_suite("demonstrator", "sft", "rl"), told, *own)))


def further(seed: int) -> Arm:
    recipe = main(seed).recipe
    assert recipe.sft is not None
    recipe = replace(
        recipe,
        seed=seed + FURTHER_SEED,
        start=f"{{study}}/{seed}/main/sft",
        pretrain=None,
        sft=replace(recipe.sft, steps=FURTHER_STEPS, policy=supervised(FURTHER_RATE)),
        rl=None,
        evals=(countdown_suite("sft"),),
    )
    return Arm(recipe=recipe, after=(f"{seed}/main",))


def alone(name: str) -> Callable[[int], Arm]:
    """The arms of one task alone, with its share of every stage's steps."""
    (share,) = [share for share in MIXTURE if share.task.name == name]
    part = share.weight / sum(share.weight for share in MIXTURE)
    return lambda seed: Arm(recipe=pipeline(seed, (share,), (suite(name, (0, FULL[name]), ("rl",)),), part))


def pipeline(seed: int, tasks: tuple[Share, ...], evals: tuple[Suite, ...], part: float = 1.0) -> Recipe:
    def steps(whole: int) -> int:
        return max(1, round(whole * part))

    annealed = OptimizerConfig(kind="adamw", lr=RL_RATE, warmup_steps=5, decay="linear")
    return Recipe(
        seed=seed,
        threads=1,
        tasks=tasks,
        vocabulary=300,
        model=MODEL,
        engine=NativeConfig(rows=ROWS, context=min(LONGEST + 160, MODEL.max_positions), dtype="bfloat16"),
        pretrain=PretrainConfig(steps=steps(PRETRAIN_STEPS), policy=supervised(2e-3)),
        sft=SftConfig(
            steps=steps(SFT_STEPS),
            examples=SFT_EXAMPLES,
            max_tokens=SFT_TOKENS,
            cut_share=CUT_SHARE,
            told_share=TOLD_SHARE,
            policy=supervised(2e-3),
        ),
        rl=RlConfig(
            num_steps=steps(RL_STEPS),
            groups_per_step=RL_GROUPS,
            algorithm=replace(cispo(), late=LATE),
            eval_every=max(1, steps(RL_STEPS) // 3),
            rollouts=RolloutConfig(
                thought=THOUGHT,
                full_share=FULL_SHARE,
                none_share=NONE_SHARE,
                answer=ANSWER,
                told_share=RL_TOLD_SHARE,
            ),
            policy=PolicyConfig(optimizer=annealed, autocast=True),
        ),
        watch=WATCHED,
        health=HealthConfig(zero_variance=Limit(warn=0.5, steps=10)),  # letters alone are solved before RL
        evals=evals,
    )


def supervised(rate: float) -> PolicyConfig:
    muon = OptimizerConfig(kind="muon", lr=rate, matrix_lr=10 * rate, decay="linear", decay_share=0.5, warmup_steps=20)
    return PolicyConfig(optimizer=muon, micro_batch_tokens=8192, autocast=True)


def countdown_suite(*models: str) -> Suite:
    return suite("countdown", (*BUDGETS, LONGEST), models)


def suite(name: str, budgets: Sequence[int], models: tuple[str, ...], mode: Mode = "sampled") -> Suite:
    tasks: dict[str, Task] = {share.task.name: share.task for share in MIXTURE}
    measured = EvalConfig(budgets=tuple(budgets), answer=ANSWER)
    chosen = SuiteConfig(problems=PROBLEMS[name], modes=(mode,), eval=measured)
    return Suite(task=tasks[name], config=chosen, models=models)


THREE = {"task": "countdown", "level": 1, "mode": "sampled"}
FOUR = THREE | {"level": 3}


def claims(runs: Mapping[str, Run]) -> list[Claim]:
    """What the seeds must show.

    Values are means over the seeds. Intervals are bootstraps over seeds and problems, except that of the times, which
    is from the smallest seed to the largest.
    """

    def measured(arm: str) -> list[Rows]:
        return [answers(runs[f"{seed}/{arm}"].stage("eval")) for seed in SEEDS]

    main = measured("main")
    three, four = {"model": "rl", **THREE}, {"model": "rl", **FOUR}
    return [
        *claim_mean("claims.countdown_3_numbers_at_512", main, "score", BUDGETS[-1], ">= 0.95", COMMAND, **three),
        *claim_mean("claims.countdown_4_numbers_at_1024", main, "score", LONGEST, ">= 0.6", COMMAND, **four),
        *gains(main, measured("further")),
        *claim_spread("claims.further_time_over_rl_time", [ratio(runs, seed) for seed in SEEDS], ">= 1", COMMAND),
        *lengths(main),
        *mistakes(main),
        *told(main),
        *(claim for name in ALONE for claim in beside(name, main, measured(name))),
    ]


def gains(main: list[Rows], further: list[Rows]) -> list[Claim]:
    """Of RL at three numbers, over all budgets alike."""
    rl = over_seeds(main, "score", BUDGETS, model="rl", **THREE)
    tuned = over_seeds(further, "score", BUDGETS, model="sft", **THREE)
    shown = over_seeds(main, "score", BUDGETS, model="demonstrator", **THREE)
    return [
        *claim_gain("claims.rl_over_further", rl, tuned, ">= 0.08", COMMAND),
        *claim_gain("claims.rl_over_demonstrator", rl, shown, ">= 0.08", COMMAND),
    ]


def ratio(runs: Mapping[str, Run], seed: int) -> float:
    """Time of fine-tuning further over that of RL."""
    further, rl = runs[f"{seed}/further"].stage("sft").last_timing, runs[f"{seed}/main"].stage("rl").last_timing
    assert further is not None
    assert rl is not None
    return float(further["elapsed_s"] / rl["elapsed_s"])


def lengths(main: list[Rows]) -> list[Claim]:
    """Thoughts are long where it is hard, and short where there is nothing to work out."""
    rl = {"model": "rl", "mode": "sampled"}
    arithmetic = {"task": "arithmetic", "budget": FULL["arithmetic"], **rl}
    countdown = {"task": "countdown", "budget": LONGEST, **rl}

    def short(id: str, task: str) -> list[Claim]:
        return claim_mean(id, main, "thought_tokens", FULL[task], "< 16", COMMAND, task=task, level=1, **rl)

    return [
        *claim_length_by_level("claims.thought_by_level_arithmetic", main, ">= 0.8", COMMAND, **arithmetic),
        *claim_length_by_level("claims.thought_by_level_countdown", main, "> 0", COMMAND, **countdown),
        *short("claims.thought_of_one_step_sums", "arithmetic"),
        *short("claims.thought_of_small_talk", "chat"),
    ]


def mistakes(main: list[Rows]) -> list[Claim]:
    """Of the thoughts with a wrong step, the share in which every one is mended."""
    before, after = (
        [replayed(rows, Countdown(), model=model, budget=BUDGETS[-1], **THREE) for rows in main]
        for model in ("sft", "rl")
    )
    return claim_before_and_after("claims.mistakes_mended", before, after, COMMAND, mended_share)


def told(main: list[Rows]) -> list[Claim]:
    """A budget that is told is kept, and more of it is worth more."""
    where = THREE | {"model": "rl", "mode": "told"}
    found = claim_rising("claims.told_budgets_rise", main, TOLD, "> 0", COMMAND, **where)
    for budget in TOLD:
        found += claim_mean(f"claims.told_{budget}_ended_by_itself", main, "ended", budget, ">= 0.9", COMMAND, **where)
    return found


def beside(name: str, main: list[Rows], alone: list[Rows]) -> list[Claim]:
    """The mixture's model against that of one task alone."""
    where = {"model": "rl", "task": name, "mode": "sampled"} | (THREE if name == "countdown" else {})
    mixed, single = (over_seeds(seeds, "score", (FULL[name],), **where) for seeds in (main, alone))
    return claim_gain(f"claims.{name}_in_the_mixture", mixed, single, ">= -0.03", COMMAND)
