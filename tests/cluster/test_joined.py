"""One status of what a folder and SLURM say."""

from __future__ import annotations

from typing import Any

import pytest

from harness.cluster.joined import told
from harness.cluster.slurm import Job
from harness.cluster.submissions import Task

TASK = Task("12_3", submitted=100.0)
IN_JOB: dict[str, Any] = {"slurm_job": "15", "updated": 200.0}
WITHOUT: dict[str, Any] = {"slurm_job": None, "updated": 200.0}
BEFORE: dict[str, Any] = {"slurm_job": None, "updated": 50.0}
CASES: list[tuple[str, str | None, dict[str, Any] | None, str]] = [
    ("complete", "RUNNING", IN_JOB, "complete"),
    ("diverged", None, IN_JOB, "diverged"),
    ("pending", "PENDING", None, "pending"),
    ("preempted", "PENDING", IN_JOB, "preempted"),
    ("running", "REQUEUED", IN_JOB, "preempted"),  # its node died, and it said nothing more
    ("failed", "PENDING", IN_JOB, "pending"),
    ("pending", "RUNNING", None, "running"),
    ("preempted", "RUNNING", IN_JOB, "running"),
    ("failed", "COMPLETING", IN_JOB, "failed"),
    ("failed", "FAILED", IN_JOB, "failed"),
    ("running", "NODE_FAIL", IN_JOB, "lost"),
    ("running", None, IN_JOB, "lost"),
    ("preempted", "CANCELLED", IN_JOB, "lost"),
    ("pending", "CANCELLED", None, "lost"),
    ("running", "CANCELLED", WITHOUT, "running"),  # by hand, after that
    ("preempted", "CANCELLED", BEFORE, "lost"),
]


@pytest.mark.parametrize(("folder", "state", "progress", "expected"), CASES)
def test_a_status_is_what_the_folder_and_slurm_say_together(
    folder: str, state: str | None, progress: dict[str, Any] | None, expected: str
) -> None:
    assert told(folder, TASK, Job(state, "Priority"), progress).status == expected
