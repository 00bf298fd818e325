"""Finished runs to evaluation records in their folders."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from harness import images, sampling
from harness.analysis.paper import methods
from harness.errors import InputError, StorageError, storage_error
from harness.evaluation.measures import METRICS, asked, metric
from harness.evaluation.records import Record, evaluate_members, joined, lacking, lacking_on_validation
from harness.evaluation.references import References
from harness.evaluation.request import Request
from harness.images import ImageSet
from harness.runs import GridFolder, RunFolder, write_json
from harness.sampling import Finished, Sampler
from harness.training.processes import Processes
from harness.training.tally import Tally

Outcome = tuple[RunFolder, Record | InputError]
T = TypeVar("T")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Chosen:
    """A run's snapshot that is evaluated, and how it was chosen."""

    finished: Finished
    selection: dict[str, Any]


def evaluate_runs(
    runs: Sequence[RunFolder], sets: Mapping[str, References], request: Request, processes: Processes
) -> Iterator[Outcome]:
    """Evaluate finished runs and write each run's evaluation.json; of what is up to date nothing is computed again.

    `sets`: references by the content hash of their data. Gives each run with its record, or with what stood in its way,
    as soon as it is known; runs of one shape are sampled together. All processes must ask for the same runs in the same
    order. They share the first group, which fills the references, and then each takes groups of its own.
    """
    if any(metric(name).of_features for name in (*request.metrics, *request.validation, request.chooser)):
        for references in sets.values():
            references.search.agree()
    # The main process decides for all, since it alone writes the files that the others would look at.
    known = processes.from_main([_known(run, sets, request) for run in runs] if processes.is_main else None)
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
    groups = sampling.groups(finished, request.samples, processes.device)
    shared = groups if processes.count == 1 else groups[:1]
    for group in shared:
        yield from _evaluate_together(group, sets, request, processes)
    if processes.count > 1:
        yield from _each_its_own(groups[len(shared) :], sets, request, processes)


def _each_its_own(
    groups: Sequence[list[Finished]], sets: Mapping[str, References], request: Request, processes: Processes
) -> Iterator[Outcome]:
    """Evaluate groups, each on the process that takes it; in the end all hear of all."""
    alone = Processes(processes.precision, alone=True)
    own_sets = {content: references.alone(alone) for content, references in sets.items()}
    tally = Tally.of(processes)
    done: list[tuple[Path, Record | str]] = []
    while (number := tally.add("taken", 1)) <= len(groups):
        for run, outcome in _evaluate_together(groups[number - 1], own_sets, request, alone):
            done.append((run.path, str(outcome) if isinstance(outcome, InputError) else outcome))
            yield run, outcome
    for rank, theirs in enumerate(processes.gather_objects(done)):
        if rank != processes.rank:
            yield from (
                (RunFolder(path), InputError(found) if isinstance(found, str) else found) for path, found in theirs
            )


def _known(run: RunFolder, sets: Mapping[str, References], request: Request) -> Record | InputError | None:
    """The run's record if it holds all that is asked for, of the snapshot that is asked for; else None."""
    try:
        record = run.evaluation()
    except (InputError, StorageError) as error:
        return InputError(str(error))
    references = None if record is None else sets.get(record.get("dataset", {}).get("hash"))
    if record is None or references is None:
        return None
    if not _of_these_samples(run, record, request, references) or any(_lacking(record, request, references)):
        return None
    return record


