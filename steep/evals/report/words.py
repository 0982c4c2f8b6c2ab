"""The chapters of words: what was trained, what is claimed of it and what is missing, and how it was made."""

import json
from collections.abc import Sequence

from steep.evals import plots
from steep.evals.report.html import count_words, heading, machine_words, table, text, time_words
from steep.evals.source import Source
from steep.runs import Claim, Stage, duration, number

STAGE_WORDS = {
    "pretrain": "pretraining",
    "sft": "supervised fine-tuning",
    "rl": "reinforcement learning",
    "distill": "distillation",
}


def opening(title: str, sources: Sequence[Source]) -> str:
    parts = [f"<h1>{text(title)}</h1>"]
    parts += [_story(source) for source in sources]
    parts += [_missing(source, len(sources) > 1) for source in sources if source.missing]
    return "\n".join(parts)


def claimed(claims: Sequence[Claim]) -> str:
    if not claims:
        return ""
    rows = [
        [
            f"<code>{text(claim.id)}</code>",
            number(claim.value),
            f"{number(claim.low)} to {number(claim.high)}",
            text(claim.bar),
            '<span class="yes">✓ holds</span>' if claim.holds else '<span class="no">✗ fails</span>',
        ]
        for claim in claims
    ]
    said = " and ".join(f"<code>{text(command)}</code>" for command in dict.fromkeys(c.command for c in claims))
    return (
        heading("What is claimed")
        + table(["claim", "measured", "interval", "bar", ""], rows)
        + f'<p class="note">Measured again by {said}.</p>'
    )


def spent(sources: Sequence[Source]) -> str:
    """Tokens, compute and time of each stage of training."""
    stages = [_stage_cells(source, stage) for source in sources for stage in source.stages.values()]
    if not stages:
        return ""
    heads = ["stage", "steps", "tokens trained", "tokens sampled", "FLOPs", "time"]
    if len(sources) == 1:
        return table(heads, [row[1:] for row in stages])
    return table(["run", *heads], stages, texts=2)


def _story(source: Source) -> str:
    """What was trained, in a paragraph."""
    command = f"<code>{text(source.command)}</code>"
    if source.run is None:
        models = ", ".join(dict.fromkeys(cell.model for cell in source.cells))
        return f"<p><b>{text(source.name)}</b> is an evaluation of {text(models)}, made by {command}.</p>"
    info = source.run.info
    size = f" of {count_words(source.parameters)} parameters" if source.parameters else ""
    total = sum(source.seconds(stage) for stage in source.stages.values())
    steps = []
    for name, stage in source.stages.items():
        trained, sampled = source.tokens(stage)
        read = [f"{count_words(trained)} tokens"] if trained else []
        read += [f"{count_words(sampled)} sampled tokens"] if sampled else []
        where = f"on {' out of '.join(read)}, " if read else ""
        steps.append(f"{STAGE_WORDS[name]} ({where}{time_words(source.seconds(stage))})")
    through = f", in {time_words(total)}: {', then '.join(steps)}" if steps else ""
    config = info.config if isinstance(info.config, dict) else {}
    begun = f"from {config['start']} " if config.get("start") else ""
    begun = begun or ("from random weights " if "pretrain" in source.stages else "")
    ends = {
        "finished": "",
        "running": " The run is still going on.",
        "stopped": " The run was stopped before its end.",
        "interrupted": " The process of the run is gone before its end.",
        "failed": f" The run failed: {info.error}.",
    }[source.run.status]
    return (
        f"<p><b>{text(source.name)}</b> is a language model{size}, trained {text(begun)}by {command} on "
        f"{text(machine_words(info.machine))}{through}.{text(ends)}</p>"
    )


def _missing(source: Source, named: bool) -> str:
    name = f" in {text(source.name)}" if named else ""
    items = "".join(f"<li>{text(lack)}</li>" for lack in source.missing)
    return f'<div class="missing">Missing{name}:<ul>{items}</ul></div>'


def _stage_cells(source: Source, stage: Stage) -> list[str]:
    rows = stage.metrics()
    trained, sampled = source.tokens(stage)
    flops = [source.flops(row) for row in rows]
    total = sum(f for f in flops if f is not None)
    return [
        text(source.name),
        text(stage.name),
        str(len(rows)),
        number(trained) if trained else "",
        number(sampled) if sampled else "",
        plots.scientific(total) if total else "",
        duration(source.seconds(stage)),
    ]


def making(sources: Sequence[Source]) -> str:
    parts = [_made(source, len(sources) > 1) for source in sources if source.run or source.settings]
    return "\n".join([heading("How it was made"), *parts]) if parts else ""


def _made(source: Source, named: bool) -> str:
    if source.run is None:
        written, config = source.settings, source.settings.get("config")
        weights = dict.fromkeys(cell.digest for cell in source.cells if cell.digest)
        facts: dict[str, object] = {"weights, sha256": ", ".join(weights) or "not kept"}
    else:
        info = source.run.info
        written, config = {"versions": info.versions, "machine": info.machine}, info.config
        changed = ", with uncommitted changes" if info.git and info.git["dirty"] else ""
        facts = {
            "begun": info.created,
            "seed": info.seed,
            "commit": f"{info.git['commit']}{changed}" if info.git else "not from a checkout",
            "resumed": f"{len(info.resumed)} times" if info.resumed else "never",
        }
    facts = {
        "command": source.command,
        "kept in": source.path,
        **facts,
        "versions": ", ".join(f"{name} {version}" for name, version in written.get("versions", {}).items()),
        "machine": machine_words(written["machine"]) if "machine" in written else "not kept",
    }
    entries = "".join(f"<dt>{name}</dt><dd>{text(str(fact))}</dd>" for name, fact in facts.items())
    shown = text(json.dumps(config, indent=2, ensure_ascii=False))
    title = f"<h3>{text(source.name)}</h3>" if named else ""
    return (
        f"{title}<dl>{entries}</dl><details data-page><summary>the whole config</summary><pre>{shown}</pre></details>"
    )
