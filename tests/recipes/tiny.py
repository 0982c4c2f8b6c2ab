"""A run of some seconds: three steps of every stage, and an evaluation. It learns nothing.

steep train tests/recipes/tiny.py
"""

from steep.engines import NativeConfig
from steep.evals.evaluate import EvalConfig
from steep.evals.suite import SuiteConfig
from steep.models.transformer import ModelConfig
from steep.rollouts import RolloutConfig
from steep.tasks.arithmetic import Arithmetic
from steep.tasks.mixture import Share
from steep.training.pretrain import PretrainConfig
from steep.training.recipe import Recipe, Suite, Watch
from steep.training.rl import RlConfig
from steep.training.sft import SftConfig


def config() -> Recipe:
    return Recipe(
        tasks=(Share(task=Arithmetic(levels=(1,))),),
        vocabulary=300,
        model=ModelConfig(
            hidden_size=32,
            num_layers=1,
            num_heads=2,
            num_kv_heads=2,
            head_dim=16,
            intermediate_size=64,
            max_positions=256,
        ),
        engine=NativeConfig(rows=32, context=256),
        pretrain=PretrainConfig(steps=3, sequences=4, length=64, checkpoint_every=1),
        sft=SftConfig(steps=3, examples=4, max_tokens=192, checkpoint_every=1),
        rl=RlConfig(
            num_steps=3,
            groups_per_step=2,
            rollouts=RolloutConfig(group_size=4, thought=(4, 16), answer=8),
            eval_every=3,
            checkpoint_every=1,
        ),
        watch=Watch(problems=4, budgets=(4, 16)),
        evals=(
            Suite(
                task=Arithmetic(levels=(1,)),
                config=SuiteConfig(problems=8, modes=("sampled",), eval=EvalConfig(budgets=(0, 8), answer=8)),
            ),
        ),
    )
