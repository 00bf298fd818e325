"""What is asked of SLURM, by its own commands: lists of arguments, never a shell."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError, SlurmError

_PATIENCE_SECONDS = 60
WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"}
AT_WORK = {"RUNNING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"}


@dataclass(frozen=True)
class Job:
    """What SLURM says of a job: its state in SLURM's word, None where it knows it no longer; and why it waits."""

    state: str | None
    reason: str | None = None

    @property
    def waits(self) -> bool:
        return self.state in WAITING

    @property
    def is_at_work(self) -> bool:
        return self.state in AT_WORK


def submit(script: Path, *options: str) -> str:
    """Submit a script; the job's id.

    Errors: SlurmError where sbatch is absent or refuses, with its own words.
    """
    answer = _ask(["sbatch", "--parsable", *options, str(script)])
    return answer.strip().partition(";")[0]  # behind it a cluster's name, where there are several


def largest_index() -> int:
    """The largest number that a task of an array may have on this cluster.

    Errors: SlurmError where scontrol is absent or fails; InputError where the cluster allows no arrays.
    """
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask(["scontrol", "show", "config"]), re.MULTILINE)
    size = int(found[1]) if found else 1001  # SLURM's own default
    if size < 2:
        raise InputError("this cluster allows no job arrays (MaxArraySize); ask its administrators for them.")
    return size - 1


def jobs(ids: Iterable[str]) -> tuple[dict[str, Job], str]:
    """What squeue says of jobs and of arrays' tasks (`12_3`), all that it still knows, by id.

    For those it no longer lists, how they ended, from sacct. And a note where sacct cannot say, else nothing.
    Errors: SlurmError where squeue is absent or fails.
    """
    wanted = sorted(set(ids))
    arrays = sorted({one.partition("_")[0] for one in wanted})
    if not arrays:
        return {}, ""
    try:
        lines = _ask(
            ["squeue", "--array", "--noheader", "--states=all", f"--jobs={','.join(arrays)}", "--format=%i|%T|%r"]
        )
    except SlurmError as error:
        if "Invalid job id" not in str(error):
            raise
        lines = ""  # so says squeue of a single job that it no longer knows
    listed = {one: Job(state, reason) for one, state, reason in _rows(lines, 3)}
    found = {one: listed[one] for one in wanted if one in listed}
    gone = [one for one in wanted if one not in found]
    ended, note = _ended(gone) if gone else ({}, "")
    return found | {one: Job(ended.get(one)) for one in gone}, note


def _ended(ids: Sequence[str]) -> tuple[dict[str, str], str]:
    """How jobs that squeue no longer lists ended, from SLURM's accounting where there is one, else a note."""
    try:
        lines = _ask(
            ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(ids)}", "--format=JobID,State"]
        )
    except SlurmError as error:
        return {}, f"how jobs ended that squeue no longer lists is not known: {error}"
    # "CANCELLED by 1000" is CANCELLED; whatever accounting believes to run does not, since squeue would list it.
    states = {one: state.split()[0] for one, state in _rows(lines, 2) if state}
    return {one: state for one, state in states.items() if state not in WAITING | AT_WORK}, ""


def _rows(lines: str, columns: int) -> list[list[str]]:
    rows = [line.strip().split("|") for line in lines.splitlines()]
    return [row for row in rows if len(row) == columns]


def _ask(command: Sequence[str]) -> str:
    name = command[0]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False)
    except FileNotFoundError:
        raise SlurmError(f"{name} is not on PATH: this machine has no SLURM, or its module is not loaded.") from None
    except OSError as error:
        raise SlurmError(f"{name} cannot be started: {error.strerror}.") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{name} gave no answer in {_PATIENCE_SECONDS} s.") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise SlurmError(f"{name} failed: {said}.")
    return done.stdout
