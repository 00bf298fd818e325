"""What the commands do beyond one call: reading paths, looping over runs, printing records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness import evaluation, images, runs, sampling
from harness.analysis.formats import format_frame
from harness.analysis.frame import frame, show
from harness.analysis.tables import render, table
from harness.errors import InputError, RunFailed
from harness.evaluation import Request
from harness.grid import EvaluationSettings, shipped_grids
from harness.methods import METHODS
from harness.models import FAMILIES
from harness.objectives.losses import LOSSES
from harness.plan import Plan, data_folders
from harness.runs import GridFolder, RunFolder
from harness.training.optimizers import OTHERS, STACKABLE
from harness.training.processes import Processes
from harness.watching import progress_bar

NAMES: dict[str, Sequence[str]] = {
    "datasets": sorted(images.SOURCES),
    "grids": sorted(shipped_grids()),
    "losses": sorted(LOSSES),
    "methods": sorted(METHODS),
    "metrics": sorted(evaluation.METRICS),
    "models": sorted(FAMILIES),
    "optimizers": sorted((*STACKABLE, *OTHERS)),
}


def names(kind: str) -> Sequence[str]:
    """The names that a grid file may use for a kind of thing."""
    return NAMES[kind]


def render_plan(planned: Plan, form: str) -> str:
    """The table of a grid's runs: id, axes, seed."""
    rows = [{"id": run.id, **run.axes, "seed": run.experiment.seed} for run in planned.runs]
    return format_frame(pd.DataFrame(rows), form, notes=[f"{len(rows)} runs of grid {planned.grid.name}."])


def evaluate_file(
    samples: str, dataset: str, *, metrics: Sequence[str], count: int | None, data: Path | None
) -> dict[str, Any]:
    """The evaluation record of a file of samples, or of training images."""
    request = _request({}, metrics, count)
    processes = Processes()
    loaded = images.load(dataset, data_folders(data, beside=Path.cwd()))
    found = evaluation.load_samples(samples, loaded, request.samples)
    record = evaluation.evaluate(found, loaded, request.metrics, processes)
    processes.close()
    return record


def evaluate_path(path: Path, *, metrics: Sequence[str], count: int | None, data: Path | None, form: str) -> str:
    """Evaluate a run, or the finished runs of grids, and give what to print."""
    processes = Processes()
    try:
        if (path / "experiment.json").exists():
            run = runs.find_run(path)
            grid = GridFolder(path.resolve().parents[1])
            return render_record(_evaluate_run(run, grid, processes, metrics, count, data), form)
        grids = runs.find_grids(path)
        for grid in grids:
            _evaluate_grid(grid, processes, metrics, count, data)
        return render(table(frame(grids)), form)
    finally:
        processes.close()


def _evaluate_run(
    run: RunFolder, grid: GridFolder, processes: Processes, metrics: Sequence[str], count: int | None, data: Path | None
) -> dict[str, Any]:
    request = _request(grid.manifest["evaluation"], metrics, count)
    sets = evaluation.grid_data(grid, data_folders(data))
    [(_, outcome)] = evaluation.evaluate_runs([run], sets, request, processes)
    if isinstance(outcome, InputError):
        raise outcome
    return outcome


def _evaluate_grid(
    grid: GridFolder, processes: Processes, metrics: Sequence[str], count: int | None, data: Path | None
) -> None:
    request = _request(grid.manifest["evaluation"], metrics, count)
    finished = [run for run, status in zip(grid.runs(), grid.statuses().values(), strict=True) if status == "complete"]
    if not finished:
        raise InputError(f"{grid.path} has no complete run to evaluate; `harness status {grid.path}` says why.")
    sets = evaluation.grid_data(grid, data_folders(data))
    problems: list[str] = []
    with progress_bar(show=processes.is_main) as progress:
        outcomes = evaluation.evaluate_runs(finished, sets, request, processes)
        for run, outcome in progress.track(outcomes, len(finished), description=f"evaluating {grid.path.name}"):
            if isinstance(outcome, InputError):  # the other runs go on
                problems.append(f"  {run.id}  {outcome}")
        evaluation.evaluate_controls(grid, list(sets.values()), request, processes)
    if problems:
        message = "\n".join([f"{len(problems)} of {len(finished)} runs could not be evaluated:", *problems])
        raise InputError(message) if len(problems) == len(finished) else RunFailed(message)


def _request(settings: dict[str, Any], metrics: Sequence[str], count: int | None) -> Request:
    """What to evaluate: the command's options, else the grid's settings, else the defaults."""
    default = EvaluationSettings()
    chosen = tuple(metrics) or tuple(settings.get("metrics", default.metrics))
    return Request(chosen, count or settings.get("samples", default.samples))


def render_record(record: dict[str, Any], form: str) -> str:
    """An evaluation record as JSON, or its metrics as a table."""
    if form == "json":
        return json.dumps(record, indent=2)
    rows = pd.DataFrame([{"metric": key, **values} for key, values in record["metrics"].items()])
    return format_frame(rows if form == "csv" else rows.map(show), form)


def sample(path: Path, *, n: int, iteration: int | None, output: Path) -> Path:
    """Write samples of a finished run to an .npz file."""
    sampler = sampling.load(runs.find_run(path), iteration=iteration)
    try:
        runs.write_npz(output, images=sampler.sample(n)[0])
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}.") from None
    return output
