"""Files that are damaged, or are not what they seem: the error names the file and the row, or the check is counted."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from steep.cli import main
from steep.engines import save_model, save_model_gguf
from steep.errors import SteepError
from steep.tasks import python_file
from steep.tasks.published import Aime, Arc, Gsm8k, Math, Svamp
from tests.engines.test_directory import bare, made

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory, neox):
    """A model of our own, the same as another program leaves it and as GGUF, and one that transformers computes."""
    path = tmp_path_factory.mktemp("models")
    save_model(path / "own", *made())
    bare(path / "bare")
    shutil.copytree(neox, path / "neox")
    (path / "gguf").mkdir()
    save_model_gguf(path / "gguf" / "model.gguf", *made())
    return path


def cut(file, share):
    return lambda model: (model / file).write_bytes(
        (model / file).read_bytes()[: int(share * (model / file).stat().st_size)]
    )


def without(file):
    return lambda model: (model / file).unlink()


def config(**fields):
    def change(model):
        file = model / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return change


def tensors(change):
    def changed(model):
        stored = {name: change(tensor) for name, tensor in load_file(model / WEIGHTS).items()}
        save_file(stored, model / WEIGHTS, metadata={"format": "pt"})

    return changed


def pickled(model):
    torch.save(load_file(model / WEIGHTS), model / "pytorch_model.bin")
    (model / WEIGHTS).unlink()


def with_code_of_its_own(model):
    config(model_type="otto", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})(model)
    (model / "evil.py").write_text("import os\nos.abort()\n")


def not_finite_gguf(folder):
    model, template = made()
    with torch.no_grad():
        model.norm.weight[3] = float("inf")
    save_model_gguf(folder / "model.gguf", model, template)


@pytest.mark.parametrize(
    ("base", "damage", "said"),
    [
        *(
            (base, cut(WEIGHTS, share), "/model.safetensors cannot be read")
            for base in ("own", "neox")
            for share in (0, 0.5)
        ),
        ("own", tensors(lambda t: t.to(torch.int8)), "/model.safetensors: tensor model.embed_tokens.weight is int8"),
        ("neox", tensors(lambda t: t.to(torch.int8)), "/model.safetensors: tensor embed_out.weight is I8"),
        (
            "neox",
            tensors(lambda t: t.to(torch.float8_e4m3fn)),
            "/model.safetensors: tensor embed_out.weight is F8_E4M3",
        ),
        ("own", tensors(lambda t: t / 0), "own: the weights embedding.weight hold numbers that are not finite"),
        ("neox", tensors(lambda t: t / 0), "embed_in.weight hold numbers that are not finite"),
        (
            "own",
            config(vocab_size=100),
            "/model.safetensors: tensor model.embed_tokens.weight is [297, 32], the config",
        ),
        ("neox", config(vocab_size=100), "neox: the weights lack gpt_neox.embed_in.weight, or it has another shape"),
        ("own", config(model_type="otto"), "/config.json: otto is not a model that steep knows"),
        ("neox", config(model_type="otto"), "/config.json: otto is not a model that steep knows"),
        ("neox", with_code_of_its_own, "contains custom code"),
        ("own", pickled, "own has no weights: neither model.safetensors nor"),
        ("neox", pickled, "neox has no weights: neither model.safetensors nor"),
        ("own", without("tokenizer.json"), "there is no tokenizer at "),
        ("own", cut("tokenizer.json", 0.5), "/tokenizer.json is not a whole tokenizer.json"),
        ("own", cut("steep.json", 0.5), "/steep.json cannot be used"),
        ("bare", cut("tokenizer_config.json", 0.5), "/tokenizer_config.json cannot be read"),
        ("own", lambda model: (model / "config.json").write_bytes(b"\xff{}"), "/config.json cannot be read"),
        *(("gguf", cut("model.gguf", share), "/model.gguf cannot be read as GGUF") for share in (0, 0.01, 0.5, 0.999)),
        ("gguf", not_finite_gguf, "/model.gguf: the weights norm.weight hold numbers that are not finite"),
    ],
)
def test_a_model_that_cannot_be_read_is_named(base, damage, said, models, tmp_path, capsys):
    model = shutil.copytree(models / base, tmp_path / base)
    damage(model)
    assert (
        main(["export", str(model / "model.gguf" if base == "gguf" else model), "--to", "hf", str(tmp_path / "out")])
        == 2
    )
    told = capsys.readouterr().err
    assert said in told
    assert str(model) in told
    assert not (tmp_path / "out").exists()


NUMBER = '{"prompt": "1+1?", "answer": 2}\n'


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", NUMBER + '{"prompt": "2+2?"}\n', "a.jsonl, line 2: no answer"),
        (
            "a.jsonl",
            NUMBER.encode() + '{"prompt": "Größe?", "answer": 2}'.encode("latin-1"),
            "line 2: byte 15 is not UTF-8",
        ),
        ("a.jsonl", NUMBER.encode("utf-16"), "a.jsonl, line 1: byte 1 is not UTF-8"),
        ("a.jsonl.gz", NUMBER, "a.jsonl.gz cannot be decompressed"),
        ("a.py", "def problems(): return [{'prompt': '1+1?'}]", "a.py, row 1: no answer"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(name, content, said, models, tmp_path, capsys):
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    assert main(["eval", str(models / "own"), "--task", str(tmp_path / name), "--out", str(tmp_path / "e")]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "row"),
    [
        (Gsm8k, {"question": "1+1?", "answer": None}),
        (Gsm8k, {"question": None, "answer": "#### 2"}),
        (Math, {"problem": "1+1?", "level": "Level 1", "solution": None}),
        (Math, {"problem": "1+1?", "level": "Level 1", "solution": "It is two."}),
        (Svamp, {"Body": None, "Question": "How many?", "Answer": 2}),
        (Svamp, {"Body": "I have 2.", "Question": "How many?"}),
        (Arc, {"question": "Which?", "choices": None, "answerKey": "A"}),
        (Arc, {"question": "Which?", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answerKey": "E"}),
        (Aime, {"problem": "1+1?", "answer": "two"}),
        (Aime, {"problem": "1+1?", "answer": None}),
    ],
)
def test_a_row_of_a_published_set_that_cannot_be_used_is_named(task, row, tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(SteepError, match=r"test.jsonl, line 1: .*\n  is it .* as published\?"):
        task(directory=tmp_path).listed("test")


@pytest.mark.parametrize(
    "body", ["raise KeyError(answer)", "while True: pass", "return 'yes'", "import os; os._exit(1)"]
)
def test_a_check_that_fails_is_counted_and_shown(body, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(python_file, "LIMIT_S", 0.5)
    model, template = made()
    torch.nn.init.zeros_(model.norm.weight)  # all logits are the same, and the first token ends the answer
    save_model(tmp_path / "model", model, template)
    file = tmp_path / "mine.py"
    file.write_text(
        "def problems(): return [{'prompt': '1+1?', 'answer': 2, 'split': 'test'}]\n"
        f"def verify(problem, answer):\n    {body}\n"
    )
    words = ["--task", str(file), "--budgets", "0", "--greedy", "--answer", "4", "--out", str(tmp_path / "e")]
    assert main(["eval", str(tmp_path / "model"), *words, "--json"]) == 0
    out, told = capsys.readouterr()
    (cell,) = json.loads(out)["cells"]
    assert (cell["problems"], cell["invalid"]) == (1, 1)
    assert "invalid answers could not be checked" in told
    assert main(["tasks", "check", str(file)]) == 2
    assert "row 1: its answer '2' does not verify: invalid: " in capsys.readouterr().out
