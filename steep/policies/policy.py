"""The model being trained: forward, backward, step. It is blind to the algorithm and to where its examples are from."""

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steep.algorithms import LossInputs, LossOutput
from steep.config import within
from steep.errors import CheckpointError
from steep.memory import keep_freed_memory
from steep.models import kernels
from steep.models.attention import PackedAttention, packed_positions
from steep.models.lora import LoraConfig, adapt, merged
from steep.models.transformer import LanguageModel
from steep.models.weights import digest
from steep.policies.batch import ROUND, Example, MicroBatch, pack
from steep.policies.optimizer import Optimizer, OptimizerConfig, rate

log = logging.getLogger(__name__)

LossFunction = Callable[[LossInputs], LossOutput]


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    micro_batch_tokens: int = 4096
    """Tokens of a micro-batch: bounds memory, changes no gradient. Halved where memory runs out all the same."""
    autocast: bool = False
    """bf16 matrix products with fp32 weights and head, on devices that are faster with them; elsewhere all is fp32."""
    lora: LoraConfig | None = None
    """Train adapters in the place of the layers' matrices. None: train all weights."""

    def __post_init__(self) -> None:
        within(self, 1, "micro_batch_tokens")


class Policy:
    """A decoder with its optimizer. `update` is one optimizer step over a batch."""

    def __init__(
        self, model: LanguageModel, config: PolicyConfig, total_steps: int, critic: bool = False, seed: int = 0
    ) -> None:
        """`model` is trained in place. `seed` is for what begins random: adapters."""
        self.model = model
        self.config = config
        self.total_steps = total_steps
        self.micro_batch_tokens = config.micro_batch_tokens
        self.critic = nn.Linear(model.config.hidden_size, 1, device=model.device) if critic else None
        if self.critic is not None:
            nn.init.zeros_(self.critic.weight)
            nn.init.zeros_(self.critic.bias)
        self.base: str | None = None
        """With adapters, the hash of the model that they were added to."""
        if config.lora is not None:
            self.base = digest(dict(model.named_parameters()))
            adapt(model, config.lora, seed)
        trained = nn.ModuleList([model] if self.critic is None else [model, self.critic])
        self.optimizer = Optimizer(trained, config.optimizer)
        self.step = 0
        self.device = model.device
        self.autocast = config.autocast and kernels.multiplies_bf16(self.device)
        self.multiple = ROUND if self.autocast and self.device.type == "cpu" else 1
        if self.device.type == "cpu":
            keep_freed_memory()

    def update(
        self,
        examples: Sequence[Example],
        loss: LossFunction,
        accepts: Callable[[Mapping[str, float]], bool] = lambda metrics: True,
    ) -> dict[str, float]:
        """One step down the sum of `loss` over the examples. Metrics are means under the tokens' weights.

        Nothing changes (`updated` is 0) if the gradient is not finite, or `accepts` says no to the metrics. Without
        examples there are no metrics, and it is a step of the schedule all the same.
        """
        if not examples:
            self.step += 1
            return {}
        sums = self._accumulate(examples, loss)
        weight = sums.pop("weight")
        metrics = {name: value if name == "loss" else value / weight for name, value in sums.items()}
        factor = rate(self.config.optimizer, self.step, self.total_steps)
        metrics["grad_norm"] = self.optimizer.clip()
        metrics["lr"] = self.config.optimizer.lr * factor
        metrics["updated"] = float(accepts(metrics) and math.isfinite(metrics["grad_norm"]))
        if metrics["updated"]:
            self.optimizer.step(factor)
        self.optimizer.clear()
        metrics["weight_norm"] = float(nn.utils.get_total_norm([p.detach() for p in self.optimizer.parameters]))
        self.step += 1
        return metrics

    def logprobs(self, examples: Sequence[Example]) -> list[NDArray[np.float32]]:
        """Log-probabilities of the trained tokens of each example, without gradient."""
        return self._score(examples, lambda inputs: inputs.logprobs)

    def values(self, examples: Sequence[Example]) -> list[NDArray[np.float32]]:
        """What the critic expects before each trained token, without gradient."""

        def values(inputs: LossInputs) -> Tensor:
            assert inputs.values is not None
            return inputs.values

        return self._score(examples, values)

    def weights(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        """The model's weights, adapters merged, in the dtype of the engine they are meant for."""
        return {name: weight.detach().to(dtype) for name, weight in merged(self.model).items()}

    def trained(self) -> dict[str, Tensor]:
        """The weights that an update changes: all of the model's, or with LoRA only those."""
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def state(self) -> dict[str, Any]:
        """Everything beside the trained weights that an update depends on."""
        critic = None if self.critic is None else dict(self.critic.state_dict())
        return {
            "step": self.step,
            "optimizer": self.optimizer.state(),
            "critic": critic,
            "base": self.base,
            "micro_batch_tokens": self.micro_batch_tokens,  # sums of other parts are rounded otherwise
        }

    def load_state(self, state: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        if state.get("base") != self.base:  # states of older versions lack some fields
            raise CheckpointError(
                "the checkpoint's adapters were trained beside another model than the one that the stage begins with",
                "put the model back that the run was started from, or begin a new run",
            )
        own = self.trained()
        assert own.keys() == weights.keys(), own.keys() ^ weights.keys()
        for name, weight in own.items():
            weight.copy_(weights[name])
        self.step = state["step"]
        self.micro_batch_tokens = state.get("micro_batch_tokens", self.micro_batch_tokens)
        self.optimizer.load_state(state["optimizer"])
        if self.critic is not None:
            self.critic.load_state_dict(state["critic"])

    def _accumulate(self, examples: Sequence[Example], loss: LossFunction) -> dict[str, float]:
        """Add up the gradient of a batch, and its metrics. Where memory runs out, from micro-batches half as large."""
        while True:
            sums: dict[str, float] = defaultdict(float)
            try:
                for batch in pack(examples, self.micro_batch_tokens, self.device, self.multiple):
                    output = loss(self._inputs(batch))
                    output.loss.backward()  # type: ignore[no-untyped-call]
                    sums["loss"] += float(output.loss.detach())
                    for name, value in output.metrics.items():
                        sums[name] += float(value)
                return sums
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self.micro_batch_tokens <= max(len(e.ids) for e in examples):
                    raise
            self.optimizer.clear()
            self.micro_batch_tokens //= 2
            log.warning("out of memory: going on with micro-batches of %d tokens", self.micro_batch_tokens)

    def _score(self, examples: Sequence[Example], read: Callable[[LossInputs], Tensor]) -> list[NDArray[np.float32]]:
        scores: list[NDArray[np.float32]] = []
        with torch.no_grad():
            for example in examples:
                (batch,) = pack([example], len(example.ids), self.device, self.multiple)
                scores.append(read(self._inputs(batch)).cpu().numpy())
        return scores

    def _inputs(self, batch: MicroBatch) -> LossInputs:
        positions_N = packed_positions(batch.lengths, self.device, batch.trees)
        attend = PackedAttention(batch.lengths, self.device, batch.trees)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            x_ND = self.model(batch.ids_N, positions_N, attend)
        x_TD = x_ND[batch.before_T]
        logprobs_T, entropy_T = kernels.token_logprobs(self.model.logits(x_TD), batch.targets_T)
        extras = dict(batch.extras)
        extras.setdefault("sampler_logprobs", logprobs_T.detach())
        extras.setdefault("advantages", torch.ones_like(logprobs_T))
        return LossInputs(
            logprobs=logprobs_T,
            weights=batch.weights_T,
            sequence=batch.sequence_T,
            entropy=entropy_T,
            values=None if self.critic is None else self.critic(x_TD.float())[:, 0],
            **extras,
        )


def out_of_memory(error: BaseException) -> bool:
    """Of a device, or of the processor, whose allocator only says so."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)
