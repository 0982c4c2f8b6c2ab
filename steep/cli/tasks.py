"""`steep tasks`: list the tasks there are, and check problems before anything is trained on them."""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from steep.cli.arguments import did_you_mean
from steep.cli.engine import tell_thoughtless, thought_tokens
from steep.cli.eval import ROWS, engine_for
from steep.cli.outcome import Outcome, Output
from steep.cli.task import DEFAULT_VERIFIER, GENERATED, GYM, PUBLISHED, find_task
from steep.engines import LoadedModel, load_model
from steep.errors import SteepError
from steep.evals.evaluate import EvalConfig, evaluate
from steep.evals.signal import Signal, judgement, pass_rate, signals
from steep.rollouts import RolloutConfig
from steep.runs import Progress
from steep.runs.files import write_atomic
from steep.tasks.checking import Finding, failing_examples, failing_gold, leaks, mistakes, repeats
from steep.tasks.gym import PACKAGE, REFUSED, every_level
from steep.tasks.jsonl import FromFile, Jsonl, Line, read, row_of
from steep.tasks.listed import Listed, of_level
from steep.tasks.mixture import distinct
from steep.tasks.published import DATA, Published
from steep.tasks.python_file import Rows, read_rows
from steep.types import Group, Problem, Split, Task

SHOWN_FINDINGS = 20
SHOWN_PROBLEMS = 10
SHOWN_GOLD = 40
"""Characters."""
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
SOME_PROBLEMS = 50
"""Of each split of a task that may have no end of them."""
TO_MEND = 2
"""Exit code where a file has errors."""


def run(args: argparse.Namespace) -> Outcome:
    match args.what, args.names:
        case "list", []:
            return listed()
        case "list", ["gym"]:
            return listed_gym()
        case "check", [name]:
            return checked(name, args)
        case "list" | "check", _:
            raise SteepError(f"`steep tasks {args.what}` with {len(args.names)} names", "see `steep tasks --help`")
        case _:
            raise SteepError(f"there is no `steep tasks {args.what}`", did_you_mean(args.what, ["list", "check"]))


def listed() -> Outcome:
    rows = [[name, "generated", summary(kind)] for name, kind in GENERATED.items()]
    for name, kind in PUBLISHED.items():
        rows.append([name, "on this machine" if kind().is_here else "from the hub", summary(kind)])
    rows.append([f"{GYM}NAME", "generated", f"The datasets of {PACKAGE}: see `steep tasks list gym`."])
    output = Output()
    output.tell_table(["task", "problems", ""], rows)
    output.say(f"\nPublished sets are read from ${DATA} where it is set. A file of your own is a task too:")
    output.say("  steep tasks check mine.jsonl")
    return Outcome(value={"tasks": [dict(zip(("name", "problems", "about"), row, strict=True)) for row in rows]})


def listed_gym() -> Outcome:
    there = {f"{GYM}{name}": levels for name, levels in every_level().items() if name not in REFUSED}
    rows = [[name, ", ".join(map(str, levels))] for name, levels in there.items()]
    rows += [[f"{GYM}{name}", f"refused: {reason}"] for name, reason in REFUSED.items()]
    Output().tell_table(["task", "levels"], rows)
    return Outcome(value={"tasks": there, "refused": REFUSED})


def summary(kind: object) -> str:
    """The first line that a class says about itself."""
    return (kind.__doc__ or "").strip().partition("\n")[0]


def checked(name: str, args: argparse.Namespace) -> Outcome:
    task = find_task(name, verifier=args.verifier)
    check_keeping(task, args)
    loaded = None if args.model is None else load_model(args.model)
    lines = read_lines(name, task, args.verifier or DEFAULT_VERIFIER)
    problems = [line.problem for line in lines if line.problem is not None]
    output = Output()
    tell_problems(name, lines, loaded, output)
    errors = [*mistakes(lines), *bad_gold(task, lines)]
    if not lines:
        errors.append(Finding(line=1, text="there are no problems"))
    warnings = [*unused(lines), *repeats(lines)]
    left_out = len(task.left_out()) if isinstance(task, Published) else 0
    if left_out:
        output.say(
            f"{left_out} more training problems are not used: they share 13 words in a row with a test problem\n"
        )
    there, lacking = test_sets()
    overlaps = leaks(lines, {other: problems for other, problems in there.items() if other != task.name})
    unit = "line" if isinstance(task, Jsonl) else "row" if isinstance(task, Rows) else "problem"
    for title, findings in (("errors", errors), ("warnings", warnings), ("problems that are in a test set", overlaps)):
        tell_findings(title, findings, unit, output)
    found: list[Signal] = []
    if loaded is not None and not errors:
        tell_thoughtless(loaded, output)
        groups = sampled(loaded, task, distinct(task, asked_split(problems), args.problems), args)
        found = signals(groups, RolloutConfig.group_size)
        tell_signals(found, args.samples, output)
        if args.keep is not None:
            assert isinstance(task, Listed)
            keep(task, groups, args, output)
    if lacking:
        output.say(f"not compared with {', '.join(lacking)}, which are not in ${DATA} or cannot be read")
    output.say(verdict_on(name, errors))
    value = {
        "file": name,
        "problems": len(problems),
        "splits": Counter(problem.split for problem in problems),
        "errors": errors,
        "warnings": warnings,
        "overlaps": overlaps,
        "not_compared": lacking,
        "left_out": left_out,
        "signal": found[0] if found else None,
        "levels": found[1:],
    }
    return Outcome(value=value, exit_code=TO_MEND if errors else 0)


