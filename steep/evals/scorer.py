"""A learned scorer: from what a frozen model makes of its answer to the chance that the answer is right.

The features are the model's last hidden state after the last token of a response (a "value head", as in Cobbe et al.
2021, arXiv 2110.14168, but without training the model with it) and the log-probability of the answer. The state tells
whether the thought has found something, the log-probability whether the answer is that or a slip in writing it down.
One hidden layer is trained on the verdicts of some problems of the train split; others of that split stop the training
and set the temperature (Guo et al. 2017, arXiv 1706.04599).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from steep.models import PackedAttention, packed_positions
from steep.models.transformer import LanguageModel
from steep.policies.batch import ROUND

BATCH_TOKENS, HEAD_TOKENS = 16384, 256
"""Tokens computed together by the layers, and by the head: its logits are as many as the vocabulary."""
HIDDEN = 64
STEPS, CHECK_EVERY = 400, 10
CALIBRATION_SHARE = 0.25
"""Of the problems, for when to stop and for the temperature."""
TEMPERATURES = np.geomspace(0.25, 8, 141)
BINS = 10

Response = tuple[tuple[int, ...], tuple[int, ...]]
"""Ids of prompt and thought, and of the answer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scorer:
    """What is trained, and the scale of its inputs."""

    mean_D: Tensor
    std_D: Tensor
    head: nn.Sequential
    temperature: float

    @torch.inference_mode()
    def chances(self, states_ND: Tensor) -> NDArray[np.float64]:
        """That each of the answers is right."""
        logits_N = _logits(self.head, (states_ND - self.mean_D) / self.std_D)
        return (logits_N.double() / self.temperature).sigmoid().numpy()

    def to_bytes(self) -> bytes:
        """A safetensors file."""
        temperature = torch.tensor(self.temperature, dtype=torch.float64)
        numbers = {"mean": self.mean_D, "std": self.std_D, "temperature": temperature}
        return save({**numbers, **self.head.state_dict()})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Scorer":
        weights = load(data)
        mean_D, std_D, temperature = (weights.pop(name) for name in ("mean", "std", "temperature"))
        head = new_head(len(mean_D))
        head.load_state_dict(weights)
        return cls(mean_D=mean_D, std_D=std_D, head=head, temperature=float(temperature))


def new_head(size: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, 1))


def _logits(head: nn.Sequential, inputs_ND: Tensor) -> Tensor:
    logits_N1: Tensor = head(inputs_ND)
    return logits_N1[:, 0]


def fit(states_ND: Tensor, score_N: NDArray[np.float64], problem_N: NDArray[np.int64], seed: int = 0) -> Scorer:
    """Train on answers, each with its score and the number of its problem.

    All answers to a problem are on one side of the split, or else the head would be stopped by what it has learned.
    """
    generator = torch.Generator().manual_seed(seed)
    problems = np.unique(problem_N)
    order = torch.randperm(len(problems), generator=generator).numpy()
    kept = problems[order[: ceil(CALIBRATION_SHARE * len(problems))]]
    held_N = torch.from_numpy(np.isin(problem_N, kept))
    target_N = torch.from_numpy(score_N).float()

    mean_D, std_D = states_ND[~held_N].mean(0), states_ND[~held_N].std(0) + 1e-6
    inputs_ND = (states_ND - mean_D) / std_D
    head = new_head(states_ND.shape[1])
    inner, inner_bias, outer, bias = head.parameters()
    nn.init.orthogonal_(inner, generator=generator)
    for weight in (inner_bias, outer):
        nn.init.zeros_(weight)
    nn.init.constant_(bias, float(target_N[~held_N].mean().logit(1e-3)))  # the share of right answers
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=0.1)
    least, kept_head = float("inf"), head.state_dict()
    for step in range(STEPS):
        if step % CHECK_EVERY == 0:
            with torch.no_grad():
                loss = float(cross_entropy(_logits(head, inputs_ND[held_N]), target_N[held_N]))
            if loss < least:
                least, kept_head = loss, {name: weight.clone() for name, weight in head.state_dict().items()}
        optimizer.zero_grad()
        cross_entropy(_logits(head, inputs_ND[~held_N]), target_N[~held_N]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    head.load_state_dict(kept_head)
    with torch.no_grad():
        logits_N = _logits(head, inputs_ND[held_N])
    losses = [float(cross_entropy(logits_N / t, target_N[held_N])) for t in TEMPERATURES]
    return Scorer(mean_D=mean_D, std_D=std_D, head=head, temperature=float(TEMPERATURES[np.argmin(losses)]))


def parted(prompt_ids: Sequence[int], ids: Sequence[int], think_close_id: int | None) -> Response:
    """A response whose thought never ended is all answer."""
    answer = ids.index(think_close_id) + 1 if think_close_id in ids else 0
    return (*prompt_ids, *ids[:answer]), tuple(ids[answer:])


@torch.inference_mode()
def features(model: LanguageModel, responses: Sequence[Response]) -> Tensor:
    """[N, D]: the model's state after the last token of each response, and the log-probability of its answer."""
    sequences = [before + answer for before, answer in responses]
    features_ND = torch.empty(len(sequences), model.config.hidden_size + 1)
    order = sorted(range(len(sequences)), key=lambda n: len(sequences[n]))
    start = 0
    while start < len(order):
        stop, held = start, 0
        while stop < len(order) and (stop == start or held + len(sequences[order[stop]]) <= BATCH_TOKENS):
            held += len(sequences[order[stop]])
            stop += 1
        batch = [sequences[n] for n in order[start:stop]]
        lengths = [len(ids) for ids in batch]
        filler = [0] * (-held % ROUND)  # products are compiled for each shape that they meet
        ids_N = torch.tensor([*(id for ids in batch for id in ids), *filler], device=model.device)
        positions_N = torch.cat([packed_positions(lengths), torch.tensor(filler, dtype=torch.long)]).to(model.device)
        x_ND = model(ids_N, positions_N, PackedAttention([*lengths, *([len(filler)] if filler else [])], model.device))
        ends = torch.tensor(lengths).cumsum(0)
        answers = [len(responses[n][1]) for n in order[start:stop]]
        told = answer_logprobs(model, x_ND, ids_N, ends.tolist(), answers)
        features_ND[torch.tensor(order[start:stop])] = torch.cat([x_ND[ends - 1].float().cpu(), told[:, None]], 1)
        start = stop
    return features_ND


def answer_logprobs(model: LanguageModel, x_ND: Tensor, ids_N: Tensor, ends: list[int], answers: list[int]) -> Tensor:
    """Of sequences that stand one after the other, the log-probability of so many tokens before each one's end."""
    at_A = torch.cat([torch.arange(end - length, end) for end, length in zip(ends, answers, strict=True)])
    logprobs = [
        model.logits(x_ND[part - 1]).log_softmax(-1).gather(1, ids_N[part][:, None])[:, 0].cpu()
        for part in torch.split(at_A, HEAD_TOKENS)
    ]
    of_A = torch.arange(len(ends)).repeat_interleave(torch.tensor(answers))
    return torch.zeros(len(ends)).index_add(0, of_A, torch.cat(logprobs))


def calibration_error(chances_N: NDArray[np.float64], score_N: NDArray[np.float64]) -> float:
    """Expected calibration error: how far shares of right answers are from the chances that were told, in ten bins."""
    bin_N = np.minimum((BINS * chances_N).astype(int), BINS - 1)
    gaps = np.bincount(bin_N, chances_N - score_N, BINS)
    return float(np.abs(gaps).sum() / len(chances_N))
