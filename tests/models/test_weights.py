"""Files are whole or refused: what was wrong, in which tensor of which file, and what to do."""

import hashlib
import json
import struct
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from steep.errors import ModelError
from steep.models import ModelConfig, Transformer, digest, initialise, load, load_config, save
from steep.models.weights import disk_tensors

CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    intermediate_size=48,
    max_positions=64,
)
EMBEDDING, HEAD, QUERY = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def model():
    model = Transformer(CONFIG)
    initialise(model, torch.Generator().manual_seed(0))
    return model


@pytest.fixture
def directory(model, tmp_path):
    save(model, tmp_path, eos_token_ids=[2], pad_token_id=0)
    return tmp_path


def edit(directory, change):
    """Rewrite the weights after `change` has had them."""
    path = directory / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_config(directory, **values):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def shard(directory):
    """Split the weights over two files, the embedding and its neighbours in the second."""
    tensors = load_file(directory / "model.safetensors")
    names = sorted(tensors, reverse=True)
    weight_map = {}
    for number, part in enumerate((names[:-4], names[-4:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, directory / file)
        weight_map |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (directory / "model.safetensors").unlink()


def assert_same(model, other):
    expected, got = model.state_dict(), other.state_dict()
    assert expected.keys() == got.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, got[name]), name


def refusal(directory):
    with pytest.raises(ModelError) as caught:
        load(directory)
    assert caught.value.fix
    assert str(directory) in caught.value.message
    return caught.value.message


def test_layout_on_disk(model, directory):
    tensors = load_file(directory / "model.safetensors")
    assert len(tensors) == 2 + 2 * 11
    shapes = {name.removeprefix("model.layers.1."): list(tensor.shape) for name, tensor in tensors.items()}
    assert shapes[EMBEDDING] == [64, 32]
    assert shapes["self_attn.q_proj.weight"] == [32, 32]
    assert shapes["self_attn.k_proj.weight"] == shapes["self_attn.v_proj.weight"] == [16, 32]
    assert shapes["self_attn.q_norm.weight"] == shapes["self_attn.k_norm.weight"] == [8]
    assert shapes["mlp.gate_proj.weight"] == shapes["mlp.up_proj.weight"] == [48, 32]
    assert shapes["mlp.down_proj.weight"] == [32, 48]
    assert torch.equal(tensors["model.layers.1.self_attn.v_proj.weight"], model.layers[1].qkv.weight[48:])
    assert torch.equal(tensors["model.layers.1.mlp.up_proj.weight"], model.layers[1].gate_up.weight[48:])
    with safe_open(directory / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_files_are_as_readable_as_any_other(directory):
    (directory / "other").touch()
    assert len({path.stat().st_mode for path in directory.iterdir()}) == 1


def test_views_share_memory_with_the_model(model):
    disk_tensors(model)["model.layers.0.self_attn.k_proj.weight"].fill_(7)
    assert (model.layers[0].qkv.weight[32:48] == 7).all()
    assert sum(tensor.numel() for tensor in disk_tensors(model).values()) == sum(p.numel() for p in model.parameters())


def test_loaded_model_is_ready_to_train(directory):
    state = torch.get_rng_state()
    model = load(directory)
    assert torch.equal(torch.get_rng_state(), state)
    for parameter in model.parameters():
        assert parameter.requires_grad
        assert parameter.device.type == "cpu"
        assert parameter.dtype == torch.float32
    fresh = Transformer(CONFIG)
    assert torch.equal(model.cos, fresh.cos)
    assert torch.equal(model.sin, fresh.sin)


def test_loading_a_model_does_not_load_the_compiler_of_torch(directory):
    code = f"import sys, steep.models as m; m.load(__import__('pathlib').Path({str(directory)!r}))"
    code += "; print({'torch._dynamo', 'sympy'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_loaded_model_does_not_lean_on_the_file(model, directory):
    loaded = load(directory)
    size = (directory / "model.safetensors").stat().st_size
    (directory / "model.safetensors").write_bytes(bytes(size))  # in place, as a careless writer would
    assert_same(model, loaded)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_precisions(model, tmp_path, dtype):
    save(model, tmp_path, eos_token_ids=[2], pad_token_id=0, dtype=dtype)
    stored = load_file(tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {dtype}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype))
    assert_same(model, load(tmp_path))


def test_sharded(model, directory):
    shard(directory)
    assert_same(model, load(directory))


def test_tied_head_may_be_stored(model, directory):
    edit(directory, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING].clone()}))
    assert_same(model, load(directory))
    shard(directory)
    assert_same(model, load(directory))


def test_tied_head_that_differs(directory):
    edit(directory, lambda tensors: tensors.update({HEAD: tensors[EMBEDDING] + 1}))
    assert "lm_head.weight is not model.embed_tokens.weight" in refusal(directory)


def test_untied_head_is_needed(directory):
    edit_config(directory, tie_word_embeddings=False)
    assert "tensor lm_head.weight is missing" in refusal(directory)


