"""A GPT-NeoX model, which transformers computes, from its directory to rollouts, updates and a further model."""

import logging
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from steep.algorithms import Rft
from steep.engines import NativeConfig, NativeEngine, load_model, save_model, save_model_gguf, with_thought
from steep.errors import ModelError
from steep.models import PackedAttention, digest
from steep.models.hugging_face import HuggingFaceModel
from steep.models.lora import LoraConfig
from steep.policies import Example, OptimizerConfig, Policy, PolicyConfig
from steep.tokens import Tokenizer
from steep.types import Budget, Message, Request, Sampling

BUDGET = Budget(thought=6, answer=5, closing=(7, 9))
GREEDY = Sampling(temperature=0.0)


@pytest.fixture
def loaded(neox):
    return load_model(neox)


def engine(loaded, dtype="float32"):
    return NativeEngine(loaded.model, NativeConfig(rows=8, context=64, dtype=dtype), frozenset())


def test_loading_tells_that_it_is_slower(neox, caplog):
    with caplog.at_level(logging.WARNING):
        assert isinstance(load_model(neox).model, HuggingFaceModel)
    assert "a gpt_neox model is computed by transformers: slower" in caplog.text


def test_a_base_model_without_a_format_is_asked_in_plain_text_and_given_a_thought(neox, tmp_path):
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(neox / name, tmp_path)
    Tokenizer.train(["What is 2+3? It is 5."] * 3, 300, ["<|endoftext|>", "<|padding|>"]).save(tmp_path)
    thinking = with_thought(load_model(tmp_path), seed=0)
    prompt = thinking.template.render([Message(role="user", content="2+3?")])
    assert thinking.template.tokenizer.decode(prompt, control=True) == "Question: 2+3?\nAnswer:<think>"
    budget = thinking.template.budget(6, 5)
    asked = NativeEngine(thinking.model, NativeConfig(rows=2, context=160), thinking.template.end_ids)
    (rollout,) = asked.submit(Request(prompt_ids=tuple(prompt), budget=budget)).result()
    assert (rollout.thought_tokens, rollout.interrupted) == (6, True)


@pytest.mark.parametrize("option", [{"attention_bias": True}, {"mlp_bias": True}, {"hidden_act": "gelu"}])
def test_a_known_family_with_an_option_of_its_own_is_computed_by_transformers(option, tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    theirs = AutoModelForCausalLM.from_config(
        LlamaConfig(vocab_size=300, num_key_value_heads=2, max_position_embeddings=64, **sizes, **option)
    )
    theirs.save_pretrained(tmp_path)
    Tokenizer.train(["What is 2+3? It is 5."] * 3, 280, ["<|endoftext|>", "<|padding|>"]).save(tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded.model, HuggingFaceModel)
    ids = torch.arange(20)
    with torch.no_grad():
        expected = theirs(ids[None]).logits[0]
        logits = loaded.model.logits(loaded.model(ids, ids, PackedAttention([20])))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_greedy_tokens_are_those_of_generate(neox, loaded):
    prompts = [tuple(np.random.default_rng(seed).integers(5, 300, 4 + 3 * seed).tolist()) for seed in range(5)]
    budget = Budget(thought=0, answer=30, closing=())
    asked = engine(loaded)
    futures = [asked.submit(Request(prompt_ids=ids, budget=budget, sampling=GREEDY)) for ids in prompts]
    other = AutoModelForCausalLM.from_pretrained(neox)
    for ids, future in zip(prompts, futures, strict=True):
        (rollout,) = future.result()
        expected = other.generate(
            torch.tensor([ids]), do_sample=False, max_new_tokens=30, eos_token_id=None, pad_token_id=0
        )
        assert rollout.ids.tolist() == expected[0, len(ids) :].tolist()


def test_budgets_seeds_and_logprobs_are_those_of_any_model(loaded):
    asked, policy = engine(loaded), Policy(loaded.model, PolicyConfig(), 10)
    request = Request(prompt_ids=(11, 12, 13), budget=BUDGET, n=3, seed=5)
    rollouts, again = asked.submit(request).result(), engine(loaded).submit(request).result()
    for rollout, same in zip(rollouts, again, strict=True):
        assert rollout.ids.tolist() == same.ids.tolist()
        assert rollout.thought_tokens <= 6
        ids = np.array([*rollout.prompt_ids, *rollout.ids], np.int32)
        trained = np.flatnonzero(rollout.sampled) + len(rollout.prompt_ids)
        (ours,) = policy.logprobs([Example(ids=ids, trained=trained, weights=np.ones(len(trained), np.float32))])
        np.testing.assert_allclose(ours, rollout.logprobs[rollout.sampled], atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_update_reaches_the_engine(loaded, dtype):
    asked, policy = engine(loaded, dtype), Policy(loaded.model, PolicyConfig(optimizer=OptimizerConfig(lr=1e-2)), 10)
    before = asked.receipt.digest
    example = Example(
        ids=np.arange(20, 40, dtype=np.int32), trained=np.arange(1, 20), weights=np.full(19, 1 / 19, np.float32)
    )
    losses = [policy.update([example], Rft())["loss"] for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0]
    weights = policy.weights(asked.dtype)
    assert asked.load_weights(weights, 1).digest == digest(weights) != before


def test_a_thought_section_and_back_to_disk(loaded, tmp_path):
    thinking = with_thought(loaded, seed=0)
    assert thinking.template.think_close_id is not None
    assert thinking.model.config.vocab_size >= thinking.template.tokenizer.vocab_size
    save_model(tmp_path / "out", thinking.model, thinking.template)
    again = load_model(tmp_path / "out")
    assert again.template.config == thinking.template.config
    assert digest(dict(again.model.named_parameters())) == digest(dict(thinking.model.named_parameters()))


def test_what_it_cannot_do_is_told(loaded, tmp_path):
    with pytest.raises(ModelError, match=r"GGUF.*that steep computes itself\n.*Llama.*Qwen3"):
        save_model_gguf(tmp_path / "out.gguf", loaded.model, loaded.template)
    with pytest.raises(ModelError, match=r"LoRA is for the models that steep computes itself\n.*Llama.*Qwen3"):
        Policy(loaded.model, PolicyConfig(lora=LoraConfig()), 10)
