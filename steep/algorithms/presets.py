"""An algorithm is an advantage, a weighting of tokens and a loss; the presets are the ones of the papers.

Nothing looks an algorithm up by name: a recipe calls a preset, changes a field of one with `dataclasses.replace`, or
builds an `Algorithm` with a loss of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from steep.algorithms.advantages import AdvantageConfig, Gae, Overlong
from steep.algorithms.losses import Cispo, Dapo, Distill, DrGrpo, Grpo, Gspo, Loss, Need, Ppo, Reinforce, Rft
from steep.algorithms.weights import Averaging
from steep.errors import ConfigError

SCORES = AdvantageConfig(baseline="none", scale="none")


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """All that the trainer needs to know to turn scored groups into a loss. The defaults are `cispo()`."""

    advantage: AdvantageConfig = field(default_factory=AdvantageConfig)
    weights: Averaging = "prompt_mean"
    loss: Loss = field(default_factory=Cispo)
    gae: Gae | None = None
    """With a critic: the `advantage` of a rollout is the reward at its last token, and this spreads it over all."""
    overlong: Overlong | None = None
    """A penalty added to the scores before the advantages are computed; None for none."""
    late: float = 0.0
    """Taken off the score of a rollout that was told its budget and did not end in time, which is 0 besides. Without it
    an answer that might still be found is worth the risk of being late."""

    def __post_init__(self) -> None:
        if (self.gae is not None) != ("critic" in self.loss.needs):
            raise ConfigError(
                f"{type(self.loss).__name__} and gae={self.gae} do not go together",
                "a loss with a critic needs gae=Gae(), every other loss gae=None",
            )

    @property
    def needs(self) -> frozenset[Need]:
        """The models that must stand beside the policy."""
        return self.loss.needs

    @property
    def needs_variance(self) -> bool:
        """Groups whose scores are all equal teach nothing: drop and count them. Without a baseline they do teach."""
        return self.advantage.baseline != "none"


def cispo() -> Algorithm:
    """ScaleRL (arXiv 2510.13786): capped importance weights, batch std, every prompt counts the same. The default."""
    return Algorithm()


def grpo() -> Algorithm:
    """DeepSeekMath (arXiv 2402.03300): group mean and std, mean of sequence means, KL 0.04 to a reference."""
    return Algorithm(
        advantage=AdvantageConfig(baseline="group_mean", scale="group_std"),
        weights="sequence_mean",
        loss=Grpo(kl=0.04),
    )


def dapo() -> Algorithm:
    """DAPO (arXiv 2503.14476): GRPO with clip-higher, token mean and the soft overlong penalty; no KL."""
    return Algorithm(
        advantage=AdvantageConfig(baseline="group_mean", scale="group_std"),
        weights="token_mean",
        loss=Dapo(),
        overlong=Overlong(),
    )


def dr_grpo() -> Algorithm:
    """Dr. GRPO (arXiv 2503.20783): GRPO without the std and without the length, which bias it; no KL."""
    return Algorithm(advantage=AdvantageConfig(baseline="group_mean", scale="none"), weights="constant", loss=DrGrpo())


def gspo() -> Algorithm:
    """GSPO (arXiv 2507.18071): one ratio and one clip for a whole sequence."""
    return Algorithm(
        advantage=AdvantageConfig(baseline="group_mean", scale="group_std"), weights="sequence_mean", loss=Gspo()
    )


def ppo() -> Algorithm:
    """PPO (arXiv 1707.06347) with a critic, and GAE as in Open-Reasoner-Zero (arXiv 2503.24290)."""
    return Algorithm(advantage=SCORES, weights="token_mean", loss=Ppo(), gae=Gae())


def reinforce() -> Algorithm:
    """REINFORCE with the leave-one-out baseline (RLOO, arXiv 2402.14740): the unbiased gradient of the mean score, up
    to the constant of `constant` weights."""
    return Algorithm(
        advantage=AdvantageConfig(baseline="leave_one_out", scale="none"), weights="constant", loss=Reinforce()
    )


def rft() -> Algorithm:
    """Rejection-sampling fine-tuning (arXiv 2308.01825): imitate the rollouts that were correct."""
    return Algorithm(advantage=SCORES, weights="token_mean", loss=Rft())


def distill() -> Algorithm:
    """On-policy distillation: reverse KL to a teacher on the student's own rollouts. Scores are not used."""
    return Algorithm(advantage=SCORES, weights="token_mean", loss=Distill())


PRESETS: Mapping[str, Callable[[], Algorithm]] = {
    preset.__name__: preset for preset in (cispo, grpo, dapo, dr_grpo, gspo, ppo, reinforce, rft, distill)
}
"""For help texts and tests that go through all of them."""
