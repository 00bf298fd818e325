"""Samples against a data set: numbers under keys that name all that decides them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import images, runs, sampling
from harness.draws import Draws
from harness.errors import InputError, UnknownName
from harness.images import ImageSet, unit
from harness.images.arrays import DAMAGED, as_images
from harness.metrics import parzen as parzen_window
from harness.runs import GridFolder, RunFolder
from harness.training.processes import Processes

Images = NDArray[np.float32]
Records = dict[str, dict[str, Any]]

TRAINING_IMAGES = "training-images"


def parzen(samples: Images, data: ImageSet, processes: Processes) -> Records:
    """The Parzen-window log-likelihood of the test images in nats, at the grid's sigma and at the refined one."""
    share = parzen_window.Processes(processes.rank, processes.count, processes.total)
    result = parzen_window.parzen(
        points(samples, data),
        points(split_images(data, "validation", parzen_window.VALIDATION_POINTS), data),
        points(split_images(data, "test"), data),
        device=processes.device,
        processes=share,
    )
    counts = {name: getattr(result, name) for name in ("centres", "validation", "test", "dimension")}
    return {
        f"parzen[test,n={result.centres},sigma={name}]": asdict(getattr(result, name)) | counts
        for name in ("grid", "refined")
    }


METRICS: dict[str, Callable[[Images, ImageSet, Processes], Records]] = {"parzen": parzen}


@dataclass(frozen=True)
class Request:
    """Which metrics, on how many samples."""

    metrics: tuple[str, ...]
    samples: int

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in METRICS:
                raise UnknownName("metric", name, METRICS)


def evaluate(samples: Images, data: ImageSet, metrics: Sequence[str], processes: Processes) -> dict[str, Any]:
    """The evaluation record of samples (n, c, h, w), float32 in [0, 1]: `metrics` by key, and what they stand on.

    A metric that cannot be computed has a null value and its reason; the others go on.
    """
    found: Records = {}
    for name in metrics:
        try:
            found |= METRICS[name](samples, data, processes)
        except InputError as error:
            found[f"{name}[test,n={len(samples)}]"] = {"value": None, "standard_error": None, "reason": str(error)}
    return {
        "metrics": found,
        "samples": {"count": len(samples)},
        "dataset": {"name": data.name, "hash": data.content_hash, "jpeg": data.jpeg},
    }


def evaluate_run(run: RunFolder, data: ImageSet, request: Request, processes: Processes) -> dict[str, Any]:
    """Evaluate a finished run's last snapshot and write evaluation.json; what is up to date is read instead."""
    asked = [*request.metrics, request.samples]
    # The main process decides for all, since it alone writes the file that the others would look at.
    known = processes.from_main(run.evaluation() if processes.is_main else None)
    if known is not None and known["samples"].get("requested") == asked:
        return dict(known)
    sampler = sampling.load(run)
    experiment = sampler.experiment
    if experiment.data_hash != data.content_hash:
        raise InputError(f"{run.path} was trained on other data than this {data.name}: the content hashes differ.")
    record = evaluate(sampler.sample(request.samples), data, request.metrics, processes)
    record["samples"] |= {
        "requested": asked,
        "iteration": sampler.iteration,
        "source": sampler.source,
        "batch_norm": "running moments",
    }
    if processes.is_main:
        run.write("evaluation.json", record)
    return record


def evaluate_controls(grid: GridFolder, sets: Sequence[ImageSet], request: Request, processes: Processes) -> None:
    """Evaluate random training images of each data set as if they were samples, and write controls.json."""
    asked = [*request.metrics, request.samples]
    known = processes.from_main(_known_controls(grid) if processes.is_main else {})
    controls: dict[str, Any] = {}
    for data in sets:
        name = TRAINING_IMAGES if len(sets) == 1 else f"{TRAINING_IMAGES} {data.name}"
        if known.get(name, {}).get("samples", {}).get("requested") == asked:
            controls[name] = known[name]
            continue
        controls[name] = evaluate(training_images(data, request.samples), data, request.metrics, processes)
        controls[name]["samples"]["requested"] = asked
    if processes.is_main and controls != known:
        runs.write_json(grid.path / "controls.json", controls)


