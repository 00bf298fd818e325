"""The figures of a grid and of a run, written as PNG files.

Drawn through matplotlib's objects (Figure, FigureCanvasAgg): no pyplot, no display, no global state.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from harness.analysis.curves import curves
from harness.analysis.figures import columns_for, to_png
from harness.analysis.frame import combinations, describe, draws_together, frame, varying_axes
from harness.analysis.intervals import metric_by_axis
from harness.analysis.kinds import OF_FILES
from harness.analysis.pictures import grid_samples, samples
from harness.analysis.tables import choose_keys
from harness.runs import GridFolder, RunFolder

__all__ = ["curves", "grid_samples", "metric_by_axis", "samples", "write_plots", "write_run_plots"]


def write_plots(
    grid: GridFolder, out: Path | None = None, *, metric: str | None = None, kinds: Collection[str] = OF_FILES
) -> list[Path]:
    """Write a grid's curves.png, samples.png and metric.png into `out` (<grid>/plots) and give their paths.

    A figure without anything to show is not written, nor one that is not among `kinds`. metric: a key or the beginning
    of one; the first metric if None.
    Errors: as harness.analysis.tables.table for `metric`.
    """
    out = out or grid.path / "plots"
    runs = draws_together(frame([grid]))
    keys = choose_keys(runs, metric)
    axes = varying_axes(runs)
    groups = {" · ".join(describe(axes, label)): members for label, members in combinations(runs, axes)}
    columns = columns_for([runs[axis].nunique() for axis in axes], len(groups))
    name = grid.manifest["name"]
    figures = {
        "curves": lambda: curves(
            {label: [grid.run(run_id) for run_id in members["id"]] for label, members in groups.items()},
            title=f"{name}: training",
            columns=columns,
        ),
        "samples": lambda: grid_samples(
            {label: _shown_run(grid, members) for label, members in groups.items()},
            title=f"{name}: samples",
            columns=columns,
        ),
        "metric": lambda: metric_by_axis(runs, keys[0], title=f"{name}: {keys[0].partition('[')[0]}") if keys else None,
    }
    return _written({kind: figures[kind] for kind in OF_FILES if kind in kinds}, out)


def write_run_plots(run: RunFolder, out: Path | None = None, *, kinds: Collection[str] = OF_FILES) -> list[Path]:
    """Write a run's curves.png and samples.png, as far as among `kinds`, into `out` (<run>/plots); give their paths."""
    figures = {
        "curves": lambda: curves({run.status(): [run]}, title=f"{run.id}: training"),
        "samples": lambda: samples(run, title=f"{run.id}: samples"),
    }
    return _written({kind: make for kind, make in figures.items() if kind in kinds}, out or run.path / "plots")


def _written(figures: Mapping[str, Callable[[], Figure | None]], out: Path) -> list[Path]:
    made = {kind: make() for kind, make in figures.items()}
    return [to_png(figure, out / f"{kind}.png") for kind, figure in made.items() if figure is not None]


def _shown_run(grid: GridFolder, members: pd.DataFrame) -> RunFolder | None:
    """The first complete run of a combination, in the order of the grid's seeds; None where there is none."""
    complete = members.loc[members["status"] == "complete", "id"]
    return grid.run(complete.iloc[0]) if len(complete) else None
