import os
from dataclasses import replace

import pytest
import torch
from hypothesis import settings

settings.register_profile("steep", deadline=None)  # a busy machine is no failure
settings.load_profile("steep")

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub


torch.set_num_threads(1)  # for fixtures that live longer than a test too: products add up in another order with two


@pytest.fixture(autouse=True)
def one_thread():
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def neox(tmp_path_factory):
    """The directory of a small random GPT-NeoX model, a family that transformers computes; it speaks ChatML."""
    from transformers import AutoModelForCausalLM, GPTNeoXConfig

    from steep.tokens import Template, Tokenizer, chatml

    directory = tmp_path_factory.mktemp("models") / "neox"
    silent = replace(chatml(None, None), answer=16)
    tokenizer = Tokenizer.train(["What is 2+3? It is 5."] * 3, 300, silent.control)
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=320,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=6,
        max_position_embeddings=256,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    Template(tokenizer, silent).save(directory)
    return directory