def read_lines(name: str, task: Task, verifier: str) -> list[Line]:
    """All that a file or a published set holds; of another task, which may be endless, some problems."""
    if isinstance(task, Published):
        every = [problem for split in task.splits for problem in task.listed(split)]
        return [Line(number=number, problem=problem) for number, problem in enumerate(every, start=1)]
    if not isinstance(task, FromFile):
        some = [problem for split in ("train", "test") for problem in distinct(task, split, SOME_PROBLEMS)]
        return [Line(number=number, problem=problem) for number, problem in enumerate(some, start=1)]
    return read_rows(Path(name), verifier) if isinstance(task, Rows) else read(Path(name), verifier)


def bad_gold(task: Task, lines: Sequence[Line]) -> list[Finding]:
    """Gold answers of a file or a published set, or another task's own examples, that do not get their verdict."""
    if not isinstance(task, Listed):
        return [Finding(line=number, text=text) for number, text in enumerate(failing_examples(task), start=1)]
    found = []
    with Progress(sum(line.problem is not None for line in lines), "gold answers") as progress:
        for number, finding in enumerate(failing_gold(task, lines), start=1):
            found.append(finding)
            progress.update(number)
    return [finding for finding in found if finding is not None]


def unused(lines: Sequence[Line]) -> list[Finding]:
    """The first line of each field that nothing reads."""
    first = {name: line.number for line in reversed(lines) for name in line.unknown}
    return [Finding(line=number, text=f"the field {name!r} is not used") for name, number in sorted(first.items())]


def test_sets() -> tuple[Mapping[str, Sequence[Problem]], Sequence[str]]:
    """The test problems of the published sets that are on this machine; and the names of those that are not, or that
    cannot be read.
    """
    found: dict[str, Sequence[Problem]] = {}
    for task in [kind() for kind in PUBLISHED.values()]:
        if task.is_here:
            with suppress(SteepError):
                found[task.name] = task.listed("test")
    return found, [name for name in PUBLISHED if name not in found]


