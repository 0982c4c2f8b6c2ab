"""Tokens a second of training: forward, backward, clipping and AdamW, bf16 autocast over fp32 weights.

    python -m benchmarks.train

A batch has the lengths of countdown demonstrations, most of them short and some ten times as long (`lengths`), and is
one optimizer step over every token but the first of each sequence. steep against transformers with torch's AdamW, its
batch padded (sorted by length) and packed (one row, where positions tell sequences apart); the faster is paired. Both
are in fp32 where the processor is slower in bf16. The share of the limit is that of the peak of matrix products, for
(formula in `limits.train_flops`)

    6 weights x tokens + 6 layers x heads x head size x sum of squared lengths
"""

from functools import partial
from itertools import islice
from random import Random
from typing import Any

from benchmarks.bench import STEEP, Bench, Run, options
from benchmarks.limits import peak, train_flops
from benchmarks.models import CONFIGS, template
from benchmarks.worker import Side
from steep.tasks.countdown import Countdown

TOKENS = {"N": 65_536, "S": 8_192}  # of a batch
RATIO_BAR = ">= 1.6"
SHARE_BARS = {"N": ">= 0.5", "S": ">= 0.7"}
LAYOUTS = ("padded", "packed")


def main() -> None:
    args = options(__doc__, models=True).parse_args()
    bench = Bench("train", args)
    bench.notes.append("Random weights. Micro-batches of 4,096 tokens, N and S alike.")
    for model in ("N",) if args.quick else args.models:
        measure(bench, model, 1024 if args.quick else TOKENS[model])
    bench.finish()


def measure(bench: Bench, model: str, tokens: int) -> None:
    sizes = lengths(tokens)
    sides = bench.start(["transformers"], directory=str(bench.model(model)), context=max(sizes), rows=1)
    runs: dict[str, Run] = {STEEP: partial(step, sizes, sides[STEEP], "autocast")}
    if "transformers" in sides:
        runs |= {f"transformers {layout}": partial(step, sizes, sides["transformers"], layout) for layout in LAYOUTS}
    limit = train_flops(CONFIGS[model], sizes) / peak(bench.limits)
    rows = bench.compare(f"{model}, {len(sizes)} sequences, {sum(sizes)} tokens", runs, limit)
    bench.claim_ratio(f"train.{model}", rows, RATIO_BAR)
    bench.claim(f"train.{model}.share_of_peak", [limit / seconds for seconds in rows[0].seconds], SHARE_BARS[model])


def step(sizes: list[int], side: Side, setting: str, number: int) -> dict[str, Any]:
    rng = Random(number)
    return side.call("train", batch=[[rng.randrange(20, 300) for _ in range(n)] for n in sizes], setting=setting)


def lengths(tokens: int) -> list[int]:
    """Of prompt and demonstration together, as many as fit `tokens`; the same at every call."""
    task, made, rng = Countdown(), template(), Random(0)
    sizes: list[int] = []
    for problem in islice(task.problems("train", seed=0), tokens):
        prompt, response = made.demonstrate(problem.prompt, task.demonstrate(problem, rng))
        if sum(sizes) + len(prompt) + len(response) > tokens:
            break
        sizes.append(len(prompt) + len(response))
    return sizes


if __name__ == "__main__":
    main()
