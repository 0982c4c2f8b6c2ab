"""`steep probes`: questions that models are said to get wrong; list them, add some, ask models."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steep.cli.arguments import did_you_mean
from steep.cli.engine import labels, tell_thoughtless, thought_tokens
from steep.cli.eval import engine_for, writable
from steep.cli.outcome import Outcome, Output
from steep.engines import LoadedModel, load_model
from steep.errors import SteepError
from steep.evals.evaluate import EvalConfig
from steep.evals.probes import (
    SHIPPED,
    Change,
    Tallies,
    Tally,
    add,
    ask,
    by_category,
    category,
    changes,
    last,
    probes,
    remember,
    together,
)
from steep.evals.statistics import percent
from steep.runs import Log, Progress
from steep.types import Problem

OWN = Path("probes.jsonl")
"""Where a user's own probes are, unless another file is named."""
SHOWN_QUESTION = 70
"""Characters."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What one model made of the probes."""

    model: str
    tallies: Tallies
    changes: Sequence[Change]
    """Since it was last asked."""


def run(args: argparse.Namespace) -> Outcome:
    match args.what, args.names:
        case "list", []:
            return listed(probes(files(args.file)))
        case "add", [question]:
            return added(question, args)
        case "run", [_, *_]:
            return asked(probes(files(args.file)), args)
        case "list" | "add" | "run", names:
            raise SteepError(f"`steep probes {args.what}` with {len(names)} names", "see `steep probes --help`")
        case _:
            fix = did_you_mean(args.what, ["list", "add", "run"])
            raise SteepError(f"there is no `steep probes {args.what}`", fix)


def files(own: Path | None) -> list[Path]:
    """Steep's own probes, and the user's where there are any."""
    return [SHIPPED, *([own or OWN] if own is not None or OWN.exists() else [])]


def listed(found: Sequence[Problem]) -> Outcome:
    rows = [
        {
            "probe": problem.id,
            "category": category(problem),
            "check": problem.key["verifier"],
            "answer": problem.key["answer"],
            "question": problem.prompt[-1].content,
        }
        for problem in found
    ]
    output = Output()
    for name, part in by_category(found).items():
        output.say(name, style="bold")
        for problem in part:
            output.say(f"  {problem.id}: {short(problem.prompt[-1].content)}")
    output.say(f"\n{len(rows)} probes with their answers: --json; your own are added by `steep probes add`, to {OWN}")
    return Outcome(value={"probes": rows})


def added(question: str, args: argparse.Namespace) -> Outcome:
    if args.answer is None:
        raise SteepError("a probe needs its right answer", "name it: --answer 3")
    given = {
        "id": args.id,
        "category": args.category,
        "prompt": question,
        "choices": args.choices,
        "answer": args.answer,
        "verifier": args.check,
        "split": "test",
    }
    file = args.file or OWN
    problem = add(file, {name: value for name, value in given.items() if value is not None})
    Output().say(f"{file} has the probe {problem.id}: {problem.key['verifier']} {problem.key['answer']!r}")
    return Outcome(value={"file": file, "probe": problem})


def asked(found: Sequence[Problem], args: argparse.Namespace) -> Outcome:
    loaded = [load_model(name) for name in args.names]
    writable(args.history.parent)
    if args.history.exists():
        args.history.open("ab").close()
    output = Output()
    results = []
    for label, one in zip(labels(loaded), loaded, strict=True):
        tell_thoughtless(one, output)
        results.append(answers_of(label, one, found, args))
    by_probe = args.by == "probe"
    parts = {"all": list(found)} | ({p.id: [p] for p in found} if by_probe else by_category(found))
    table(parts, results, args.by, output)
    for result in results:
        tell_invalid(result, output)
        tell_changes(result, found, output)
    shares = [
        {"model": r.model, "part": name, "budget": budget, "share": together(of(tallies, part))}
        for r in results
        for name, part in parts.items()
        for budget, tallies in r.tallies.items()
    ]
    return Outcome(value={"probes": len(found), "shares": shares, "models": results})


def answers_of(label: str, loaded: LoadedModel, found: Sequence[Problem], args: argparse.Namespace) -> Asked:
    """Ask a model, remember what it answered, and compare that with the last time."""
    budget = thought_tokens(loaded, args.budget, "medium")
    answer = answer_tokens(args.answer) or loaded.template.config.answer
    config = EvalConfig(budgets=tuple(sorted({0, budget})), answer=answer, samples=args.samples)
    engine = engine_for(loaded, found, config)
    with Progress(len(found), f"probes {label}") as progress:
        tallies = ask(engine, loaded.template, found, config, progress.update)
    history = Log(args.history)
    settings = {
        "model": str(loaded.path.resolve()),
        "budgets": list(config.budgets),
        "samples": config.samples,
        "answer": config.answer,
        "seed": config.seed,
    }
    before = last(history, settings)
    remember(history, settings, tallies)
    return Asked(model=label, tallies=tallies, changes=changes(before, tallies))


def answer_tokens(text: str | None) -> int:
    """What --answer says to `run`; 0 if it says nothing."""
    if text is None:
        return 0
    if not text.isdecimal() or int(text) == 0:
        raise SteepError(f"--answer {text!r} is no number of tokens", "to run takes a number; to add the right answer")
    return int(text)


def of(tallies: Mapping[str, Tally], part: Sequence[Problem]) -> list[Tally]:
    return [tallies[problem.id] for problem in part]


def table(parts: Mapping[str, Sequence[Problem]], results: Sequence[Asked], by: str, output: Output) -> None:
    """A row for each category or probe; for each model a column without and one with a thought."""
    modes = [(result, budget) for result in results for budget in result.tallies]
    columns = [f"{result.model}\n{f'{budget} tokens' if budget else 'no thought'}" for result, budget in modes]
    rows = []
    for name, part in parts.items():
        cells = [told(of(result.tallies[budget], part)) for result, budget in modes]
        about = short(part[0].prompt[-1].content) if by == "probe" and name != "all" else len(part)
        rows.append([name, about, *cells])
    about = "question" if by == "probe" else "probes"
    output.tell_table([by, about, *columns], rows, numeric=columns)


def told(tallies: Sequence[Tally]) -> str:
    failed = sum(tally.invalid for tally in tallies)
    return percent(together(tallies)) + (f", {failed} invalid" if failed else "")


def tell_invalid(result: Asked, output: Output) -> None:
    for tallies in result.tallies.values():
        for probe, tally in tallies.items():
            if tally.invalid:
                output.say(f"invalid: {probe}: {tally.invalid} checks failed: {tally.reason}", style="yellow")


def tell_changes(result: Asked, found: Sequence[Problem], output: Output) -> None:
    questions = {problem.id: problem.prompt[-1].content for problem in found}
    for change in result.changes:
        mode = f"with {change.budget} tokens" if change.budget else "without a thought"
        was, now = (f"{tally.right} of {tally.right + tally.wrong}" for tally in (change.before, change.now))
        output.say(f"{result.model} {mode}, {change.turn}: {short(questions[change.probe])} ({was}, now {now} right)")


def short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_QUESTION else line[: SHOWN_QUESTION - 3] + "..."
