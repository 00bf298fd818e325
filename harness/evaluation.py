"""Samples against a data set: numbers under keys that name all that decides them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from harness import images, runs, sampling
from harness.draws import Draws
from harness.errors import InputError, UnknownName
from harness.images import ImageSet, unit
from harness.images.arrays import DAMAGED, as_images
from harness.metrics import parzen as parzen_window
from harness.runs import GridFolder, RunFolder
from harness.sampling import Finished
from harness.training.processes import Processes

Images = NDArray[np.float32]
Records = dict[str, dict[str, Any]]
Record = dict[str, Any]
T = TypeVar("T")
Result = TypeVar("Result")

TRAINING_IMAGES = "training-images"


def parzen(samples: Images, data: ImageSet, processes: Processes) -> list[Records]:
    """The Parzen-window log-likelihood of the test images in nats, at the grid's sigma and at the refined one."""
    results = parzen_window.parzen_of_members(
        points(samples.reshape(-1, *data.shape), data).reshape(*samples.shape[:2], -1),
        points(split_images(data, "validation", parzen_window.VALIDATION_POINTS), data),
        points(split_images(data, "test"), data),
        device=processes.device,
        processes=parzen_window.Processes(processes.rank, processes.count, processes.total),
    )
    return [_parzen_records(result) for result in results]


def _parzen_records(result: parzen_window.Parzen) -> Records:
    counts = {name: getattr(result, name) for name in ("centres", "validation", "test", "dimension")}
    return {
        f"parzen[test,n={result.centres},sigma={name}]": asdict(getattr(result, name)) | counts
        for name in ("grid", "refined")
    }


Metric = Callable[[Images, ImageSet, Processes], list[Records]]
"""Takes members' samples (m, n, c, h, w); gives each member's records."""

METRICS: dict[str, Metric] = {"parzen": parzen}


@dataclass(frozen=True)
class Request:
    """Which metrics, on how many samples."""

    metrics: tuple[str, ...]
    samples: int

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in METRICS:
                raise UnknownName("metric", name, METRICS)

    @property
    def asked(self) -> list[str | int]:
        """The request as a record keeps it."""
        return [*self.metrics, self.samples]


def evaluate(samples: Images, data: ImageSet, metrics: Sequence[str], processes: Processes) -> Record:
    """The evaluation record of samples (n, c, h, w), as `evaluate_members` gives it for one member."""
    [record] = evaluate_members(samples[None], data, metrics, processes)
    return record


def evaluate_members(samples: Images, data: ImageSet, metrics: Sequence[str], processes: Processes) -> list[Record]:
    """The evaluation record of each member's samples (m, n, c, h, w), float32 in [0, 1].

    A record holds `metrics` by key, and what they stand on. A metric that cannot be computed has a null value and its
    reason; the others go on.
    """
    members, n = samples.shape[:2]
    found: list[Records] = [{} for _ in range(members)]
    for name in metrics:
        for records, own in zip(found, _computed(name, samples, data, processes), strict=True):
            records |= own
    return [
        {
            "metrics": records,
            "samples": {"count": n},
            "dataset": {"name": data.name, "hash": data.content_hash, "jpeg": data.jpeg},
        }
        for records in found
    ]


def _computed(name: str, samples: Images, data: ImageSet, processes: Processes) -> list[Records]:
    """A metric's records, a member each; where the members together are refused, each is tried alone."""
    try:
        return METRICS[name](samples, data, processes)
    except InputError as error:
        if len(samples) > 1:
            return [_computed(name, member[None], data, processes)[0] for member in samples]
        return [{f"{name}[test,n={samples.shape[1]}]": {"value": None, "standard_error": None, "reason": str(error)}}]


