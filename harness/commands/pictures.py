"""`harness plot --kind KIND`, of kinds that trained models are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from harness import runs, sampling, sheets
from harness.analysis import sheets as figures
from harness.analysis.figures import to_png
from harness.analysis.frame import combinations, describe, frame, varying_axes
from harness.analysis.kinds import BESIDE_DATA, OF_MODELS
from harness.commands.landscape import landscape
from harness.commands.sample import layout as layout_of
from harness.errors import InputError, RunFailed
from harness.evaluation import grid_data, training_pixels
from harness.images import ImageSet, unit
from harness.metrics.features import quantised
from harness.metrics.memorisation import nearest_with_places
from harness.plan import data_folders
from harness.runs import GridFolder, RunFolder
from harness.sheets import KINDS, Layout
from harness.watching import progress_bar


@dataclass(frozen=True)
class Training:
    """A data set whose training images a picture shows."""

    data: ImageSet

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """All of them, in grey levels: (t, c, h, w)."""
        return training_pixels(self.data)


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
    laid_out = layout_of(layout, {kind: OF_MODELS[kind].options for kind in kinds})
    subjects = _subjects(path, output)

    @lru_cache(maxsize=1)  # subjects of a grid follow each other
    def training_of(grid: Path) -> Mapping[str, Training]:
        loaded = grid_data(GridFolder(grid), data_folders(data))
        return {content: Training(one) for content, one in loaded.items()}

    written: list[Path] = []
    problems: list[str] = []
    with progress_bar() as progress:
        for subject in progress.track(subjects, description=f"drawing {', '.join(kinds)}"):
            training = training_of(subject.grid.path) if BESIDE_DATA.keys() & set(kinds) else {}
            for kind in kinds:
                try:
                    figure = _figure(kind, subject, laid_out, training)
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


def _figure(kind: str, subject: Subject, layout: Layout, training: Mapping[str, Training]) -> Figure:
    finished = sampling.find(subject.run)
    is_of_points = finished.planned.image_shape[1:] == (1, 1)
    if is_of_points and kind != "landscape":
        raise InputError(f"{subject.run.path}: {finished.experiment.dataset} holds points, not images to draw.")
    title = f"{subject.name}: {kind}"
    if kind in BESIDE_DATA:
        beside = training[str(finished.experiment.data_hash)]
        if kind == "landscape":
            return landscape(subject.run, beside.data, title=title, about=subject.about)
        return _neighbours(subject, layout, beside, title)
    sheet = KINDS[kind](sampling.load(subject.run), layout)
    return figures.FIGURES[kind](sheet.images, sheet.facts, title=title, about=subject.about)


def _neighbours(subject: Subject, layout: Layout, training: Training, title: str) -> Figure:
    rows = layout.rows or sheets.ROWS
    samples = sampling.load(subject.run).sample(rows * layout.columns)[0]
    samples = samples.reshape(rows, layout.columns, *samples.shape[1:])
    points, targets = quantised(samples[:, -1]).reshape(rows, -1), training.pixels.reshape(len(training.pixels), -1)
    places, distances = nearest_with_places(points, targets)
    nearest = unit(training.pixels[places.numpy()])
    return figures.neighbours(samples, nearest, distances.numpy(), title=title, about=subject.about)