def test_old_rotary_tables_are_passed_over(model, directory):
    edit(directory, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    assert_same(model, load(directory))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(QUERY), f"model.safetensors: tensor {QUERY} is missing"),
        (lambda t: (t.pop(QUERY), t.pop(EMBEDDING)), f"tensor {EMBEDDING} is missing, and 1 more"),
        (lambda t: t.update(extra=torch.ones(2)), "model.safetensors: tensor extra is not part of a qwen3 model"),
        (
            lambda t: t.update({QUERY: t[QUERY][1:].clone()}),
            f"tensor {QUERY} is [31, 32], the config makes it [32, 32]",
        ),
        (lambda t: t.update({QUERY: t[QUERY][None].clone()}), "[1, 32, 32], the config makes it [32, 32]"),
        (
            lambda t: t.update({QUERY: t[QUERY].to(torch.int8)}),
            f"tensor {QUERY} is int8, not float32, bfloat16, float16",
        ),
        (lambda t: t.update({HEAD: torch.ones(63, 32)}), f"tensor {HEAD} is [63, 32]"),
    ],
)
def test_tensors_that_do_not_fit(directory, change, said):
    edit(directory, change)
    assert said in refusal(directory)


def test_a_layer_too_many_on_disk(directory):
    edit_config(directory, num_hidden_layers=1)
    assert "tensor model.layers.1." in refusal(directory)


@pytest.mark.parametrize("keep", [0, 7, 100, 5000])
def test_truncated_weights(directory, keep):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "model.safetensors cannot be read" in refusal(directory)


def test_a_pointer_instead_of_weights(directory):
    (directory / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "model.safetensors cannot be read" in refusal(directory)


def test_a_shard_that_is_missing_or_broken(directory):
    shard(directory)
    path = directory / "model-00002-of-00002.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert "model-00002-of-00002.safetensors cannot be read" in refusal(directory)
    path.unlink()
    assert "model-00002-of-00002.safetensors is missing" in refusal(directory)


def test_an_index_that_promises_too_much(directory):
    shard(directory)
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.layers.0.nowhere"] = "model-00001-of-00002.safetensors"
    path.write_text(json.dumps(index))
    assert "model.layers.0.nowhere" in refusal(directory)
    path.write_text("{}")
    assert "has no weight_map" in refusal(directory)


def test_no_weights(directory):
    (directory / "model.safetensors").unlink()
    assert "has no weights: neither model.safetensors nor model.safetensors.index.json" in refusal(directory)


@pytest.mark.parametrize(
    ("text", "said"), [(None, "has no config.json"), ("{", "cannot be read"), ("[]", "is not a JSON object")]
)
def test_no_config(directory, text, said):
    path = directory / "config.json"
    path.unlink() if text is None else path.write_text(text)
    assert said in refusal(directory)
    with pytest.raises(ModelError, match=r"config\.json"):
        load_config(directory)


@pytest.mark.parametrize("tokens", [{"eos_token_ids": [2, 64]}, {"eos_token_ids": [2], "bos": -1}])
def test_token_ids_outside_the_vocabulary(model, tmp_path, tokens):
    with pytest.raises(ModelError, match="outside the vocabulary of 64"):
        save(model, tmp_path / "new", pad_token_id=0, **tokens)
    assert not (tmp_path / "new").exists()


def test_a_save_that_fails_leaves_the_old_file(model, directory, monkeypatch):
    def half(tensors, path, metadata):
        path.write_bytes(b"half of it")
        raise OSError("disk full")

    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    monkeypatch.setattr("steep.models.weights.save_file", half)
    with pytest.raises(OSError, match="disk full"):
        save(model, directory, eos_token_ids=[2], pad_token_id=0)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before


def test_saving_over_a_loaded_model(model, directory):
    loaded = load(directory)
    with torch.no_grad():
        loaded.norm.weight.add_(1)
    save(loaded, directory, eos_token_ids=[2], pad_token_id=0)
    assert_same(loaded, load(directory))


def test_digest_is_what_it_says():
    weights = {"b": torch.tensor([[1.0, -2.0]]), "a": torch.tensor(0.5)}
    expected = hashlib.sha256()
    expected.update(b'["a", []]' + struct.pack("<f", 0.5))
    expected.update(b'["b", [1, 2]]' + struct.pack("<2f", 1.0, -2.0))
    assert digest(weights) == expected.hexdigest()


def test_digest_of_a_model(model):
    weights = model.state_dict()
    before = digest(weights)
    assert digest(dict(reversed(weights.items()))) == before
    assert digest({name: tensor.clone() for name, tensor in weights.items()}) == before
    flat = next(iter(weights))
    assert digest(weights | {flat: weights[flat].T.contiguous()}) != before
    assert digest(weights | {flat: weights[flat].T.contiguous().T}) == before  # strides do not count
    with torch.no_grad():
        value = model.layers[1].down.weight[3, 4]
        value.copy_(value.nextafter(torch.tensor(9.0)))
    assert digest(model.state_dict()) != before


def test_digest_compares_precisions_by_value():
    exact = {"x": torch.tensor([1.0, 0.5, -3.0])}
    assert digest({"x": exact["x"].bfloat16()}) == digest(exact)
    assert digest({"x": exact["x"].double()}) == digest(exact)
    assert digest({"y": exact["x"]}) != digest(exact)
    assert digest({}) == hashlib.sha256().hexdigest()
