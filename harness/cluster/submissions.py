"""What was submitted of a grid, as its folder keeps it.

    <out>/<grid>/slurm/submissions.json   {"schema", "submissions": [{"time", "grid", "jobs", "collect"}]}
                       NNNN-*.sbatch      the scripts as they were submitted
                       *.log              what the jobs say

A job is {"id", "script", "first", "stacks"}: task t of the array trains stack first + t of grid.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import runs
from harness.errors import InputError
from harness.runs import GridFolder


@dataclass(frozen=True)
class ArrayJob:
    """An array as it was submitted."""

    id: str
    script: str
    first: int
    stacks: tuple[int, ...]

    def task(self, number: int) -> str:
        """SLURM's id of the task that trains a stack."""
        return f"{self.id}_{number - self.first}"


@dataclass(frozen=True)
class Task:
    """A task of an array that trains one stack: SLURM's id of it (`12_3`), and when it was submitted (seconds, UTC)."""

    id: str
    submitted: float


def place(grid: GridFolder) -> Path:
    """Where the scripts, logs and the record of a grid's submissions lie."""
    return grid.path / "slurm"


def read(grid: GridFolder) -> list[dict[str, Any]]:
    """The submissions of a grid, oldest first.

    Errors: InputError where the record is damaged or of another harness.
    """
    path = place(grid) / "submissions.json"
    if not path.exists():
        return []
    record = runs.read_json(path)
    if not isinstance(record, dict) or record.get("schema") != runs.SCHEMA or "submissions" not in record:
        raise InputError(f"{path} is no record of submissions of this harness; restore it or move it away.")
    return list(record["submissions"])


def write(
    grid: GridFolder, before: Sequence[Mapping[str, Any]], *, name: str, jobs: Sequence[ArrayJob], collect: str | None
) -> None:
    """Record a submission behind those before it; again, with more jobs, as more of it is accepted."""
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "grid": name,
        "jobs": [{"id": job.id, "script": job.script, "first": job.first, "stacks": list(job.stacks)} for job in jobs],
        "collect": collect,
    }
    record = {"schema": runs.SCHEMA, "submissions": [*before, entry]}
    runs.write_json(place(grid) / "submissions.json", record, inside=grid.path)


def tasks(grid: GridFolder) -> dict[int, Task]:
    """The task that trains each submitted stack, by the stack's number; of several the newest."""
    newest: dict[int, Task] = {}
    for submission in read(grid):
        submitted = datetime.fromisoformat(submission["time"]).timestamp()
        for entry in submission["jobs"]:
            job = ArrayJob(entry["id"], entry["script"], entry["first"], tuple(entry["stacks"]))
            newest |= {number: Task(job.task(number), submitted) for number in job.stacks}
    return newest