def sampled(loaded: LoadedModel, task: Task, problems: Sequence[Problem], args: argparse.Namespace) -> list[Group]:
    """The model's answers to some problems of all levels."""
    budget = thought_tokens(loaded, args.budget, "medium")
    answer = args.answer or loaded.template.config.answer
    config = EvalConfig(budgets=(budget,), answer=answer, samples=args.samples)
    engine, at_once = engine_for(loaded, problems, config), max(ROWS // args.samples, 1)
    groups: list[Group] = []
    with Progress(len(problems), "problems") as progress:
        for first in range(0, len(problems), at_once):
            part = problems[first : first + at_once]
            groups += evaluate(engine, loaded.template, {task.name: task}, part, config)[budget]
            progress.update(len(groups))
    return groups


def asked_split(problems: Sequence[Problem]) -> Split:
    """Training problems are asked; where there are none, others."""
    splits = {problem.split for problem in problems}
    return next(split for split in SPLITS if split in splits)


def check_keeping(task: Task, args: argparse.Namespace) -> None:
    """Raise if what is asked to be kept cannot be, before a model is asked anything."""
    low, high = args.between
    if not 0 <= low <= high <= 1:
        raise SteepError(f"there are no pass rates between {low:g} and {high:g}", "give two from 0 to 1")
    if args.keep is None:
        return
    if args.model is None:
        raise SteepError("--keep needs pass rates", "name the model to measure them with --model")
    if not isinstance(task, Listed) or (isinstance(task, Rows) and task.verifies):
        raise SteepError(
            f"{task.name} checks answers by itself, which no line of a file can say",
            "leave --keep away; RL finds out by itself which problems have signal: --rl.profile 32",
        )
    if args.keep.suffix != ".jsonl" or args.keep.exists() or not args.keep.parent.is_dir():
        fix = "name a new file that ends in .jsonl, in a directory that is there"
        raise SteepError(f"what is kept cannot be written to {args.keep}", fix)


def keep(task: Listed, groups: Sequence[Group], args: argparse.Namespace, output: Output) -> None:
    """Write the problems that the model sometimes gets right, and the held-out ones, so that the file can be used."""
    low, high = args.between
    rated = [(group.problem, pass_rate(group)) for group in groups]
    rows = [row_of(p) | {"pass_rate": rate} for p, rate in rated if rate is not None and low <= rate <= high]
    asked = groups[0].problem.split
    held_out = [row_of(problem) for split in SPLITS if split != asked for problem in of_level(task, split, None)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in (*rows, *held_out))
    write_atomic(args.keep, lines.encode())
    output.say(
        f"{args.keep} holds the {len(rows)} of {len(groups)} problems with a pass rate from {low:g} to {high:g}, and "
        f"{len(held_out)} held-out ones"
    )


def tell_problems(name: str, lines: Sequence[Line], loaded: LoadedModel | None, output: Output) -> None:
    """How many there are, and some as the model sees them."""
    held = [(line.number, line.problem) for line in lines if line.problem is not None]
    splits = Counter(problem.split for _, problem in held)
    levels = Counter(f"level {problem.level}" for _, problem in held)
    thoughts = sum("thought" in problem.key for _, problem in held)
    counts = [*((split, splits[split]) for split in SPLITS), *sorted(levels.items()), ("with a thought", thoughts)]
    parts = ", ".join(f"{count} {what}" for what, count in counts if count or what in SPLITS)
    output.say(f"{name}: {len(held)} problems: {parts}")
    for number, problem in held[:SHOWN_PROBLEMS]:
        output.say(f"\n{number}: {problem.split}, level {problem.level}{gold_of(problem)}", style="bold")
        output.say(rendered(problem, loaded))
    output.say("")


def gold_of(problem: Problem) -> str:
    """The end of the gold answer, which is where the answer is, and what checks it."""
    if "verifier" not in problem.key:
        return ""
    gold = problem.key["answer"]
    return f", {problem.key['verifier']} {gold if len(gold) <= SHOWN_GOLD else '...' + gold[-SHOWN_GOLD:]!r}"


def rendered(problem: Problem, loaded: LoadedModel | None) -> str:
    if loaded is None:
        return "\n".join(f"{message.role}: {message.content}" for message in problem.prompt)
    return loaded.template.tokenizer.decode(loaded.template.render(problem.prompt), control=True)


def tell_findings(title: str, findings: Sequence[Finding], unit: str, output: Output) -> None:
    if not findings:
        return
    output.say(f"{title}: {len(findings)}", style="bold")
    for finding in sorted(findings, key=lambda finding: finding.line)[:SHOWN_FINDINGS]:
        output.say(f"  {unit} {finding.line}: {finding.text}")
    if len(findings) > SHOWN_FINDINGS:
        output.say(f"  and {len(findings) - SHOWN_FINDINGS} more")
    output.say("")


def tell_signals(found: Sequence[Signal], samples: int, output: Output) -> None:
    """A row for all levels together and for each."""
    columns = ["problems", "never", "sometimes", "always", "pass@1", f"pass@{samples}", "signal"]
    rows = []
    for one in found:
        counts = [one.never, one.sometimes, one.always]
        passed = [f"{e.value:.0%} ({100 * e.low:.0f}-{100 * e.high:.0f})" for e in (one.pass_at_1, one.pass_at_n)]
        level = "all" if one.level is None else f"level {one.level}"
        rows.append([level, sum(counts), *counts, *passed, f"{one.varied:.0%}"])
    output.tell_table(["", *columns], rows, numeric=columns)
    if found[0].invalid:
        output.say(f"{found[0].invalid} more problems could not be checked")
    output.say(judgement(found[0]), style="bold")


def verdict_on(name: str, errors: Sequence[Finding]) -> str:
    if errors:
        return f"{name} cannot be used before its errors are mended"
    return f"{name} can be used: steep eval MODEL --task {name}, steep train --model MODEL --task {name}"
