"""What SLURM says of a grid's jobs and what its folders say, as one status for each run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.cluster import slurm, submissions
from harness.cluster.slurm import Job
from harness.cluster.submissions import Task
from harness.errors import SlurmError
from harness.runs import STATUSES, GridFolder

LOST = "lost"
"""A run whose job is gone, though its folder does not say that it has ended: nothing goes on by itself."""
ENDED = ("complete", "diverged")


@dataclass(frozen=True)
class Told:
    """A run's status, and what of its job explains it; the job is None where none was submitted or nobody knows."""

    status: str
    reason: str | None = None
    job: Job | None = None


def told(folder: str, task: Task, job: Job, progress: Mapping[str, Any] | None) -> Told:
    """The status of a run by what its folder says, what SLURM says of its task, and its stack's progress.json."""
    if folder in ENDED:
        return Told(folder, job=job)
    if job.waits:
        begun = progress is not None and folder in ("running", "preempted")
        return Told("preempted" if begun else "pending", f"job {task.id} waits: {job.reason}", job)
    if job.is_at_work:
        return Told("failed" if folder == "failed" else "running", job=job)
    if folder == "failed" or _went_on_without(task, progress):
        return Told(folder, job=job)
    return Told(LOST, f"job {task.id} is gone: {job.state or 'SLURM no longer knows it'}", job)


def _went_on_without(task: Task, progress: Mapping[str, Any] | None) -> bool:
    """Whether a stack was last trained outside of SLURM, and after its task was submitted."""
    return progress is not None and progress.get("slurm_job") is None and progress["updated"] > task.submitted


def statuses(grid: GridFolder, folders: Sequence[str], jobs: Mapping[str, Job]) -> list[Told]:
    """The status of each run of a grid, in order; `folders` is what their folders say, `jobs` what SLURM says."""
    tasks = submissions.tasks(grid)
    by_run = {
        member: tasks[number]
        for number, stack in enumerate(grid.manifest["stacks"])
        if number in tasks
        for member in stack["members"]
    }
    progress = grid.progress()
    return [
        told(folder, by_run[run_id], jobs[by_run[run_id].id], progress.get(run_id))
        if run_id in by_run
        else Told(folder)
        for run_id, folder in zip((run["id"] for run in grid.manifest["runs"]), folders, strict=True)
    ]


def joined(status: pd.DataFrame, grids: Iterable[GridFolder]) -> tuple[pd.DataFrame, list[str]]:
    """A frame of `harness.analysis.status.status_frame` of some grids with what SLURM says of their jobs, and notes.

    The frame itself where nothing of them was submitted, or all has ended; with a note, where SLURM does not answer.
    """
    grids = list(grids)
    tasks = [task for grid in grids for task in submissions.tasks(grid).values()]
    if not tasks or set(status["status"]) <= set(ENDED):
        return status, []
    try:
        jobs, note = slurm.jobs(task.id for task in tasks)
    except SlurmError as error:
        return status, [f"statuses are those of the folders alone: {error}"]
    found: list[Told] = []
    for grid in grids:
        first = len(found)
        found += statuses(grid, list(status["status"][first : first + len(grid.manifest["runs"])]), jobs)
    shown = status.copy()
    shown["status"] = [one.status for one in found]
    shown["reason"] = [one.reason or old for one, old in zip(found, status["reason"], strict=True)]
    counts = shown["status"].value_counts()
    shown.attrs["counts"] = {name: int(counts[name]) for name in (*STATUSES, LOST) if name in counts}
    shown.attrs["unended"] = {"pending", "running", "preempted"}  # the queue starts preempted ones by itself
    return shown, [note] if note else []
