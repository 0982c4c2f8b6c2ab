"""Tokens that a trained model has never seen: rows for them in its embedding and head."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from steep.models.hugging_face import HuggingFaceModel
from steep.models.transformer import LanguageModel, Transformer
from steep.models.weights import unfilled

NOISE = 0.1
"""Of new rows, in standard deviations of the old ones."""


def with_new_tokens(model: LanguageModel, ids: Sequence[int], seed: int) -> LanguageModel:
    """`model` with fresh rows for `ids`: in place where it has such rows, else a larger model in its stead.

    A fresh row is the mean of the others and a little noise. The logit of the mean is the mean of the logits, so no new
    token is likelier than the average one, and what the model says hardly changes; random rows can have logits far
    above those of ordinary tokens. The noise lets two new tokens become different ones.
    """
    size = max(model.config.vocab_size, max(ids) + 1)
    if size > model.config.vocab_size:
        model = _grown(model, size)
    generator = torch.Generator().manual_seed(seed)
    for weight in model.token_rows():
        refresh(weight.detach(), ids, generator)
    return model


def refresh(rows_VD: Tensor, ids: Sequence[int], generator: torch.Generator) -> None:
    """Fill the rows `ids` from the others."""
    old = torch.ones(len(rows_VD), dtype=torch.bool)
    old[list(ids)] = False
    std, mean = torch.std_mean(rows_VD[old], dim=0)
    noise = torch.randn(len(ids), rows_VD.shape[1], generator=generator)
    rows_VD[list(ids)] = mean + NOISE * std * noise


def _grown(model: LanguageModel, size: int) -> LanguageModel:
    """One with `size` tokens; the new rows are yet to be filled."""
    if isinstance(model, HuggingFaceModel):
        return model.grown(size)
    assert isinstance(model, Transformer)
    grown = unfilled(replace(model.config, vocab_size=size))
    old = dict(model.named_parameters())
    for name, parameter in grown.named_parameters():
        parameter.detach()[: len(old[name])] = old[name].detach()
    return grown
