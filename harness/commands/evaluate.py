"""`harness evaluate` and the companions of `harness table`."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from harness import evaluation, foreign, images, runs
from harness.analysis.formats import format_frame
from harness.analysis.frame import frame, show
from harness.analysis.tables import render, table
from harness.errors import InputError, RunFailed
from harness.evaluation import Cache, Recipe, References, Request
from harness.evaluation.cache import default_folder
from harness.evaluation.measures import BatchNorm
from harness.experiment import validate
from harness.grid import EvaluationSettings
from harness.images import ImageSet
from harness.plan import data_folders
from harness.runs import GridFolder, RunFolder
from harness.training.processes import Processes
from harness.training.threads import set_threads
from harness.watching import progress_bar

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What the command line says: `settings` in the place of the grid's, `recipe` beyond them, and where files lie."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    data: Path | None = None
    cache: Path | None = None
    companions: bool = False

    def request(self, settings: Mapping[str, Any]) -> Request:
        """The request for a grid's settings.

        Errors: InputError; UnknownName.
        """
        return Request.of(
            validate(EvaluationSettings, {**settings, **self.settings}, where="evaluation"), **self.recipe
        )

    def references(self, data: ImageSet, recipe: Recipe, processes: Processes) -> References:
        """What samples that imitate a data set are compared with."""
        cache = Cache(self.cache or default_folder())
        return References(data, recipe, processes, cache=cache, folders=tuple(data_folders(self.data)))


def options(
    *,
    metrics: Sequence[str] = (),
    samples_count: int | None = None,
    reference: str | None = None,
    extractor: str | None = None,
    weights: Path | None = None,
    weights_sha256: str | None = None,
    select: str | None = None,
    select_by: str | None = None,
    companions: bool = False,
    trust_code: bool = False,
    cache: Path | None = None,
    data: Path | None = None,
) -> Options:
    """The command line's words as options; what is not given is left to the grid, then to the defaults."""
    names = tuple(name for text in metrics for name in map(str.strip, text.split(",")) if name)
    settings = {"metrics": names or None, "samples": samples_count, "reference": reference, "extractor": extractor}
    settings |= {"select": select, "select_by": select_by}
    recipe = {"weights": weights, "weights_sha256": weights_sha256, "trust_code": trust_code}
    given = {name: value for name, value in settings.items() if value is not None}
    return Options(given, recipe, data=data, cache=cache, companions=companions)


def evaluate_file(samples: str, dataset: str, options: Options, *, latent: str, trust_code: bool) -> dict[str, Any]:
    """The evaluation record of samples from elsewhere: a file, a folder, or images of the data set."""
    request = options.request({})
    count = options.settings.get("samples")
    processes = Processes()
    try:
        loaded = images.load(dataset, data_folders(options.data, beside=Path.cwd()))
        found = foreign.read(samples, loaded, count, trust_code=trust_code, latent=latent)
        if found.jpeg:
            _log.warning("%s holds JPEG files: their artefacts change FID and its kin; give lossless images", samples)
        references = options.references(loaded, request.recipe, processes)
        batch_norm: BatchNorm = "running" if samples in foreign.OF_DATA else "unknown"
        record = evaluation.evaluate(found.images, references, request.metrics, batch_norm=batch_norm)
        record["samples"] |= {"source": found.source, "jpeg": found.jpeg}
        return record
    finally:
        processes.close()


def evaluate_path(path: Path, options: Options, form: str) -> str:
    """Evaluate a run, or the finished runs of grids, and give what to print."""
    processes = Processes()
    set_threads(processes, None)
    try:
        if (path / "experiment.json").exists():
            run = runs.find_run(path)
            return render_record(_evaluate_run(run, GridFolder(path.resolve().parents[1]), processes, options), form)
        grids = runs.find_grids(path)
        problems = []
        for grid in grids:
            try:
                _evaluate_grid(grid, processes, options)
            except (InputError, RunFailed) as error:  # the other grids go on
                if len(grids) == 1 or processes.count > 1:  # what one process lacks others may wait for
                    raise
                problems.append(str(error))
        if problems:
            raise RunFailed("\n".join(problems))
        return render(table(frame(grids)), form)
    finally:
        processes.close()


