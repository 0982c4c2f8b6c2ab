"""The loop of pretraining and fine-tuning: batches that are a function of the step's number, one update each."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from steep.algorithms import Rft
from steep.config import within
from steep.policies import Example, Policy, PolicyConfig
from steep.runs import Health, Progress, Stage


@dataclass(frozen=True, kw_only=True)
class SupervisedConfig:
    steps: int = 200
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        within(self, 1, "steps", "checkpoint_every")


def train_supervised(
    stage: Stage, policy: Policy, config: SupervisedConfig, batch: Callable[[int], Sequence[Example]], health: Health
) -> None:
    """Run the steps that are left. `batch(n)` is the same whenever it is asked, so a resumed run is the same run."""
    checkpoint = stage.resume()
    start = 0
    if checkpoint is not None:
        start = checkpoint.step
        policy.load_state(checkpoint.state, checkpoint.weights)
    health.begin(checkpoint, policy.state() | {"weights": policy.trained()})
    loss = Rft()
    with Progress(config.steps, stage.name, start=start) as progress, stage.stopping as stopping:
        for step in range(start, config.steps):
            began = time.monotonic()
            examples = batch(step + health.passed_over)
            metrics = policy.update(examples, loss, health.accepts)
            tokens = sum(len(e.ids) for e in examples)
            shown = {key: metrics[key] for key in ("loss", "lr", "grad_norm", "weight_norm", "updated")}
            shown["tokens"] = tokens
            speed = tokens / (time.monotonic() - began)
            stage.record(step, shown, {"tokens/s": speed})
            progress.update(step + 1, {"loss": metrics["loss"], "tokens/s": speed})
            health.check(step, shown | {"tokens/s": speed}, (), progress.note, stopping)
            due = (step + 1) % config.checkpoint_every == 0 and health.good
            if due or stopping.asked or step + 1 == config.steps:
                stage.save_checkpoint(step + 1, policy.state() | {"health": health.state()}, policy.trained())
            if stopping.asked:
                stage.wait()
                raise stopping.reason
