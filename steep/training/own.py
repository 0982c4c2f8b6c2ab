"""The recipe for problems of your own, where no other is named: a small model, made to think about them.

    steep train --model smollm2 --task mine.jsonl

Fine-tuning where there are demonstrations, then RL. Meant for a model of some hundred million parameters, on a GPU or,
slowly, on a processor. Its rates and sizes are first guesses: no run of it has been measured.
"""

from steep.engines import NativeConfig
from steep.policies import OptimizerConfig, PolicyConfig
from steep.rollouts import RolloutConfig
from steep.training.recipe import Recipe, Watch
from steep.training.rl import RlConfig
from steep.training.sft import SftConfig


def config() -> Recipe:
    """Without tasks and a model, which the command line names."""

    def policy(lr: float) -> PolicyConfig:
        return PolicyConfig(optimizer=OptimizerConfig(lr=lr, decay="linear"), micro_batch_tokens=2048, autocast=True)

    return Recipe(
        tasks=(),
        pretrain=None,
        sft=SftConfig(steps=100, examples=32, policy=policy(2e-5)),
        engine=NativeConfig(rows=64, context=1024, dtype="bfloat16"),
        rl=RlConfig(
            num_steps=100,
            groups_per_step=16,
            rollouts=RolloutConfig(thought=(16, 256), full_share=0.1, answer=64),
            policy=policy(5e-6),
        ),
        watch=Watch(problems=64, budgets=(0, 64, 256), answer=64),
    )
