"""Rows that stand beside models in every table: other images in the place of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from harness import foreign, runs
from harness.errors import HarnessError
from harness.evaluation.measures import asked
from harness.evaluation.records import Record, evaluate, joined, lacking
from harness.evaluation.references import References
from harness.evaluation.request import Request
from harness.experiment import Experiment, validate
from harness.images import ImageSet
from harness.runs import GridFolder
from harness.training.processes import Processes


def evaluate_companions(
    grid: GridFolder, sets: Sequence[References], request: Request, processes: Processes, *, names: Sequence[str]
) -> None:
    """Evaluate what stands in the place of samples ("training-images", ...) of each data set into controls.json.

    What is up to date there stays, other names included. Where the grid trains the control of that name on as many
    images, its runs have the row, and the entry here has no metrics: "trained" says why.
    """
    known, trained = processes.from_main((_known(grid), _trained_controls(grid)) if processes.is_main else None)
    controls: dict[str, Any] = dict(known)
    for references in sets:
        data = references.data
        for companion in names:
            name = companion if len(sets) == 1 else f"{companion} {data.name}"
            before = known.get(name)
            if before is not None and before.get("samples", {}).get("requested") != request.samples:
                before = None
            if is_trained(companion, trained, data, request.samples):
                controls[name] = _left_out(references, request.samples)
            elif wanted := lacking(before, asked(request.metrics, request.samples, references)):
                samples = foreign.companion(companion, data, request.samples)
                controls[name] = joined(before, evaluate(samples, references, wanted))
                source = foreign.described(companion, data, request.samples)
                controls[name]["samples"] |= {"requested": request.samples, "source": source}
    if processes.is_main and controls != known:
        runs.write_json(grid.path / "controls.json", controls, inside=grid.path)


def is_trained(companion: str, trained: Sequence[Experiment], data: ImageSet, n: int) -> bool:
    """Whether one of the trained controls stands for as many images.

    n: how many samples the companion would take the place of.
    """
    return any(
        control.method == companion and control.data_hash == data.content_hash and AS_MANY[companion](control, data, n)
        for control in trained
    )


def _all_training_images(control: Experiment, data: ImageSet, n: int) -> bool:
    """Whether a Gaussian has seen every training image, as the companion has."""
    return control.iterations * control.batch_size >= len(data.train)


def _as_many_training_images(control: Experiment, data: ImageSet, n: int) -> bool:
    """Whether a control holds as many training images as the companion shows."""
    held: int = min(_setting(control, "images", 0), control.iterations * control.batch_size, len(data.train))
    return held >= min(n, len(data.train))


def _as_many_centroids(control: Experiment, data: ImageSet, n: int) -> bool:
    """Whether a control has as many centroids as the companion, each as often as any other."""
    evenly = not _setting(control, "weighted", True)
    return evenly and bool(_setting(control, "clusters", 0) == foreign.centroids_of(data, n))


def _setting(control: Experiment, key: str, absent: Any) -> Any:
    """A setting, which resolution has written out; `absent` where a damaged record lacks it."""
    return control.baseline.own.get(key, absent) if control.baseline else absent


AS_MANY: dict[str, Callable[[Experiment, ImageSet, int], bool]] = {
    foreign.TRAINING_IMAGES: _as_many_training_images,
    foreign.K_MEANS: _as_many_centroids,
    foreign.GAUSSIAN: _all_training_images,
}
"""By the companion's name: whether a trained control on the same data stands for as many images as n samples do."""


def _left_out(references: References, n: int) -> Record:
    """The entry of a companion whose control the grid trains."""
    data = references.data
    dataset = {"name": data.name, "hash": data.content_hash}
    return {"metrics": {}, "asked": {}, "samples": {"requested": n}, "dataset": dataset, "trained": True}


def _trained_controls(grid: GridFolder) -> list[Experiment]:
    """The experiments of the controls that a grid has trained."""
    controls = []
    for run_id, status in grid.statuses().items():
        if status == "complete":
            run = grid.run(run_id)
            with suppress(HarnessError):  # of one that cannot be read the evaluation of runs tells
                controls.append(validate(Experiment, run.experiment(), where=str(run.path)))
    return [control for control in controls if control.method in AS_MANY]


def _known(grid: GridFolder) -> dict[str, Any]:
    path = grid.path / "controls.json"
    return runs.read_record(path) if path.exists() else {}
