"""`harness plot --kind conditions|sweep|interpolation|neighbours`: pictures whose images trained models make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from harness import runs, sampling, sheets
from harness.analysis import sheets as figures
from harness.analysis.figures import to_png
from harness.analysis.frame import combinations, describe, frame, varying_axes
from harness.commands.sample import layout as layout_of
from harness.errors import InputError, RunFailed
from harness.evaluation import grid_data, training_pixels
from harness.images import unit
from harness.metrics.features import quantised
from harness.metrics.memorisation import nearest_with_places
from harness.plan import data_folders
from harness.runs import GridFolder, RunFolder
from harness.sampling import Sampler
from harness.sheets import KINDS, Layout
from harness.watching import progress_bar

NEIGHBOURS = "neighbours"
HEEDS = {**{name: kind.heeds for name, kind in KINDS.items()}, NEIGHBOURS: frozenset({"rows", "columns"})}


Training = Mapping[str, NDArray[np.uint8]]
"""The training images of a grid's data sets, in grey levels, by content hash."""


@dataclass(frozen=True)
class Subject:
    """A run to draw, and where its picture of a kind goes."""

    run: RunFolder
    grid: GridFolder
    name: str
    file: Callable[[str], Path]
    about: str = ""
    """What a caption says of it."""


def write_pictures(
    path: Path, kinds: Sequence[str], *, output: Path | None, data: Path | None, layout: Mapping[str, Any]
) -> list[Path]:
    """Write one PNG a kind and complete run at a path: <grid>/plots/<kind>/<run>.png, or <run>/plots/<kind>.png.

    Errors: InputError for bad options, and where no run can be drawn; RunFailed, after the others are drawn, where
    some cannot.
    """
    laid_out = layout_of(layout, {kind: HEEDS[kind] for kind in kinds})
    subjects = _subjects(path, output)

    @lru_cache(maxsize=1)  # subjects of a grid follow each other
    def training_of(grid: Path) -> Training:
        loaded = grid_data(GridFolder(grid), data_folders(data))
        return {content: training_pixels(one) for content, one in loaded.items()}

    written: list[Path] = []
    problems: list[str] = []
    with progress_bar() as progress:
        for subject in progress.track(subjects, description=f"drawing {', '.join(kinds)}"):
            training = training_of(subject.grid.path) if NEIGHBOURS in kinds else {}
            for kind in kinds:
                try:
                    figure = _figure(kind, sampling.load(subject.run), laid_out, subject, training)
                except InputError as error:
                    if len(subjects) * len(kinds) == 1:
                        raise
                    problems.append(f"  {subject.run.id}  {kind}: {error}")  # the others go on
                else:
                    written.append(to_png(figure, subject.file(kind)))
    if problems:
        asked = len(subjects) * len(kinds)
        message = "\n".join([f"{len(problems)} of {asked} pictures could not be drawn:", *problems])
        raise RunFailed(message) if written else InputError(message)
    return written


def _subjects(path: Path, output: Path | None) -> list[Subject]:
    if (path / "experiment.json").exists():
        run = runs.find_run(path)
        folder = output or run.path / "plots"
        return [Subject(run, GridFolder(path.resolve().parents[1]), run.id, lambda kind: folder / f"{kind}.png")]
    grids = runs.find_grids(path)
    found = []
    for grid in grids:
        folder = output or grid.path / "plots"
        if output is not None and len(grids) > 1:
            folder = output / grid.path.name
        records = frame([grid])
        axes = varying_axes(records)
        for label, members in combinations(records, axes):
            for run_id, seed in members.loc[members["status"] == "complete", ["id", "seed"]].itertuples(index=False):
                about = f"{' · '.join(describe(axes, label))}, seed {seed}, run {run_id}. "
                file = partial(_file, folder, run_id)
                found.append(Subject(grid.run(run_id), grid, str(grid.manifest["name"]), file, about))
    return found


def _file(folder: Path, run_id: str, kind: str) -> Path:
    return folder / kind / f"{run_id}.png"


def _figure(kind: str, sampler: Sampler, layout: Layout, subject: Subject, training: Training) -> Figure:
    finished = sampler.members[0]
    if finished.planned.image_shape[1:] == (1, 1):
        raise InputError(f"{finished.folder.path}: {finished.experiment.dataset} holds points, not images to draw.")
    title = f"{subject.name}: {kind}"
    if kind == NEIGHBOURS:
        images = training[str(finished.experiment.data_hash)]
        return _neighbours(sampler, layout, images, title=title, about=subject.about)
    sheet = KINDS[kind].make(sampler, layout)
    return figures.FIGURES[kind](sheet.images, sheet.facts, title=title, about=subject.about)


def _neighbours(sampler: Sampler, layout: Layout, training: NDArray[np.uint8], *, title: str, about: str) -> Figure:
    rows = layout.rows or sheets.ROWS
    samples = sampler.sample(rows * layout.columns)[0]
    samples = samples.reshape(rows, layout.columns, *samples.shape[1:])
    points, targets = quantised(samples[:, -1]).reshape(rows, -1), training.reshape(len(training), -1)
    places, distances = nearest_with_places(points, targets)
    return figures.neighbours(samples, unit(training[places.numpy()]), distances.numpy(), title=title, about=about)