def evaluate_companions(path: Path, options: Options) -> None:
    """Put the rows of training images, k-means centroids and a Gaussian beside the runs of the grids at a path."""
    processes = Processes()
    try:
        for grid in runs.find_grids(path):
            request, sets = _prepared(grid, processes, options, like=_evaluated(grid))
            names = foreign.COMPANIONS
            evaluation.evaluate_companions(grid, list(sets.values()), request, processes, names=names)
    finally:
        processes.close()


def _evaluated(grid: GridFolder) -> dict[str, Any]:
    """The settings under which a grid's runs were evaluated, as far as the first record tells them."""
    record = next((record for run in grid.runs() if (record := run.evaluation()) is not None), None)
    if record is None:
        return {}
    recipe = record["recipe"]
    named = {"extractor": recipe["extractor"]} if "@" not in (recipe["extractor"] or "@") else {}
    found = {"metrics": list(record["asked"]), "samples": record["samples"]["count"]}
    return {**found, "reference": recipe["reference"], **named}


def _prepared(
    grid: GridFolder, processes: Processes, options: Options, *, like: Mapping[str, Any] | None = None
) -> tuple[Request, dict[str, References]]:
    """What is asked of a grid, and what its samples are compared with, by the data's content hash.

    `like`: settings in the place of the grid file's.
    """
    request = options.request({**grid.manifest["evaluation"], **(like or {})})
    data = evaluation.grid_data(grid, data_folders(options.data))
    return request, {content: options.references(one, request.recipe, processes) for content, one in data.items()}


def _evaluate_run(run: RunFolder, grid: GridFolder, processes: Processes, options: Options) -> dict[str, Any]:
    request, sets = _prepared(grid, processes, options)
    [(_, outcome)] = evaluation.evaluate_runs([run], sets, request, processes)
    if isinstance(outcome, InputError):
        raise outcome
    return outcome


def _evaluate_grid(grid: GridFolder, processes: Processes, options: Options) -> None:
    statuses = processes.from_main(grid.statuses() if processes.is_main else None)
    finished = [grid.run(run_id) for run_id, status in statuses.items() if status == "complete"]
    if not finished:
        raise InputError(f"{grid.path} has no complete run to evaluate; `harness status {grid.path}` says why.")
    request, sets = _prepared(grid, processes, options)
    problems: list[str] = []
    with progress_bar(show=processes.is_main) as progress:
        outcomes = evaluation.evaluate_runs(finished, sets, request, processes)
        for run, outcome in progress.track(outcomes, len(finished), description=f"evaluating {grid.path.name}"):
            if isinstance(outcome, InputError):  # the other runs go on
                problems.append(f"  {run.id}  {outcome}")
        names = foreign.COMPANIONS if options.companions else (foreign.TRAINING_IMAGES,)
        evaluation.evaluate_companions(grid, list(sets.values()), request, processes, names=names)
    if problems:
        message = "\n".join([f"{len(problems)} of {len(finished)} runs could not be evaluated:", *problems])
        raise InputError(message) if len(problems) == len(finished) else RunFailed(message)


def render_record(record: Mapping[str, Any], form: str) -> str:
    """An evaluation record as JSON, or its metrics as a table."""
    if form == "json":
        return json.dumps(record, indent=2)
    rows = pd.DataFrame([{"metric": key, **values} for key, values in record["metrics"].items()])
    shown = rows if form == "csv" else rows.map(show)
    shown.attrs["groups"] = list(range(len(shown.columns)))  # the metric's key begins every block
    return format_frame(shown, form)
