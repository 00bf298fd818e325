"""From a grid to what will be trained: names looked up, defaults written out, data hashed, runs put into stacks."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import images
from harness.errors import HarnessError, InputError
from harness.experiment import Experiment
from harness.grid import Grid
from harness.images import ImageSet
from harness.methods import method

StackSize = Callable[[Experiment], int]


@dataclass(frozen=True)
class PlannedRun:
    """A resolved experiment and its place in the grid."""

    experiment: Experiment
    axes: dict[str, Any]
    image_shape: tuple[int, int, int]
    """(c, h, w) of its data."""

    @property
    def id(self) -> str:
        return self.experiment.run_id


@dataclass(frozen=True)
class Stack:
    """Runs that train together, in order."""

    members: tuple[PlannedRun, ...]

    @property
    def experiment(self) -> Experiment:
        """The first member's experiment, for all that the members share."""
        return self.members[0].experiment

    @cached_property
    def id(self) -> str:
        """A hash of the members' ids."""
        return hashlib.sha256(" ".join(run.id for run in self.members).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """A grid's runs in order, and the data sets they use, by the name the grid gives them; found in `folders`."""

    grid: Grid
    runs: tuple[PlannedRun, ...]
    data: dict[str, ImageSet]
    folders: tuple[Path, ...]

    @property
    def pieces(self) -> int:
        """Into how many a process cuts its part of each minibatch."""
        return self.grid.file.run.gradient_accumulation

    def divides_by(self, processes: int) -> bool:
        """Whether so many processes can divide every minibatch among them, and cut their parts into pieces."""
        return all(run.experiment.batch_size % (processes * self.pieces) == 0 for run in self.runs)

    def check_divides_by(self, processes: int, *, named: str = "processes") -> None:
        """Refuse minibatches that so many processes cannot divide; `named` says which those are.

        Errors: InputError.
        """
        for size in sorted({run.experiment.batch_size for run in self.runs}):
            if size % (processes * self.pieces):
                pieces = "" if self.pieces == 1 else f" times {self.pieces} pieces (gradient_accumulation)"
                raise InputError(
                    f"{self.grid.path}: batch_size = {size} does not divide by the {processes} {named}{pieces}; change "
                    "one of them."
                )


def data_folders(data: Path | None, *, beside: Path | None = None) -> list[Path]:
    """Where data sets are looked for: `data` (--data), else HARNESS_DATA, else ~/.cache/harness; and beside a file."""
    named = data or Path(os.environ.get("HARNESS_DATA") or Path.home() / ".cache" / "harness")
    return [named] if beside is None else [named, beside]


def plan_beside_file(grid: Grid, data: Path | None) -> Plan:
    """As `plan`, with the grid file's folder put on sys.path: data sets and a user's modules may lie there too.

    `data` as in `data_folders`. Errors: as `plan`.
    """
    beside = grid.path.absolute().parent
    sys.path.insert(0, str(beside))
    return plan(grid, data_folders(data, beside=beside))


def plan(grid: Grid, folders: Sequence[Path]) -> Plan:
    """The grid's runs with every name looked up and every default written out.

    Errors: InputError or UnknownName naming the grid file; DataMissing.
    """
    data: dict[str, ImageSet] = {}
    planned: list[PlannedRun] = []
    seen: dict[str, dict[str, Any]] = {}
    for point in grid.points:
        name = point.experiment.dataset
        try:
            if name not in data:
                data[name] = images.load(name, folders)
            run = PlannedRun(resolved(point.experiment, data[name]), point.axes, data[name].shape)
            if grid.file.run.gradient_accumulation > 1:
                method(run.experiment.method).check_pieces(run.experiment, run.image_shape)
        except HarnessError as error:
            if str(grid.path) not in str(error):
                error.args = (f"{grid.path}: {error}",)
            raise
        place = {**point.axes, "seed": run.experiment.seed}
        if run.id in seen:
            raise InputError(f"{grid.path}: {place} and {seen[run.id]} are the same experiment; drop one.")
        seen[run.id] = place
        planned.append(run)
    made = Plan(grid, tuple(planned), data, tuple(folders))
    made.check_divides_by(1, named="process")
    return made


def resolved(experiment: Experiment, data: ImageSet) -> Experiment:
    """The experiment with its data's hash, and all that its method fills in, written in.

    Errors: InputError or UnknownName that names the key.
    """
    kind = method(experiment.method)
    if experiment.batch_size > len(data.train):
        raise InputError(f"batch_size = {experiment.batch_size} is more than the {len(data.train)} training images.")
    experiment = kind.resolved(experiment, data).model_copy(update={"data_hash": data.content_hash})
    kind.check(experiment, data.shape)
    return experiment


def stacks(runs: Sequence[PlannedRun], size: int | StackSize) -> list[Stack]:
    """Runs of one shape, in order, in as few stacks of at most `size` members as will do, as equal as can be."""
    shapes: dict[str, list[PlannedRun]] = {}
    for run in runs:
        kind = method(run.experiment.method)
        shapes.setdefault(kind.shape(run.experiment, run.image_shape) or run.id, []).append(run)
    found = []
    for members in shapes.values():
        largest = size if isinstance(size, int) else size(members[0].experiment)
        count = -(-len(members) // largest)
        bounds = [part * len(members) // count for part in range(count + 1)]
        found += [Stack(tuple(members[start:stop])) for start, stop in itertools.pairwise(bounds)]
    return found
