"""The policy: the model being trained, with its optimizer, and the batches it learns from."""

from steep.policies.batch import Example, pack
from steep.policies.optimizer import OptimizerConfig
from steep.policies.policy import Policy, PolicyConfig

__all__ = ["Example", "OptimizerConfig", "Policy", "PolicyConfig", "pack"]
