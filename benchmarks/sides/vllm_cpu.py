"""vLLM's build for the CPU, with its own defaults: prefix caching and torch.compile are on."""

import time
from typing import Any

from vllm import LLM, SamplingParams, TokensPrompt

from benchmarks.worker import Channel, serve

state: dict[str, Any] = {}


def load(directory: str, context: int, rows: int, dtype: str) -> None:
    state["llm"] = LLM(
        model=directory,
        dtype=dtype,
        max_model_len=context,
        max_num_seqs=rows,
        disable_log_stats=True,
    )


def generate(prompts: list[list[int]], copies: int, new: int, setting: str) -> dict[str, float]:
    sampling = SamplingParams(
        n=copies, temperature=1.0, top_p=1.0, top_k=0, max_tokens=new, ignore_eos=True, detokenize=False
    )
    inputs = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
    began = time.perf_counter()
    outputs = state["llm"].generate(inputs, sampling, use_tqdm=False)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "tokens": sum(len(o.token_ids) for output in outputs for o in output.outputs)}


if __name__ == "__main__":
    serve(Channel(), {"load": load, "generate": generate})
