"""How far each run of one or more grids is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import pandas as pd

from harness.analysis.ends import Ends
from harness.analysis.formats import format_frame
from harness.analysis.frame import described, show, varying_axes
from harness.analysis.index import records, without_collector
from harness.errors import InputError
from harness.runs import STATUSES, GridFolder

PROGRESS = {
    "iteration": "Int64",
    "total_iterations": "Int64",
    "iterations_per_second": "float64",
    "seconds_left": "float64",
    "reason": "object",
}


@without_collector()
def status_frame(grids: Iterable[GridFolder]) -> pd.DataFrame:
    """One row a run: `id`, the axes that vary, `seed`, `status`, and how far it is.

    `iteration` of `total_iterations` generator updates; `iterations_per_second` is that of the run's stack;
    `seconds_left` is for running runs alone; `reason` is the first line of why a run failed. What is not known is
    absent. `attrs["counts"]` has the number of runs by status, in the order of STATUSES.
    Errors: InputError where a file is damaged.
    """
    grids = list(grids)
    ends = [Ends.of(grid) for grid in grids]
    runs = described(grids, ends)
    shown = pd.DataFrame({name: runs[name] for name in ("id", *varying_axes(runs), "seed", "status")})
    progress = [row for grid, its_ends in zip(grids, ends, strict=True) for row in _progress(grid, its_ends)]
    for name, dtype in PROGRESS.items():
        shown[name] = pd.Series([row.get(name) for row in progress], dtype=dtype)
    counts = runs["status"].value_counts()
    shown.attrs = {"counts": {status: int(counts[status]) for status in STATUSES if status in counts}}
    return shown


def render_status(status: pd.DataFrame, format: str) -> str:
    """A table of `status_frame` in one of harness.analysis.formats.FORMATS; for people with the counts beneath.

    Errors: UnknownName for a format that does not exist.
    """
    if format in ("csv", "json"):
        return format_frame(status, format)
    axes = list(status.columns[1 : status.columns.get_loc("seed")])
    shown = pd.DataFrame({"id": status["id"]})
    for axis in axes:
        shown[axis] = [show(value) for value in status[axis]]
    shown[["seed", "status"]] = status[["seed", "status"]]
    shown["iteration"] = [
        "" if pd.isna(done) else f"{done} / {'?' if pd.isna(total) else total}"
        for done, total in zip(status["iteration"], status["total_iterations"], strict=True)
    ]
    shown["iterations/s"] = ["" if pd.isna(speed) else f"{speed:.4g}" for speed in status["iterations_per_second"]]
    shown["time left"] = [
        "" if pd.isna(left) else str(timedelta(seconds=round(left))) for left in status["seconds_left"]
    ]
    shown["reason"] = status["reason"]
    counts = ", ".join(f"{count} {name}" for name, count in status.attrs["counts"].items())
    return format_frame(shown, format, notes=[f"{len(status)} runs: {counts}."])


def _progress(grid: GridFolder, ends: Ends) -> Iterator[dict[str, Any]]:
    experiments = records(grid, "experiment.json")
    for entry in grid.manifest["runs"]:
        run_id = entry["id"]
        if run_id not in experiments:
            path = grid.run(run_id).path
            raise InputError(f"{path / 'experiment.json'} does not exist; {path} is not a run folder.")
        row: dict[str, Any] = {"total_iterations": experiments[run_id].get("iterations")}
        state = ends.status(run_id)
        stack = ends.progress.get(run_id)
        if stack is not None:
            speed = stack["iterations_per_second"]
            row |= {"iteration": stack["iteration"], "iterations_per_second": speed}
            if state == "running" and speed:
                row["seconds_left"] = (stack["iterations"] - stack["iteration"]) / speed
        provenance = ends.provenance.get(run_id)
        if provenance is not None:
            done, seconds = provenance["iterations"], provenance["seconds"]
            row["iteration"] = provenance["diverged_at"] if state == "diverged" else done
            row["iterations_per_second"] = done / seconds if seconds else None
        if run_id in ends.failures:
            row["reason"] = ends.failures[run_id]["reason"]
        yield row
