"""`steep tasks`: list the tasks there are, and check a file of problems before anything is trained on it."""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from steep.cli.arguments import did_you_mean
from steep.cli.eval import engine_for
from steep.cli.outcome import Outcome, Output
from steep.cli.task import DEFAULT_VERIFIER, ENDINGS, GENERATED, GYM, PUBLISHED, find_task
from steep.engines import LoadedModel, load_model
from steep.errors import SteepError
from steep.evals.evaluate import EvalConfig, evaluate
from steep.runs import Progress
from steep.tasks.checking import Finding, failing_examples, failing_gold, leaks, mistakes, repeats
from steep.tasks.gym import PACKAGE, REFUSED, Gym, every_level
from steep.tasks.jsonl import Line, read
from steep.tasks.mixture import distinct
from steep.tasks.published import DATA
from steep.tasks.python_file import Apart, read_rows
from steep.types import Group, Problem, Split, Task

SHOWN_FINDINGS = 20
SHOWN_PROBLEMS = 10
SHOWN_GOLD = 40
"""Characters."""
BAR = 40
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
SOME_PROBLEMS = 50
"""Of each split of a task that may be endless."""
TO_MEND = 2
"""Exit code where a file has errors."""


@dataclass(frozen=True, kw_only=True)
class Signal:
    """How often a model is right on problems. RL learns only from those where it sometimes is."""

    never: int
    sometimes: int
    always: int
    invalid: int
    """Problems of which no answer could be checked."""
    pass_rate: float


def run(args: argparse.Namespace) -> Outcome:
    match args.what, args.files:
        case "list", []:
            return listed()
        case "list", ["gym"]:
            return listed_gym()
        case "check", [file]:
            return checked(Path(file), args)
        case "list" | "check", _:
            raise SteepError(f"`steep tasks {args.what}` with {len(args.files)} files", "see `steep tasks --help`")
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


def checked(file: Path, args: argparse.Namespace) -> Outcome:
    if not file.name.endswith(ENDINGS) and not file.name.startswith(GYM):
        raise SteepError(f"{file} is not a file of problems", f"its name must end in {' or '.join(ENDINGS)}")
    task = find_task(str(file), verifier=args.verifier)
    loaded = None if args.model is None else load_model(args.model)
    lines = read_lines(file, task, args.verifier or DEFAULT_VERIFIER)
    problems = [line.problem for line in lines if line.problem is not None]
    output = Output()
    tell_problems(file, lines, loaded, output)
    errors = [*mistakes(lines), *bad_gold(task, lines)]
    if not lines:
        errors.append(Finding(line=1, text="there are no problems"))
    warnings = [*unused(lines), *repeats(lines)]
    overlaps = leaks(lines, test_sets())
    unit = "line" if file.name.endswith(ENDINGS[:2]) else "row"
    for title, findings in (("errors", errors), ("warnings", warnings), ("problems that are in a test set", overlaps)):
        tell_findings(title, findings, unit, output)
    signal = None if loaded is None or errors else signal_of(loaded, task, problems, args)
    if signal is not None:
        tell_signal(signal, output)
    output.say(verdict_on(file, errors))
    value = {
        "file": file,
        "problems": len(problems),
        "splits": Counter(problem.split for problem in problems),
        "errors": errors,
        "warnings": warnings,
        "overlaps": overlaps,
        "signal": signal,
    }
    return Outcome(value=value, exit_code=TO_MEND if errors else 0)


def read_lines(file: Path, task: Task, verifier: str) -> list[Line]:
    """All that the file holds; of a task that may be endless, some problems."""
    if isinstance(task, Apart | Gym):
        some = [problem for split in ("train", "test") for problem in distinct(task, split, SOME_PROBLEMS)]
        return [Line(number=number, problem=problem) for number, problem in enumerate(some, start=1)]
    return read_rows(file, verifier) if file.suffix == ".py" else read(file, verifier)


def bad_gold(task: Task, lines: Sequence[Line]) -> list[Finding]:
    """Gold answers, or a task's own examples, that do not get the verdict they should."""
    if isinstance(task, Apart | Gym):
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


def test_sets() -> Mapping[str, Sequence[Problem]]:
    """The test problems of the published sets that are on this machine."""
    sets = [kind() for kind in PUBLISHED.values()]
    return {task.name: task.listed("test") for task in sets if task.is_here}


def signal_of(loaded: LoadedModel, task: Task, problems: Sequence[Problem], args: argparse.Namespace) -> Signal:
    """How often the model is right on training problems; where there are none, on others."""
    splits = {problem.split for problem in problems}
    split = next(split for split in SPLITS if split in splits)
    able = list({problem.id: problem for problem in problems if problem.split == split}.values())
    asked = Random(0).sample(able, min(args.problems, len(able)))
    thought = loaded.template.config.efforts.get("medium") if args.budget is None else args.budget
    budget = loaded.template.budget(thought or 0).thought or 0
    config = EvalConfig(budgets=(budget,), answer=loaded.template.config.answer, samples=args.samples)
    engine = engine_for(loaded, asked, config)
    return counted(evaluate(engine, loaded.template, {task.name: task}, asked, config)[budget])


def counted(groups: Sequence[Group]) -> Signal:
    verdicts = [[r.verdict.kind for r in group.rollouts if r.verdict is not None] for group in groups]
    rates = [
        kinds.count("correct") / (len(kinds) - kinds.count("invalid"))
        for kinds in verdicts
        if set(kinds) != {"invalid"}
    ]
    return Signal(
        never=rates.count(0.0),
        sometimes=sum(0 < rate < 1 for rate in rates),
        always=rates.count(1.0),
        invalid=len(groups) - len(rates),
        pass_rate=sum(rates) / len(rates) if rates else 0.0,
    )


def tell_problems(file: Path, lines: Sequence[Line], loaded: LoadedModel | None, output: Output) -> None:
    """How many there are, and some as the model sees them."""
    held = [(line.number, line.problem) for line in lines if line.problem is not None]
    splits = Counter(problem.split for _, problem in held)
    levels = Counter(f"level {problem.level}" for _, problem in held)
    parts = ", ".join(f"{count} {name}" for name, count in [*((s, splits[s]) for s in SPLITS), *sorted(levels.items())])
    output.say(f"{file}: {len(held)} problems: {parts}")
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


def tell_signal(signal: Signal, output: Output) -> None:
    total = max(signal.never + signal.sometimes + signal.always, 1)
    output.say(f"the model's pass rate is {signal.pass_rate:.1%}; it is right", style="bold")
    for name in ("never", "sometimes", "always"):
        count = getattr(signal, name)
        output.say(f"  {name:9} {'#' * round(BAR * count / total):{BAR}} {count:4} {count / total:4.0%}")
    if signal.invalid:
        output.say(f"  and {signal.invalid} problems could not be checked")
    output.say(f"  {advice(signal)}\n")


def advice(signal: Signal) -> str:
    if signal.sometimes:
        return f"RL can learn from the {signal.sometimes} that it sometimes gets right"
    if signal.never >= signal.always:
        return "RL has nothing to learn from: begin with easier problems, or fine-tune first"
    return "RL has nothing to learn from: choose harder problems"


def verdict_on(file: Path, errors: Sequence[Finding]) -> str:
    if errors:
        return f"{file} cannot be used before its errors are mended"
    return f"{file} can be used: steep eval MODEL --task {file}"
