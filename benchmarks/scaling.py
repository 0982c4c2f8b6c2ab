"""steep alone: seconds of a decode step against context, batch and threads.

    python -m benchmarks.scaling

A step's time is the difference between answers of `LONG` and `SHORT` new tokens to the same prompts, over the tokens
between: the prefill drops out. From the shortest context to the longest a step should slow down by no more than the
keys and values that it reads grow; and two threads should be nearly twice as fast as one.
"""

from random import Random

from benchmarks.bench import Bench, Row, options
from benchmarks.limits import decode_s
from benchmarks.models import CONFIGS
from benchmarks.worker import Side

MODEL = "N"
SHORT, LONG = 8, 40
CONTEXTS, CONTEXT_BATCH = (256, 512, 1024, 2048, 4096, 8192), 16
BATCHES, BATCH_CONTEXT = (1, 4, 16, 64, 256, 512), 256
THREAD_BATCHES = (64, 256)
QUICK_CONTEXTS, QUICK_BATCHES, QUICK_THREAD_BATCHES = (64, 128), (1, 4), (4,)


def main() -> None:
    args = options(__doc__).parse_args()
    bench = Bench("scaling", args)
    quick = args.quick
    by_context(bench, QUICK_CONTEXTS if quick else CONTEXTS, 4 if quick else CONTEXT_BATCH)
    by_batch(bench, QUICK_BATCHES if quick else BATCHES)
    by_threads(bench, QUICK_THREAD_BATCHES if quick else THREAD_BATCHES)
    bench.finish()


def steep(bench: Bench, rows: int, context: int, threads: int | None = None) -> Side:
    return bench.steep(threads=threads, directory=str(bench.model(MODEL)), context=context + LONG, rows=rows)


def by_context(bench: Bench, contexts: tuple[int, ...], batch: int) -> None:
    side = bench.sides["steep"] = steep(bench, batch, contexts[-1])
    rows = [row(bench, side, batch, context) for context in contexts]
    side.close()
    grown = contexts[-1] / contexts[0]
    ratios = [last / first / grown for first, last in zip(rows[0].seconds, rows[-1].seconds, strict=True)]
    bench.claim(f"scaling.context_{contexts[0]}_to_{contexts[-1]}_over_kv_bytes", ratios, "<= 1")


def by_batch(bench: Bench, batches: tuple[int, ...]) -> None:
    side = bench.sides["steep"] = steep(bench, batches[-1], BATCH_CONTEXT)
    for batch in batches:
        row(bench, side, batch, BATCH_CONTEXT)
    side.close()


def by_threads(bench: Bench, batches: tuple[int, ...]) -> None:
    """One thread and two in turn."""
    one, two = (steep(bench, batches[-1], BATCH_CONTEXT, threads) for threads in (1, 2))
    bench.sides |= {"one": one, "two": two}
    for batch in batches:
        rows = [Row(cell=f"batch {batch}, context {BATCH_CONTEXT}", side=f"{n} threads", tokens=batch) for n in (1, 2)]
        for number in range(bench.pairs + 1):
            times = [step_s(side, batch, BATCH_CONTEXT, number) for side in (one, two)]
            if number:
                for each, seconds in zip(rows, times, strict=True):
                    each.seconds.append(seconds)
        bench.rows += rows
        gains = [slow / fast for slow, fast in zip(rows[0].seconds, rows[1].seconds, strict=True)]
        bench.claim(f"scaling.two_threads.b{batch}", gains, ">= 1.7")


def row(bench: Bench, side: Side, batch: int, context: int) -> Row:
    limit = decode_s(CONFIGS[MODEL], batch, 0, context, 2, bench.limits)
    measured = Row(cell=f"batch {batch}, context {context}", side="steep", tokens=batch, limit_s=limit)
    measured.seconds = [step_s(side, batch, context, number) for number in range(bench.pairs + 1)][1:]
    bench.rows.append(measured)
    return measured


def step_s(side: Side, batch: int, context: int, number: int) -> float:
    """At a context that is `context` halfway between the two answers."""
    rng = Random(number)
    prompts = [[rng.randrange(20, 300) for _ in range(context - (SHORT + LONG) // 2)]]
    short_s, long_s = (
        float(side.call("generate", prompts=prompts, copies=batch, new=new, setting="bfloat16")["seconds"])
        for new in (SHORT, LONG)
    )
    return (long_s - short_s) / (LONG - SHORT)


if __name__ == "__main__":
    main()
