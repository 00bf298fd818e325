"""`harness table`: metrics by the axes, or in the style of the 2014 paper."""

from __future__ import annotations

from pathlib import Path

from harness.analysis import paper, tables
from harness.analysis.frame import frame
from harness.errors import InputError
from harness.runs import find_grids


def table(
    path: Path, *, style: str, metric: str | None, companions: bool, draws: bool, data: Path | None, form: str
) -> str:
    """What to print of the grids at a path."""
    if style == "paper" and (metric is not None or draws):
        raise InputError(
            "--metric and --draws: for --style axes alone; the paper's table has its own rows and columns."
        )
    if companions:
        from harness.commands import evaluate  # torch, which files alone do not need

        evaluate.evaluate_companions(path, evaluate.options(data=data, companions=True))
    grids = find_grids(path)
    if style == "paper":
        return paper.render(paper.paper_table(grids), form)
    return tables.render(tables.table(frame(grids), metric=metric, draws=draws), form)
