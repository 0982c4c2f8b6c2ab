"""OpenVINO GenAI's continuous batching; its cache of keys and values is 8 bits wide, its own default.

The model is converted by optimum-intel, once, into a folder beside it.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai
from openvino_tokenizers import convert_tokenizer
from optimum.intel import OVModelForCausalLM
from transformers import AutoTokenizer

from benchmarks.worker import Channel, serve

CACHE_GB = 3
state: dict[str, Any] = {}


def load(directory: str, context: int, rows: int, dtype: str) -> None:
    state["directory"] = convert(Path(directory))
    state.update(rows=rows, precision={"bfloat16": "bf16", "float32": "f32"}[dtype])
    state["pipes"] = {}


def convert(source: Path) -> Path:
    target = source / "openvino"
    if not (target / "openvino_detokenizer.xml").is_file():
        OVModelForCausalLM.from_pretrained(source, export=True, load_in_8bit=False, compile=False).save_pretrained(
            target
        )
        tokenizer, detokenizer = convert_tokenizer(AutoTokenizer.from_pretrained(source), with_detokenizer=True)
        openvino.save_model(tokenizer, target / "openvino_tokenizer.xml")
        openvino.save_model(detokenizer, target / "openvino_detokenizer.xml")
    return target


def pipe(setting: str) -> Any:
    """A pipeline with (for groups on one prompt) or without prefix caching."""
    if setting not in state["pipes"]:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GB
        scheduler.max_num_seqs = state["rows"]
        scheduler.max_num_batched_tokens = 4096
        scheduler.enable_prefix_caching = setting == "shared"
        threads = int(os.environ["OMP_NUM_THREADS"])
        options = {"INFERENCE_PRECISION_HINT": state["precision"], "INFERENCE_NUM_THREADS": threads}
        pipes = state["pipes"]
        pipes.clear()
        pipes[setting] = openvino_genai.ContinuousBatchingPipeline(str(state["directory"]), scheduler, "CPU", options)
    return state["pipes"][setting]


def generate(prompts: list[list[int]], copies: int, new: int, setting: str) -> dict[str, float]:
    engine = pipe("shared" if copies > 1 else "distinct")
    config = openvino_genai.GenerationConfig(
        max_new_tokens=new, ignore_eos=True, do_sample=True, temperature=1.0, num_return_sequences=copies
    )
    inputs = [openvino.Tensor(np.array([prompt], np.int64)) for prompt in prompts]
    began = time.perf_counter()
    results = engine.generate(inputs, [config] * len(inputs))
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "tokens": sum(len(ids) for result in results for ids in result.m_generation_ids)}


if __name__ == "__main__":
    serve(Channel(), {"load": load, "generate": generate})
