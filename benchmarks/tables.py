"""Tables from the results: each script prints its own, and this file makes docs/performance.md from all of them.

python -m benchmarks.tables
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.worker import ROOT
from steep.runs import read_json, write_atomic

MEASURED = ROOT / "runs" / "bench" / "results"
RESULTS = ROOT / "docs" / "results" / "performance"
PAGE = ROOT / "docs" / "performance.md"
ORDER = ("decode", "serve", "rl_step", "train", "time_to_reward", "startup", "scaling")
TITLES = {
    "decode": "Decoding",
    "serve": "Serving",
    "rl_step": "An RL step",
    "train": "Training",
    "time_to_reward": "Time to reward",
    "startup": "Starting",
    "scaling": "Scaling",
}
OPENING = """# Performance

Made by `python -m benchmarks.tables` from `docs/results/performance`, which `make bench` fills. Every figure is a
median of rounds in which the sides take turns while the others are halted, with its lowest and highest in brackets. A
ratio is a rival's time over steep's in the same round. The limit is what memory bandwidth and the peak of matrix
products, measured in the same run, allow at most (formulas: `benchmarks/limits.py`): beside a rival that reaches a
quarter of it, no program can be more than four times as fast. What stays in the caches is read faster than memory: at
batch 1 N's weights do, so that its share may pass 100%. A bar is the goal that we set ourselves: missed means below the
goal, not slower than the rival. Every claim that was measured stands here.
"""


def table(document: Mapping[str, Any]) -> str:
    """One script's results as Markdown."""
    model = f", {document['only']}" if document.get("only") else ""
    parts = [f"## {TITLES[document['name']]}{model}", facts(document)]
    if document["rows"]:
        columns = ("work", "side", "figure", "rounds", "steep is faster by", "share of the limit")
        limits = {row["cell"]: row["limit_s"] for row in document["rows"] if row["limit_s"]}
        parts.append(_grid(columns, [_row(row, limits.get(row["cell"])) for row in document["rows"]]))
    if document["claims"]:
        parts.append(_grid(("claim", "measured", "bar", ""), [_claim(claim) for claim in document["claims"]]))
    if document["notes"]:
        parts.append("\n".join(f"- {note}" for note in document["notes"]))
    return "\n\n".join(parts) + "\n"


def facts(document: Mapping[str, Any]) -> str:
    limits = document["limits"]
    rivals = [
        f"{name}: " + (", ".join(map(" ".join, r["versions"].items())) if "versions" in r else r["status"])
        for name, r in document["rivals"].items()
    ]
    versions = ", ".join(map(" ".join, document["versions"].items()))
    commit = (document["commit"] or "no commit")[:12] + (", with changes" if document["dirty"] else "")
    lines = [
        f"{document['date']}, {document['machine']}, {document['threads']} threads, {commit}; {versions}.",
        f"Limits: {limits['bf16_gflops']:.3g} GFLOP/s bf16, {limits['fp32_gflops']:.0f} fp32, "
        f"{limits['bandwidth_gb']:.1f} GB/s."
        if limits
        else "",
        f"Rivals: {'; '.join(rivals)}." if rivals else "",
        "Smallest sizes, one round: no figure to quote." if document["quick"] else "",
    ]
    return "\n".join(line for line in lines if line)


def _row(row: Mapping[str, Any], limit_s: float | None) -> list[str]:
    seconds, tokens = row["seconds"], row["tokens"]
    if not seconds:
        return [row["cell"], row["side"], row["note"], "", "", ""]
    middle = statistics.median(seconds)
    figure = f"{tokens / middle:,.0f} tokens/s" if tokens else f"{middle:.3g} s"
    share = f"{limit_s / middle:.0%}" if limit_s else ""
    ratio = _spread(row["ratio"]) if row["ratio"] else ""
    return [row["cell"], row["side"], f"{figure} {row['note']}".strip(), str(len(seconds)), ratio, share]


def _claim(claim: Mapping[str, Any]) -> list[str]:
    spread = "" if claim["low"] == claim["high"] else f" ({claim['low']:.3g} to {claim['high']:.3g})"
    return [f"`{claim['id']}`", f"{claim['value']:.3g}{spread}", claim["bar"], "holds" if claim["holds"] else "missed"]


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}, one round"
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page() -> str:
    """docs/performance.md, from all results that are kept."""
    return "\n".join([OPENING, *(table(read_json(path)) for name in ORDER for path in kept(name))])


def kept(name: str) -> list[Path]:
    """A benchmark's results: of both models, or of each alone."""
    return sorted([*RESULTS.glob(f"{name}.json"), *RESULTS.glob(f"{name}-*.json")])


def main() -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    for path in MEASURED.glob("*.json"):
        write_atomic(RESULTS / path.name, path.read_bytes())
    write_atomic(PAGE, page().encode())
    print(f"{PAGE}: {sum(bool(kept(name)) for name in ORDER)} of {len(ORDER)} benchmarks")


if __name__ == "__main__":
    main()
