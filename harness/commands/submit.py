"""`harness submit`: a grid's unfinished stacks as jobs of SLURM."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from harness import manifest, runs, winners
from harness.claims import Claimant
from harness.cluster import joined, sbatch, slurm, submissions
from harness.cluster.joined import LOST, Told
from harness.cluster.sbatch import Collecting, Resources, Training
from harness.cluster.submissions import ArrayJob
from harness.errors import InputError, SlurmError, UnknownName, storage_error
from harness.evaluation import Request
from harness.grid import Grid, find_grid_file, load_grid, shipped_grids
from harness.placement import placement
from harness.plan import Plan, Stack, StackSize, data_folders, plan_beside_file
from harness.runs import GridFolder

AGAIN = ("pending", "preempted", "failed", LOST)
_USUAL_LARGEST_INDEX = 1000  # where no cluster can be asked
_LOG = "%A_%a.log"


@dataclass(frozen=True)
class Wanted:
    """The jobs that are asked for, but for the stacks."""

    resources: Resources
    training: Training
    collecting: Collecting | None
    parallel: int | None


def submit(
    name: str,
    *,
    out: Path,
    data: Path | None,
    overrides: tuple[str, ...],
    only: str | None,
    dry_run: bool,
    prologue: Path | None,
    harness: str | None,
    collect: bool,
    array_parallel: int | None,
    **resources: Any,
) -> str:
    """Submit what of a grid has not ended and is not in the queue; what to say of it.

    Errors: InputError for a grid, an option or a folder that will not do; SlurmError.
    """
    chosen = _statuses(only)
    loaded = load_grid(name, overrides=overrides)
    folder = GridFolder(out.absolute() / loaded.name)
    wanted = _wanted(
        loaded,
        _named(name),
        Resources(prologue=_text(prologue), **resources),
        folder=folder,
        data=data_folders(data)[0].absolute(),
        overrides=overrides,
        harness=_command(harness),
        collect=collect,
        parallel=array_parallel,
    )
    Request.of(loaded.evaluation)  # an unknown metric is refused now, not behind the array
    planned = plan_beside_file(loaded, data)
    shape = f"({wanted.resources.nodes} nodes of {wanted.resources.processes_per_node})"
    planned.check_divides_by(wanted.resources.total_processes, named=f"processes of a run {shape}")
    size = placement(
        "auto",
        stack_size=loaded.file.run.stack_size,
        device=wanted.resources.device,
        processes=wanted.resources.total_processes,
        divides=True,
    ).stack_size
    if dry_run:
        return _foreseen(folder, planned, size, wanted, chosen)
    largest = slurm.largest_index()  # the first question to SLURM, before anything is written
    try:
        with manifest.lock(folder, Claimant(loaded.file.run.lapse_seconds)):
            stacks = manifest.reconcile(folder, winners.grown(planned, winners.settle(folder, planned)), size)
            numbers, rest = _unfinished(stacks, _told(folder), chosen)
            said = _submit(folder, wanted, numbers, largest) if numbers else ["nothing to submit."]
    except OSError as error:
        raise storage_error(error, error.filename or folder.path, another="--out") from error
    return "\n".join([*said, *rest])


def _statuses(only: str | None) -> set[str]:
    chosen = [word.strip() for word in only.split(",")] if only is not None else AGAIN
    for word in chosen:
        if word not in AGAIN:
            raise UnknownName("status", word, AGAIN, "--only")
    return set(chosen)


def _named(name: str) -> str:
    """The grid as a job names it, which may run elsewhere: a shipped one by its name, a file by its whole path."""
    return name if not Path(name).is_file() and name in shipped_grids() else str(find_grid_file(name).absolute())


def _text(prologue: Path | None) -> str:
    if prologue is None:
        return ""
    try:
        return prologue.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--prologue {prologue} cannot be read as text: {error}.") from None


def _command(text: str | None) -> list[str]:
    """What starts the harness in a job."""
    try:
        return shlex.split(text or "") or [sys.executable, "-m", "harness"]
    except ValueError as error:
        raise InputError(f"--command {text!r} is not a command: {error}.") from None


def _wanted(
    grid: Grid,
    name: str,
    resources: Resources,
    *,
    folder: GridFolder,
    data: Path,
    overrides: Sequence[str],
    harness: Sequence[str],
    collect: bool,
    parallel: int | None,
) -> Wanted:
    command = tuple(harness)
    settings = [word for override in overrides for word in ("--set", override)]
    arguments = ("--out", str(folder.path.parent), "--data", str(data), *settings)
    logs = submissions.place(folder)
    training = Training(grid.name, name, arguments, command, log=str(logs / _LOG))
    collecting = Collecting(grid.name, str(folder.path), ("--data", str(data)), command, log=str(logs / "%j.log"))
    return Wanted(resources, training, collecting if collect else None, parallel)


def _told(folder: GridFolder) -> dict[str, Told]:
    """What is known of each run that a folder holds, with what SLURM says of its jobs.

    Errors: SlurmError where there are submissions, but squeue does not answer.
    """
    if not (folder.path / "grid.json").exists():
        return {}
    tasks = submissions.tasks(folder).values()
    jobs, _ = slurm.jobs(task.id for task in tasks)
    known = GridFolder(folder.path)  # read anew, since its manifest may have grown
    folders = known.statuses()
    return dict(zip(folders, joined.statuses(known, list(folders.values()), jobs), strict=True))


def _unfinished(stacks: Sequence[Stack], told: Mapping[str, Told], chosen: set[str]) -> tuple[list[int], list[str]]:
    """The numbers of the stacks with a run of a chosen status and no job in the queue; and what is left out."""
    numbers: list[int] = []
    left_out: Counter[str] = Counter()
    for number, stack in enumerate(stacks):
        of_members = [told.get(run.id, Told("pending")) for run in stack.members]
        is_queued = any(one.job is not None and (one.job.waits or one.job.is_at_work) for one in of_members)
        if not is_queued and any(one.status in chosen for one in of_members):
            numbers.append(number)
        else:
            left_out[of_members[0].status + (", with a job" if is_queued else "")] += 1
    return numbers, [f"left out: {count} stacks {what}." for what, count in left_out.items()]


def _arrays(wanted: Wanted, numbers: Sequence[int], largest: int) -> Iterator[tuple[int, list[int], str]]:
    """Arrays over stacks, whose indices the cluster allows: what task 0 would train, the stacks, and the script."""
    for chunk, members in groupby(numbers, key=lambda number: number // (largest + 1)):
        first, stacks = chunk * (largest + 1), list(members)
        text = sbatch.array_script(
            wanted.training, wanted.resources, stacks=stacks, first=first, parallel=wanted.parallel
        )
        yield first, stacks, text


def _behind_array(wanted: Wanted, jobs: Sequence[str]) -> list[str]:
    """So many tasks at a time hold over all arrays: each waits for the one before it."""
    return [f"--dependency=afterany:{jobs[-1]}"] if jobs and wanted.parallel else []


def _behind_all(jobs: Sequence[str]) -> str:
    """Behind these jobs however they end, and never beside another job of the same name."""
    return f"--dependency={':'.join(['afterany', *jobs])},singleton"


def _submit(folder: GridFolder, wanted: Wanted, numbers: Sequence[int], largest: int) -> list[str]:
    """Submit arrays over the stacks, and the job behind them; what was accepted is recorded at once."""
    before = submissions.read(folder)
    place = submissions.place(folder)
    stem = f"{len(before) + 1:04d}"
    jobs: list[ArrayJob] = []
    said: list[str] = []

    def accepted(script: str, text: str, *options: str) -> str:
        runs.write_bytes(place / script, text.encode(), inside=folder.path)
        try:
            return slurm.submit(place / script, *options)
        except SlurmError as error:
            so_far = f" Before it job {', '.join(job.id for job in jobs)} was accepted and recorded." if jobs else ""
            raise SlurmError(f"{error} The script is {place / script}.{so_far}") from None

    for first, stacks, text in _arrays(wanted, numbers, largest):
        script = f"{stem}-array-{len(jobs)}.sbatch"
        job = accepted(script, text, *_behind_array(wanted, [one.id for one in jobs]))
        jobs.append(ArrayJob(job, script, first, tuple(stacks)))
        submissions.write(folder, before, name=wanted.training.grid, jobs=jobs, collect=None)
        said.append(f"job {job}: {len(stacks)} stacks, as tasks {sbatch.ranges(one - first for one in stacks)}.")
    if wanted.collecting is not None:
        text = sbatch.collect_script(wanted.collecting, wanted.resources)
        collect = accepted(f"{stem}-collect.sbatch", text, _behind_all([one.id for one in jobs]))
        submissions.write(folder, before, name=wanted.training.grid, jobs=jobs, collect=collect)
        said.append(f"job {collect}: evaluates, tabulates and plots when they have ended.")
    return [*said, f"`harness status {shlex.quote(str(folder.path))}` follows them; their logs are in {place}."]


def _foreseen(folder: GridFolder, planned: Plan, size: StackSize, wanted: Wanted, chosen: set[str]) -> str:
    """Every script and command of a submission, and nothing done."""
    notes: list[str] = []
    stacks = manifest.foreseen(folder, winners.grown(planned, winners.choose(folder, planned)), size)
    try:
        largest = slurm.largest_index()
        told = _told(folder)
    except SlurmError as error:
        largest, told = _USUAL_LARGEST_INDEX, {}
        if (folder.path / "grid.json").exists():
            told = {run_id: Told(status) for run_id, status in folder.statuses().items()}
        notes.append(f"# {error} What waits in its queue is not left out here.")
    numbers, rest = _unfinished(stacks, told, chosen)
    place = submissions.place(folder)
    jobs: list[str] = []
    parts: list[str] = []
    for _, _, text in _arrays(wanted, numbers, largest):
        path = place / f"NNNN-array-{len(jobs)}.sbatch"
        command = ["sbatch", "--parsable", *_behind_array(wanted, jobs), str(path)]
        parts.append(f"# {shlex.join(command)}\n{text}")
        jobs.append(f"JOB{len(jobs)}")
    if wanted.collecting is not None and jobs:
        command = ["sbatch", "--parsable", _behind_all(jobs), str(place / "NNNN-collect.sbatch")]
        parts.append(f"# {shlex.join(command)}\n{sbatch.collect_script(wanted.collecting, wanted.resources)}")
    notes += [f"# {line}" for line in rest] + ([] if parts else ["# nothing to submit."])
    return "\n".join([*notes, *parts]).rstrip("\n")
