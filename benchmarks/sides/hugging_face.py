"""transformers: `generate` for decoding, its model class with torch's AdamW for training."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, GenerationConfig

from benchmarks.worker import Channel, serve

MICRO_BATCH_TOKENS = 4096
state: dict[str, Any] = {}


def load(directory: str, context: int, rows: int, dtype: str) -> None:
    """`dtype` is that of training's products."""
    torch.set_float32_matmul_precision("medium")  # oneDNN's products, as steep's are
    state.clear()
    state.update(directory=directory, autocast=dtype == "bfloat16")


def model(dtype: str) -> Any:
    if dtype not in state:
        loaded = AutoModelForCausalLM.from_pretrained(state["directory"], dtype=getattr(torch, dtype))
        endless = GenerationConfig(do_sample=True, top_k=0, pad_token_id=0)  # type: ignore[no-untyped-call]
        loaded.generation_config = endless  # no token ends an answer
        state[dtype] = loaded
    return state[dtype]


@torch.inference_mode()
def generate(prompts: list[list[int]], copies: int, new: int, setting: str) -> dict[str, float]:
    chosen, ids = model(setting).eval(), torch.tensor(prompts)
    began = time.perf_counter()
    outputs = chosen.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, num_return_sequences=copies, temperature=1.0
    )
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "tokens": (outputs.shape[1] - ids.shape[1]) * outputs.shape[0]}


def train(batch: list[list[int]], setting: str) -> dict[str, float]:
    """One step of cross-entropy. `setting` is `padded` or `packed`: how sequences are laid into micro-batches."""
    learner = model("float32").train()
    if "optimizer" not in state:
        state["optimizer"] = torch.optim.AdamW(learner.parameters(), lr=3e-4, betas=(0.9, 0.95), fused=True)
    trained = sum(len(ids) - 1 for ids in batch)
    layout = {"padded": padded, "packed": packed}[setting]
    began = time.perf_counter()
    for inputs, labels in layout(batch):
        with torch.autocast("cpu", torch.bfloat16, enabled=state["autocast"]):
            logits = learner(**inputs, use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100, reduction="sum")
        (loss / trained).backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
    state["optimizer"].step()
    state["optimizer"].zero_grad(set_to_none=True)
    return {"seconds": time.perf_counter() - began, "tokens": sum(map(len, batch))}


def chunks(batch: list[list[int]], padding: bool) -> Iterator[list[list[int]]]:
    """Sequences sorted by length, as many as fit; with padding each counts as long as the longest."""
    members: list[list[int]] = []
    for ids in sorted(batch, key=len):
        held = len(ids) * len(members) if padding else sum(map(len, members))
        if members and held + len(ids) > MICRO_BATCH_TOKENS:
            yield members
            members = []
        members.append(ids)
    yield members


def padded(batch: list[list[int]]) -> Iterator[tuple[dict[str, Any], Any]]:
    for members in chunks(batch, padding=True):
        longest = len(members[-1])
        ids = torch.tensor([m + [0] * (longest - len(m)) for m in members])
        mask = torch.tensor([[1] * len(m) + [0] * (longest - len(m)) for m in members])
        labels = torch.tensor([m[1:] + [-100] * (longest - len(m) + 1) for m in members])
        yield {"input_ids": ids, "attention_mask": mask}, labels


def packed(batch: list[list[int]]) -> Iterator[tuple[dict[str, Any], Any]]:
    """One row; transformers reads from the positions where a sequence begins, and keeps their attention apart."""
    for members in chunks(batch, padding=False):
        ids = torch.tensor([[i for m in members for i in m]])
        positions = torch.tensor([[p for m in members for p in range(len(m))]])
        labels = torch.tensor([[label for m in members for label in [*m[1:], -100]]])
        yield {"input_ids": ids, "position_ids": positions}, labels


if __name__ == "__main__":
    serve(Channel(), {"load": load, "generate": generate, "train": train})
