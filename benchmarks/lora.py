"""Processor seconds and peak memory of an update that trains LoRA's adapters, beside one that trains all weights.

    python -m benchmarks.lora [--json]

SmolLM2-135M's shape, random weights, bf16 autocast, one thread, 4 sequences of 250 tokens. Each side is a process of
its own, whose peak the system tells. Processor seconds are the median of the updates after the first; they hardly
depend on what else runs, as the clock would.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.models import CONFIGS
from steep.algorithms import Rft
from steep.models.lora import LoraConfig
from steep.models.transformer import Transformer, initialise
from steep.policies import Example, Policy, PolicyConfig
from steep.runs import Claim, write_evidence

COMMAND = "python -m benchmarks.lora"
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "lora.json"
SIDES = {"all": None, "lora": LoraConfig(rank=16)}
SEQUENCES, TOKENS, PROMPT = 4, 250, 50
PEAK_UNIT = 2**30 if sys.platform == "darwin" else 2**20
"""Of what the system tells, in a GB."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=CONFIGS, default="S", help="shape, of benchmarks/models.py (S)")
    parser.add_argument("--updates", type=int, default=5, metavar="N", help="that are counted (5)")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE", help="where to keep the figures")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON last")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side is not None:
        print(json.dumps(updated(args.model, args.side, args.updates)))
        return
    began = time.monotonic()
    found = {side: measured(args, side) for side in SIDES}
    for side, figures in found.items():
        print(
            f"{side:5} {median(figures['seconds']):6.2f} s of the processor an update, {figures['gb']:.2f} GB at most"
        )
    ratios = [lora / full for lora, full in zip(found["lora"]["seconds"], found["all"]["seconds"], strict=True)]
    memory = found["lora"]["gb"] / found["all"]["gb"]
    claims = [
        Claim(id="lora.seconds", value=median(ratios), low=min(ratios), high=max(ratios), bar="< 1", command=COMMAND),
        Claim(id="lora.memory", value=memory, low=memory, high=memory, bar="< 1", command=COMMAND),
    ]
    document = write_evidence(args.out, claims, time.monotonic() - began)
    if args.json:
        print(json.dumps(document | {"sides": found}))


def measured(args: argparse.Namespace, side: str) -> dict[str, Any]:
    """What `updated` finds in a process that has done nothing else."""
    command = [sys.executable, "-m", "benchmarks.lora", "--model", args.model, "--updates", str(args.updates)]
    told = subprocess.run(
        [*command, "--side", side], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, stdout=subprocess.PIPE
    ).stdout
    found: dict[str, Any] = json.loads(told)
    return found


def updated(name: str, side: str, updates: int) -> dict[str, Any]:
    """Processor seconds of each update but the first, and the most memory that this process ever had, in GB."""
    torch.set_num_threads(1)
    model = Transformer(CONFIGS[name])
    initialise(model, torch.Generator().manual_seed(0))
    policy = Policy(model, PolicyConfig(autocast=True, lora=SIDES[side]), updates + 1)
    rng = np.random.default_rng(0)
    trained = np.arange(PROMPT, TOKENS)
    weights = np.full(len(trained), 1 / (SEQUENCES * len(trained)), np.float32)
    seconds = []
    for _ in range(updates + 1):
        ids = rng.integers(0, model.config.vocab_size, (SEQUENCES, TOKENS), np.int32)
        began = time.process_time()
        policy.update([Example(ids=row, trained=trained, weights=weights) for row in ids], Rft())
        seconds.append(time.process_time() - began)
    return {"seconds": seconds[1:], "gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / PEAK_UNIT}


if __name__ == "__main__":
    main()