def evaluate_runs(
    runs: Sequence[RunFolder], sets: Mapping[str, ImageSet], request: Request, processes: Processes
) -> Iterator[tuple[RunFolder, Record | InputError]]:
    """Evaluate finished runs' last snapshots and write each run's evaluation.json; what is up to date is read instead.

    `sets`: data sets by content hash. Gives each run with its record, or with what stood in its way, as soon as it is
    known; runs of one shape are sampled together. All processes must ask for the same runs in the same order.
    """
    # The main process decides for all, since it alone writes the files that the others would look at.
    known = processes.from_main([_known(run, request) for run in runs] if processes.is_main else None)
    pending = []
    for run, record in zip(runs, known, strict=True):
        if record is None:
            pending.append(run)
        else:
            yield run, record
    finished = []
    for run, found in zip(pending, _each(partial(_finished, sets=sets), pending, processes), strict=True):
        if isinstance(found, InputError):
            yield run, found
        else:
            finished.append(found)
    for group in sampling.groups(finished, request.samples, processes.device):
        yield from _evaluate_together(group, sets, request, processes)


def _known(run: RunFolder, request: Request) -> Record | InputError | None:
    """The run's record if it is what the request asks for; None if it is to be computed."""
    try:
        record = run.evaluation()
    except InputError as error:
        return error
    return record if record is not None and record["samples"].get("requested") == request.asked else None


def _finished(run: RunFolder, sets: Mapping[str, ImageSet]) -> Finished:
    finished = sampling.find(run)
    if finished.experiment.data_hash not in sets:
        names = ", ".join(data.name for data in sets.values())
        raise InputError(f"{run.path} was trained on other data than this {names}: the content hashes differ.")
    return finished


def _evaluate_together(
    group: Sequence[Finished], sets: Mapping[str, ImageSet], request: Request, processes: Processes
) -> Iterator[tuple[RunFolder, Record | InputError]]:
    """Evaluate the runs of a group from one sampler; one whose snapshot is damaged is left out."""
    read = list(zip(group, _each(Finished.tensors, group, processes), strict=True))
    yield from ((member.folder, tensors) for member, tensors in read if isinstance(tensors, InputError))
    sound = [(member, tensors) for member, tensors in read if not isinstance(tensors, InputError)]
    if not sound:
        return
    try:
        sampler = sampling.together(*zip(*sound, strict=True))
        samples = sampler.sample(request.samples)
    except InputError as error:  # of all alike, since they share what shapes a sampler
        yield from ((member.folder, error) for member, _ in sound)
        return
    data = sets[str(group[0].experiment.data_hash)]
    records = evaluate_members(samples, data, request.metrics, processes)
    for member, record in zip(sampler.members, records, strict=True):
        record["samples"] |= {
            "requested": request.asked,
            "iteration": member.iteration,
            "source": sampler.source,
            "batch_norm": "running moments",
            "packed": len(sampler.members),
        }
        if processes.is_main:
            member.folder.write("evaluation.json", record)
        yield member.folder, record


def _each(action: Callable[[T], Result], items: Sequence[T], processes: Processes) -> list[Result | InputError]:
    """What an action gives for each item, or its InputError.

    What fails on one process fails on all, so that they go on with the same items.
    """
    if not items:
        return []
    outcomes: list[Result | InputError] = []
    for item in items:
        try:
            outcomes.append(action(item))
        except InputError as error:
            outcomes.append(error)
    failed = [float(isinstance(outcome, InputError)) for outcome in outcomes]
    counts = processes.total(torch.tensor(failed, device=processes.device)).tolist()
    elsewhere = InputError("a process of this job cannot read it; see that all machines have the same files.")
    return [
        elsewhere if count and not isinstance(outcome, InputError) else outcome
        for outcome, count in zip(outcomes, counts, strict=True)
    ]


def evaluate_controls(grid: GridFolder, sets: Sequence[ImageSet], request: Request, processes: Processes) -> None:
    """Evaluate random training images of each data set as if they were samples, and write controls.json."""
    known = processes.from_main(_known_controls(grid) if processes.is_main else {})
    controls: dict[str, Any] = {}
    for data in sets:
        name = TRAINING_IMAGES if len(sets) == 1 else f"{TRAINING_IMAGES} {data.name}"
        if known.get(name, {}).get("samples", {}).get("requested") == request.asked:
            controls[name] = known[name]
            continue
        controls[name] = evaluate(training_images(data, request.samples), data, request.metrics, processes)
        controls[name]["samples"]["requested"] = request.asked
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
