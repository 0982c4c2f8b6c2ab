"""GGUF files made from small random models: the decoder that comes back is the one that was written."""

import contextlib
import dataclasses
import struct
import sys

import numpy as np
import pytest
import torch

from steep.errors import ModelError, SteepError
from steep.models import ModelConfig, PackedAttention, Transformer, initialise, packed_positions
from steep.models.gguf import STORED, config_of, gguf_name, load_gguf, open_gguf, save_gguf
from steep.models.weights import disk_tensors

gguf = pytest.importorskip("gguf", reason="needs the [gguf] extra")

LLAMA = ModelConfig(
    family="llama",
    vocab_size=64,
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=96,
    max_positions=128,
    rope_theta=100_000.0,
    norm_eps=1e-5,
    qk_norm=False,
)
CONFIGS = {
    "llama": LLAMA,
    "untied": dataclasses.replace(LLAMA, tied_embeddings=False),
    "linear": dataclasses.replace(LLAMA, rope_scaling={"rope_type": "linear", "factor": 2.5}),
    "qwen2": dataclasses.replace(LLAMA, family="qwen2", qkv_bias=True),
    "qwen3": dataclasses.replace(LLAMA, family="qwen3", qk_norm=True, head_dim=32),
    "yarn": dataclasses.replace(
        LLAMA,
        family="qwen3",
        qk_norm=True,
        rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    ),
}


