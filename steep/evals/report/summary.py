"""The table that a demonstration ends with."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from steep.errors import SteepError
from steep.evals.report.gallery import by_model, whole
from steep.evals.source import open_sources, tasks_by_weight
from steep.evals.suite import Cell
from steep.runs import printable


def summary(paths: Sequence[Path]) -> Table:
    """Accuracy of every model, sampled, with budgets across: what a demonstration ends with.

    The caption tells what thinking is worth in the lesser tasks: the last model without a thought and with the longest.
    """
    sources = open_sources(paths)
    cells = [(source, cell) for source in sources for cell in whole(source, "sampled")]
    if not cells:
        raise SteepError(
            f"nothing is evaluated in {', '.join(str(path) for path in paths)}",
            "do so with `steep eval RUN --task countdown`",
        )
    budgets = sorted({cell.budget for _, cell in cells})
    table = Table(title="accuracy by thinking budget, sampled at temperature 1, with 95% intervals")
    table.add_column("task")
    table.add_column("model")
    for budget in budgets:
        table.add_column(str(budget), justify="right")
    told = []
    for place, task in enumerate(tasks_by_weight(sources)):
        shown = False
        for source in sources:
            for model, by_budget in by_model(whole(source, "sampled"), task).items():
                name = model if len(sources) == 1 else f"{source.name} {model}"
                figures = [_rich_figure(by_budget.get(budget)) for budget in budgets]
                table.add_row(Text("" if shown else printable(task)), Text(printable(name)), *figures)
                shown, last, last_name = True, by_budget, name
        if shown and place > 0 and 0 in last and max(last) > 0:
            first, most = last[0], last[max(last)]
            told.append(
                f"{task}, {last_name}: {first.value:.0%} without a thought, {most.value:.0%} with {most.budget} tokens"
            )
        table.add_section()
    table.caption = Text(printable("\n".join(told))) if told else None
    return table


def _rich_figure(cell: Cell | None) -> Text:
    if cell is None:
        return Text("")
    return Text.assemble(f"{cell.value:.0%}", "\n", (f"{100 * cell.low:.0f}-{100 * cell.high:.0f}", "dim"))