def _lacking(
    record: Record | None, request: Request, references: References
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The metrics that a record does not hold as they are asked for: of the reference, and of validation images."""
    words = asked(request.metrics, request.samples, references)
    on_validation = asked(request.validation, request.samples, references.validation)
    return lacking(record, words), lacking_on_validation(record, on_validation)


def _of_these_samples(run: RunFolder, record: Record, request: Request, references: References) -> bool:
    """Whether a record's samples are those that are asked for: of the snapshot that the rule picks, unchanged."""
    stated = record.get("samples", {})
    if stated.get("selection") != request.selection(references) or stated.get("count") != request.samples:
        return False
    iterations = list(sampling.iterations(run))
    if request.select == "last":
        is_current = iterations[-1:] == [stated.get("iteration")]
    else:
        is_current = iterations == [point["iteration"] for point in record["selection"]["curve"]]
    path = run.snapshots / Path(stated.get("snapshot", "")).name
    return is_current and path.is_file() and bool(_sha256(path) == stated["snapshot_sha256"])


def _finished(run: RunFolder, sets: Mapping[str, References]) -> Finished:
    finished = sampling.find(run)
    if finished.experiment.data_hash not in sets:
        names = ", ".join(references.data.name for references in sets.values())
        raise InputError(f"{run.path} was trained on other data than this {names}: the content hashes differ.")
    return finished


def _evaluate_together(
    group: Sequence[Finished], sets: Mapping[str, References], request: Request, processes: Processes
) -> Iterator[Outcome]:
    """Evaluate the runs of a group from one sampler; one whose snapshot is damaged is left out."""
    references = sets[str(group[0].experiment.data_hash)]
    folders = [member.folder for member in group]
    records = processes.from_main([_kept(run, request, references) for run in folders] if processes.is_main else None)
    kept: dict[RunFolder, Record | None] = dict(zip(folders, records, strict=True))
    chosen: list[Chosen] = []
    for member, found in zip(group, _choose(group, kept, references, request, processes), strict=True):
        if isinstance(found, InputError):
            yield member.folder, found
        else:
            chosen.append(found)
    wanted = [_lacking(kept[one.finished.folder], request, references) for one in chosen]
    metrics, validation = (
        tuple(name for name in dict.fromkeys(names) if any(name in lacks[place] for lacks in wanted))
        for place, names in enumerate((request.metrics, request.validation))
    )
    selections = {one.finished.folder: one.selection for one in chosen}
    snapshots = [one.finished for one in chosen]
    measured = _sampled(snapshots, references, request.samples, metrics, processes, validation=validation)
    for sampler, member, record in measured:
        if isinstance(record, InputError) or sampler is None:
            yield member.folder, record
            continue
        record = joined(kept[member.folder], record)
        record["selection"] = selections[member.folder]
        record["samples"] |= {
            "selection": request.selection(references),
            "iteration": member.iteration,
            "snapshot": member.snapshot.name,
            "snapshot_sha256": _sha256(member.snapshot),
            "source": sampler.source,
            "method": member.experiment.method,
            "shows": methods()[member.experiment.method]["shows"],
            "packed": len(sampler.members),
        }
        if processes.is_main:
            try:
                write_json(member.folder.path / "evaluation.json", record, inside=member.folder.path)
            except OSError as error:
                raise storage_error(error, member.folder.path) from error
        yield member.folder, record


def _kept(run: RunFolder, request: Request, references: References) -> Record | None:
    """A run's record, to which metrics may be added, if it is of the samples that are asked for."""
    record = run.evaluation()
    return record if record is not None and _of_these_samples(run, record, request, references) else None


def _choose(
    group: Sequence[Finished],
    kept: Mapping[RunFolder, Record | None],
    references: References,
    request: Request,
    processes: Processes,
) -> list[Chosen | InputError]:
    """Each run's snapshot under the request's rule; the one that its kept record names, where it has one."""
    if request.select == "last":
        return [Chosen(member, {"rule": "last", "iteration": member.iteration}) for member in group]
    found = _best_of([member for member in group if kept[member.folder] is None], references, request, processes)
    for run, record in kept.items():
        if record is not None:
            selection = record["selection"]
            found[run] = Chosen(sampling.find(run, iteration=selection["iteration"]), selection)
    return [found[member.folder] for member in group]


def _best_of(
    group: Sequence[Finished], references: References, request: Request, processes: Processes
) -> dict[RunFolder, Chosen | InputError]:
    """Each run's best snapshot on validation, all of its snapshots scored."""
    curves: dict[RunFolder, list[tuple[Finished, str, dict[str, Any]]]] = {member.folder: [] for member in group}
    refused: dict[RunFolder, InputError] = {}
    for iteration in sorted({iteration for member in group for iteration in sampling.iterations(member.folder)}):
        present = [member.folder for member in group if iteration in sampling.iterations(member.folder)]
        snapshots = [sampling.find(run, iteration=iteration) for run in present]
        validated = _sampled(snapshots, references.validation, request.samples, (request.chooser,), processes)
        for _, member, record in validated:
            if isinstance(record, InputError):
                refused[member.folder] = record
            else:
                key, measured = next(iter(record["metrics"].items()))
                curves[member.folder].append((member, key, measured))
    return {run: refused.get(run) or _best(run, curve, request) for run, curve in curves.items()}


def _best(run: RunFolder, curve: list[tuple[Finished, str, dict[str, Any]]], request: Request) -> Chosen | InputError:
    """The snapshot of the best value on validation; the first of equals."""
    usable = [point for point in curve if point[2]["value"] is not None]
    if not usable:
        return InputError(f"{run.path}: {request.chooser} has no value on validation: {curve[0][2].get('reason')}")
    sign = -1 if METRICS[request.chooser].better == "higher" else 1
    best, key, _ = min(usable, key=lambda point: sign * point[2]["value"])
    fields = ("value", "standard_error")
    points = [{"iteration": one.iteration, **{name: found[name] for name in fields}} for one, _, found in curve]
    return Chosen(best, {"rule": "best-validation", "metric": key, "iteration": best.iteration, "curve": points})


def _sampled(
    members: Sequence[Finished],
    references: References,
    n: int,
    metrics: tuple[str, ...],
    processes: Processes,
    *,
    validation: tuple[str, ...] = (),
) -> Iterator[tuple[Sampler | None, Finished, Record | InputError]]:
    """The record of n samples of each snapshot, all from one sampler; or what stood in its way, without one."""
    read = list(zip(members, _each(Finished.tensors, members, processes), strict=True))
    yield from ((None, member, tensors) for member, tensors in read if isinstance(tensors, InputError))
    sound = [(member, tensors) for member, tensors in read if not isinstance(tensors, InputError)]
    if not sound:
        return
    try:
        sampler = sampling.together(*zip(*sound, strict=True))
        samples, labels = sampler.sample(n), sampler.labels(n)
    except InputError as error:  # of all alike, since they share what shapes a sampler
        yield from ((None, member, error) for member, _ in sound)
        return
    records = evaluate_members(samples, references, metrics, labels=labels, models=sampler, validation=validation)
    for member, record in zip(sampler.members, records, strict=True):
        yield sampler, member, record


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
        except (InputError, StorageError) as error:
            outcomes.append(InputError(str(error)))
    failed = [float(isinstance(outcome, InputError)) for outcome in outcomes]
    counts = processes.total(torch.tensor(failed, device=processes.device)).tolist()
    elsewhere = InputError("a process of this job cannot read it; see that all machines have the same files.")
    return [
        elsewhere if count and not isinstance(outcome, InputError) else outcome
        for outcome, count in zip(outcomes, counts, strict=True)
    ]


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


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