def _known_controls(grid: GridFolder) -> dict[str, Any]:
    path = grid.path / "controls.json"
    return dict(runs.read_json(path)) if path.exists() else {}


def grid_data(grid: GridFolder, folders: Sequence[Path]) -> dict[str, ImageSet]:
    """The data sets of a grid's runs by content hash, from `folders` or where they were found in training.

    Errors: DataMissing; InputError where the content is no longer what the runs were trained on.
    """
    found = {}
    for content_hash, place in grid.manifest["data"].items():
        data = images.load(place["dataset"], [*folders, *(Path(folder) for folder in place["folders"])])
        if data.content_hash != content_hash:
            raise InputError(f"{place['dataset']} has changed since {grid.path} was trained; restore it.")
        found[content_hash] = data
    return found


def training_images(data: ImageSet, n: int, *, seed: int = 0) -> Images:
    """n random training images, none twice before each was taken once: float32 (n, c, h, w) in [0, 1]."""
    order = Draws([seed]).orders(TRAINING_IMAGES, 0, -(-n // len(data.train)), len(data.train)).flatten()
    return unit(data.train.images[order[:n].numpy()])


def split_images(data: ImageSet, split: str, first: int | None = None) -> Images:
    """The first images of a split, or all: float32 (n, c, h, w) in [0, 1]."""
    chosen = getattr(data, split)
    count = len(chosen) if first is None else min(first, len(chosen))
    return unit(chosen.images[np.arange(count)])


def points(samples: Images, data: ImageSet) -> NDArray[Any]:
    """Images as points (n, d): pixels in [0, 1], or a toy's original units."""
    return samples.reshape(len(samples), -1) if data.affine is None else data.affine.original(samples)


def load_samples(source: str, data: ImageSet, n: int) -> Images:
    """Samples from an .npz (key `images`) or .npy file, or `training-images`: float32 (n, c, h, w) in [0, 1].

    Errors: InputError naming the file, for what is not images of the data set's shape.
    """
    if source == TRAINING_IMAGES:
        return training_images(data, n)
    return read_samples(Path(source), data)[:n]


def read_samples(path: Path, data: ImageSet) -> Images:
    """All samples in a file: float32 (n, c, h, w) in [0, 1], in the data set's shape."""
    if not path.exists():
        raise InputError(f"{path} does not exist; give an .npz or .npy file, or `{TRAINING_IMAGES}`.")
    try:
        with open(path, "rb") as file:  # opened here, because numpy leaves a damaged file open
            content = np.load(file, allow_pickle=False)
            if not isinstance(content, np.ndarray):
                if "images" not in content:
                    raise InputError(f"{path} has no array `images`; it holds: {', '.join(content.files)}.")
                content = content["images"]
    except DAMAGED:
        raise InputError(f"{path} is no .npz or .npy file of plain numbers, or is damaged; write it anew.") from None
    samples: NDArray[Any] = content
    if samples.shape[1:] != data.shape:  # other orders of axes, as the npz source takes them
        samples = as_images(samples, where=str(path))
    if samples.shape[1:] != data.shape:
        raise InputError(f"{path} holds {samples.shape}; images of {data.name} are (n, {str(data.shape)[1:]}.")
    if samples.dtype.kind == "f":
        samples = samples.astype(np.float32)
    if samples.dtype not in (np.uint8, np.float32) or len(samples) == 0:
        raise InputError(f"{path} holds {len(samples)} of {samples.dtype}; give uint8, or floats in [0, 1].")
    values = unit(samples)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise InputError(f"{path} has values from {values.min():g} to {values.max():g}; images lie in [0, 1].")
    return values
