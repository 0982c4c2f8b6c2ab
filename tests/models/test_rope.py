"""Rotary frequencies and tables equal those of transformers, with the scalings of published models."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from steep.models import ModelConfig
from steep.models.kernels.ops import rotate
from steep.models.transformer import rope_frequencies, rope_table

SCALINGS = [
    {"rope_type": "linear", "factor": 4.0},
    {  # Llama 3.1
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},  # Qwen3
    {"rope_type": "yarn", "factor": 1.0, "original_max_position_embeddings": 32768},
    {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096, "attention_factor": 1.2},
    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "beta_fast": 4.0, "beta_slow": 2.0},
    {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4, "beta_fast": 2.0, "beta_slow": 1.5},
    {"rope_type": "yarn", "factor": 2.0},  # the original context is the context
]


def configs(scaling, head_dim, theta, max_positions=131072):
    ours = ModelConfig(head_dim=head_dim, rope_theta=theta, rope_scaling=scaling, max_positions=max_positions)
    theirs = LlamaConfig(
        hidden_size=head_dim * 4,
        num_attention_heads=4,
        max_position_embeddings=max_positions,
        rope_parameters={**(scaling or {"rope_type": "default"}), "rope_theta": theta},
    )
    return ours, theirs


@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
def test_frequencies(scaling, theta, head_dim):
    ours, theirs = configs(scaling, head_dim, theta)
    inverse, scale = rope_frequencies(ours)
    expected, expected_scale = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](theirs)
    torch.testing.assert_close(inverse, expected, rtol=1e-6, atol=0)
    assert scale == expected_scale


@pytest.mark.parametrize("scaling", [None, SCALINGS[0], SCALINGS[4]], ids=str)
def test_table(scaling):
    ours, theirs = configs(scaling, 16, 10_000.0, max_positions=64)
    cos, sin = rope_table(ours)
    expected = LlamaRotaryEmbedding(theirs)(torch.zeros(1), torch.arange(64)[None])
    assert cos.shape == sin.shape == (64, 16)
    torch.testing.assert_close(cos, expected[0][0], rtol=0, atol=1e-6)
    torch.testing.assert_close(sin, expected[1][0], rtol=0, atol=1e-6)


def test_scores_depend_on_distance_only():
    cos, sin = rope_table(ModelConfig(head_dim=16, max_positions=64))
    q, k = torch.randn(2, 16, generator=torch.Generator().manual_seed(0))

    def score(i, j):
        return (rotate(q, cos[i], sin[i]) * rotate(k, cos[j], sin[j])).sum()

    torch.testing.assert_close(score(9, 4), score(59, 54), atol=1e-5, rtol=0)
    torch.testing.assert_close(score(0, 0), q @ k)
    assert (score(9, 4) - score(9, 5)).abs() > 1e-3
