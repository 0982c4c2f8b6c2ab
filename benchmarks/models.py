"""The two shapes that are measured, with random weights: speed does not depend on what the weights say.

N is a small model as one trains it from nothing, 3.3M parameters. S has the shape of SmolLM2-135M. A tokenizer of 300
tokens lies beside both; the other rows of the embedding are never named by a prompt, but sampled like any other.
"""

from pathlib import Path

import torch

from steep.engines import save_model
from steep.models import ModelConfig, Transformer, initialise
from steep.tasks.countdown import Countdown
from steep.tasks.mixture import Share
from steep.tokens import Template, Tokenizer, compact
from steep.training.recipe import tokenizer_texts

CONFIGS = {
    "N": ModelConfig(
        hidden_size=256,
        num_heads=4,
        num_kv_heads=4,
        head_dim=64,
        intermediate_size=688,
        max_positions=16384,
    ),
    "S": ModelConfig(
        family="llama",
        vocab_size=49152,
        hidden_size=576,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        intermediate_size=1536,
        max_positions=8192,
        rope_theta=100_000.0,
        norm_eps=1e-5,
        qk_norm=False,
    ),
}


def make(name: str, directory: Path) -> Path:
    """The model as a Hugging Face directory, which every side reads."""
    path = directory / name
    if not (path / "model.safetensors").is_file():
        torch.manual_seed(0)
        model = Transformer(CONFIGS[name])
        initialise(model, torch.Generator().manual_seed(0))
        save_model(path, model, template())
    return path


def template() -> Template:
    texts = tokenizer_texts((Share(task=Countdown()),), seed=0)
    return Template(Tokenizer.train(texts, 300, compact().control), compact())


def parameters(config: ModelConfig) -> int:
    """Weights that a token is multiplied with: all matrices, the head once, the embedding not."""
    heads = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim * config.hidden_size
    mlp = 3 * config.hidden_size * config.intermediate_size
    return config.num_layers * (heads + mlp) + config.vocab_size * config.hidden_size