def random_model(config, seed=1):
    """Norms and biases away from the ones and zeros they start with, so that a lost one shows."""
    model = Transformer(config)
    generator = torch.Generator().manual_seed(seed)
    initialise(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def neighbours(rows, heads):
    """llama.cpp's `permute`, from its definition: row 2i of a head was row i, row 2i+1 was row E/2+i."""
    head_dim = len(rows) // heads
    order = [
        head * head_dim + half + i for head in range(heads) for i in range(head_dim // 2) for half in (0, head_dim // 2)
    ]
    return rows[order]


def metadata(config):
    """Keys and values of a file's own description, without the tokenizer."""
    at = config.family
    scaling = dict(config.rope_scaling or {})
    values = {
        f"{at}.block_count": config.num_layers,
        f"{at}.context_length": config.max_positions,
        f"{at}.embedding_length": config.hidden_size,
        f"{at}.feed_forward_length": config.intermediate_size,
        f"{at}.attention.head_count": config.num_heads,
        f"{at}.attention.head_count_kv": config.num_kv_heads,
        f"{at}.attention.key_length": config.head_dim,
        f"{at}.attention.value_length": config.head_dim,
        f"{at}.attention.layer_norm_rms_epsilon": config.norm_eps,
        f"{at}.rope.freq_base": config.rope_theta,
    }
    names = {"rope_type": "type", "factor": "factor", "original_max_position_embeddings": "original_context_length"}
    return values | {f"{at}.rope.scaling.{names[key]}": value for key, value in scaling.items() if key in names}


def tensors(model):
    """Arrays of a file by their names, in the layout of the family."""
    heads = {"attn_q": model.config.num_heads, "attn_k": model.config.num_kv_heads}
    arrays = {}
    for name, tensor in disk_tensors(model).items():
        name = gguf_name(name)
        kind = name.split(".")[-2]
        rotated = model.config.family == "llama" and kind in heads
        arrays[name] = (neighbours(tensor, heads[kind]) if rotated else tensor).numpy().copy()
    return arrays


def write(path, family, values, arrays, types=None):
    """A GGUF file. `types` says how some tensors are stored; the others are F32."""
    writer = gguf.GGUFWriter(path, family)
    for key, value in values.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
        add[type(value)](key, value)
    for name, array in arrays.items():
        kind = gguf.GGMLQuantizationType[(types or {}).get(name, "F32")]
        stored = array if kind.name == "I32" else gguf.quants.quantize(array, kind)
        writer.add_tensor(name, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def written(path, model, **changes):
    return write(path, model.config.family, metadata(model.config) | changes, tensors(model))


def logits(model):
    ids = torch.randint(64, (100,), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model.logits(model(ids, packed_positions([100]), PackedAttention([100])))


def refusal(path):
    with pytest.raises(ModelError) as caught:
        load_gguf(open_gguf(path))
    assert caught.value.fix
    assert str(path) in caught.value.message
    return caught.value.message


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.gguf"


@pytest.mark.parametrize("name", CONFIGS)
def test_the_model_comes_back(name, path):
    model = random_model(CONFIGS[name])
    loaded = load_gguf(open_gguf(written(path, model)))
    assert loaded.config == model.config
    expected, got = model.state_dict(), loaded.state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    assert logits(model).std() > 0.3
    assert torch.equal(logits(loaded), logits(model))


def test_rows_in_the_other_order_are_another_model(path):
    model = random_model(LLAMA)
    write(path, "llama", metadata(LLAMA), {gguf_name(k): v.numpy().copy() for k, v in disk_tensors(model).items()})
    assert (logits(load_gguf(open_gguf(path))) - logits(model)).abs().max() > 0.1


def test_a_loaded_model_is_ready_to_train(path):
    model = random_model(LLAMA)
    state = torch.get_rng_state()
    loaded = load_gguf(open_gguf(written(path, model)))
    assert torch.equal(torch.get_rng_state(), state)
    path.write_bytes(bytes(path.stat().st_size))  # it does not lean on the file
    assert torch.equal(logits(loaded), logits(model))
    assert all(p.requires_grad and p.dtype == torch.float32 for p in loaded.parameters())


def half_at(data, offset):
    return np.float32(struct.unpack_from("<e", data, offset)[0])


def q8_0(data):
    """32 numbers a block: a scale in fp16, then 32 signed bytes."""
    return [
        half_at(data, at) * np.float32(q)
        for at in range(0, len(data), 34)
        for q in struct.unpack_from("32b", data, at + 2)
    ]


def q4_1(data):
    """32 numbers a block: a scale and a least value in fp16, then 16 bytes, whose low halves come first."""
    values = []
    for at in range(0, len(data), 20):
        scale, least = half_at(data, at), half_at(data, at + 2)
        packed = data[at + 4 : at + 20]
        values += [scale * np.float32(q) + least for q in [b & 15 for b in packed] + [b >> 4 for b in packed]]
    return values


def f16(data):
    return [half_at(data, at) for at in range(0, len(data), 2)]


def bf16(data):
    return [struct.unpack("<f", b"\0\0" + data[at : at + 2])[0] for at in range(0, len(data), 2)]


@pytest.mark.parametrize(("kind", "expand"), [("Q8_0", q8_0), ("Q4_1", q4_1), ("F16", f16), ("BF16", bf16)])
def test_blocks_are_expanded_as_the_format_says(kind, expand, path):
    model = random_model(LLAMA)
    arrays = tensors(model)
    types = {name: kind for name, array in arrays.items() if array.ndim == 2}
    loaded = load_gguf(open_gguf(write(path, "llama", metadata(LLAMA), arrays, types)))
    for name, got in disk_tensors(loaded).items():
        name = gguf_name(name)
        if name not in types:
            continue
        blocks = gguf.quants.quantize(arrays[name], gguf.GGMLQuantizationType[kind]).tobytes()
        expected = torch.tensor(np.array(expand(blocks), dtype=np.float32)).view(arrays[name].shape)
        assert not torch.equal(expected, torch.from_numpy(arrays[name]))
        part = name.split(".")[-2]
        if part in ("attn_q", "attn_k"):
            got = neighbours(got, {"attn_q": 4, "attn_k": 2}[part])
        assert torch.equal(got, expected), name


def test_head_dim_is_implied_where_it_is_not_given(path):
    model = random_model(LLAMA)
    values = {key: value for key, value in metadata(LLAMA).items() if "_length" not in key or "attention" not in key}
    assert config_of(open_gguf(write(path, "llama", values, tensors(model)))) == LLAMA


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_rotations_of_llama_3(factor, path):
    scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 8192
    config = dataclasses.replace(LLAMA, rope_theta=500_000.0, rope_scaling=scaling)
    factors = []
    for i in range(8):  # as convert_hf_to_gguf.py has it
        wavelength = 2 * np.pi * 500_000.0 ** (i / 8)
        smooth = (8192 / wavelength - 1) / (4 - 1)
        between = 1 / ((1 - smooth) / factor + smooth)
        factors.append(1.0 if wavelength < 8192 / 4 else factor if wavelength > 8192 / 1 else between)
    arrays = tensors(random_model(config)) | {"rope_freqs.weight": np.array(factors, dtype=np.float32)}
    values = {key: value for key, value in metadata(config).items() if "scaling" not in key}
    assert config_of(open_gguf(write(path, "llama", values, arrays))) == config
    arrays["rope_freqs.weight"][3] *= 2
    write(path, "llama", values, arrays)
    assert "does not scale rotations as Llama 3 does" in refusal(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"llama.rope.dimension_count": 8}, "a rotation of 8 of 16 numbers"),
        ({"llama.attention.value_length": 8}, "values of 8 numbers beside keys of 16"),
        ({"llama.attention.sliding_window": 64}, "a sliding window of 64 tokens"),
        ({"llama.expert_count": 4}, "experts"),
        ({"llama.rope.scaling.type": "longrope"}, "rope_type 'longrope'"),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 2.0,
                "llama.rope.scaling.yarn_beta_fast": 8.0,
            },
            "yarn_beta_fast of rope_type yarn",
        ),
        ({"llama.vocab_size": 65}, "llama.vocab_size says 65 tokens, token_embd.weight has 64 rows"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "tokenizer.ggml.tokens says 2 tokens, token_embd.weight has 64 rows"),
        ({"llama.attention.head_count": [4, 2]}, "llama.attention.head_count is [4, 2], not one number"),
        ({"llama.block_count": 3}, "3 layers (llama.block_count)"),
        ({"llama.context_length": 2**31}, "2147483648 positions (llama.context_length)"),
        ({"llama.block_count": 1}, "tensor blk.1.attn_k.weight is not part of a llama model"),
        ({"llama.feed_forward_length": 95}, "ffn_gate.weight is [96, 64], the metadata make it [95, 64]"),
        ({"llama.attention.key_length": "16"}, "llama.attention.key_length is '16', not one number"),
        ({"llama.rope.freq_base": [1, 2]}, "llama.rope.freq_base is [1, 2], not one number"),
        ({"split.count": 3}, "is one of 3 parts"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refused(changes, said, path):
    written(path, random_model(LLAMA), **changes)
    assert said in refusal(path)


def test_another_architecture(path):
    write(path, "gemma2", {}, {"token_embd.weight": np.zeros((4, 32), np.float32)})
    assert "gemma2 is not a model that steep knows" in refusal(path)


def test_a_quantization_that_is_not_known(path):
    arrays = tensors(random_model(LLAMA)) | {"output_norm.weight": np.zeros(64, np.int32)}
    write(path, "llama", metadata(LLAMA), arrays, {"output_norm.weight": "I32"})
    assert "tensor output_norm.weight is I32, which the gguf package cannot expand" in refusal(path)


def test_files_that_are_cut_off(path):
    whole = written(path, random_model(LLAMA)).read_bytes()
    for keep in (0, 3, 8, 20, 60, 300, 700, 2000, len(whole) // 2, len(whole) - 64):
        path.write_bytes(whole[:keep])
        assert "cannot be read as GGUF" in refusal(path), keep


@pytest.mark.parametrize("start", range(0, 100, 20))
def test_a_damaged_header_ends_in_words(start, path):
    """Bytes of the header, turned over: the file loads or is refused, and never hangs or breaks."""
    whole = written(path, random_model(dataclasses.replace(LLAMA, num_layers=1))).read_bytes()
    refused = 0
    for at in range(start, 1200, 100):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with contextlib.suppress(ModelError):
            load_gguf(open_gguf(path))
            continue
        refused += 1
    assert refused >= 8


def test_a_tensor_that_is_missing(path):
    arrays = tensors(random_model(LLAMA))
    del arrays["blk.0.attn_q.weight"], arrays["blk.1.ffn_up.weight"]
    write(path, "llama", metadata(LLAMA), arrays)
    assert "tensor blk.0.attn_q.weight is missing, and 1 more" in refusal(path)


def test_other_files(path, tmp_path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "cannot be read as GGUF: GGUF magic invalid" in refusal(path)
    assert "cannot be read as GGUF" in refusal(tmp_path / "nowhere.gguf")


def test_without_the_package(path, monkeypatch):
    written(path, random_model(LLAMA))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(SteepError, match=r"needs the gguf package.*\n.*pip install 'steep\[gguf\]'"):
        open_gguf(path)


def test_names():
    assert gguf_name("model.layers.11.self_attn.k_norm.weight") == "blk.11.attn_k_norm.weight"
    assert gguf_name("model.embed_tokens.weight") == "token_embd.weight"


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
WRITTEN = CONFIGS | {
    "llama3": dataclasses.replace(
        LLAMA, rope_theta=500_000.0, rope_scaling={**LLAMA3, "original_max_position_embeddings": 8192}
    )
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_saved_comes_back(name, path):
    model = random_model(WRITTEN[name])
    save_gguf(model, path, {"tokenizer.ggml.add_bos_token": False})
    file = open_gguf(path)
    assert file.metadata["tokenizer.ggml.add_bos_token"] is False
    for name, array in tensors(model).items():
        assert torch.equal(file.tensor(name), torch.from_numpy(array)), name
    loaded = load_gguf(file)
    assert loaded.config == model.config
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    assert torch.equal(logits(loaded), logits(model))
    assert [each.name for each in path.parent.iterdir()] == ["model.gguf"]


@pytest.mark.parametrize("stored", STORED)
def test_numbers_are_stored_as_asked(stored, path):
    model = random_model(LLAMA)
    save_gguf(model, path, {}, stored)
    records = open_gguf(path).stored
    assert {records[name].tensor_type.name for name in records if records[name].data.ndim > 1} == {stored}
    assert records["output_norm.weight"].tensor_type.name == "F32"
    error = {"F32": 0, "F16": 2**-11, "BF16": 2**-8, "Q8_0": 1 / 127}[stored]
    for name, tensor in disk_tensors(load_gguf(open_gguf(path))).items():
        original = disk_tensors(model)[name]
        assert (tensor - original).abs().max() <= error * original.abs().max(), name


def test_rows_too_narrow_for_blocks(path):
    with pytest.raises(ModelError, match="has rows of 48 numbers, and Q8_0 needs multiples of 32"):
        save_gguf(random_model(dataclasses.replace(LLAMA, intermediate_size=48)), path, {}, "Q8_0")
    assert not path.exists()


def test_flags_of_no_family(path):
    with pytest.raises(ModelError, match="a llama model has qk_norm=False"):
        save_gguf(random_model(dataclasses.replace(LLAMA, qk_norm=True)), path, {})


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "yarn", "factor": 4.0, "beta_fast": 8.0},
        {**LLAMA3, "original_max_position_embeddings": 32},
    ],
    ids=lambda scaling: scaling["rope_type"],
)
def test_settings_that_gguf_has_no_place_for(scaling, path):
    with pytest.raises(ModelError, match="GGUF has no place for"):
        save_gguf(random_model(dataclasses.replace(LLAMA, rope_scaling=scaling)), path, {})
    assert not path.exists()
