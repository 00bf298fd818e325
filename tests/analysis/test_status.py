"""How far each run is."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from harness.analysis.formats import FORMATS
from harness.analysis.status import render_status, status_frame
from harness.runs import GridFolder

# places in the grid's order
PENDING, RUNNING, DIVERGED, FAILED = 6, 7, 31, 32


def test_a_running_run_has_a_speed_and_a_time_left(grid: GridFolder) -> None:
    row = status_frame([grid]).iloc[RUNNING]
    assert (row["status"], row["iteration"], row["total_iterations"]) == ("running", 20, 60)
    assert row["seconds_left"] == pytest.approx((60 - 20) / 20.0)


def test_a_pending_run_has_a_length_alone(grid: GridFolder) -> None:
    row = status_frame([grid]).iloc[PENDING]
    assert (row["status"], row["total_iterations"]) == ("pending", 60)
    assert row[["iteration", "iterations_per_second", "seconds_left", "reason"]].isna().all()


def test_an_ended_run_has_its_own_speed_and_no_time_left(grid: GridFolder) -> None:
    status = status_frame([grid])
    assert status["iterations_per_second"].iloc[0] == 60 / 1.5
    assert pd.isna(status["seconds_left"].iloc[0])
    assert status.iloc[DIVERGED]["iteration"] == 30


def test_a_failed_run_shows_the_first_line_of_its_reason(grid: GridFolder) -> None:
    row = status_frame([grid]).iloc[FAILED]
    assert (row["status"], row["reason"]) == ("failed", "out of memory")
    shown = render_status(status_frame([grid]), "text")
    assert "out of memory" in shown
    assert "Traceback" not in shown


def test_counts_follow_the_order_of_the_statuses(grid: GridFolder) -> None:
    counts = status_frame([grid]).attrs["counts"]
    assert list(counts.items()) == [("pending", 1), ("running", 1), ("complete", 32), ("diverged", 1), ("failed", 1)]
    assert "36 runs: 1 pending, 1 running, 32 complete" in render_status(status_frame([grid]), "text")


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_names_every_run(grid: GridFolder, format: str) -> None:
    shown = render_status(status_frame([grid]), format)
    assert all(run.id in shown for run in grid.runs())


def test_json_keeps_numbers_as_numbers(grid: GridFolder) -> None:
    rows = json.loads(render_status(status_frame([grid]), "json"))
    assert (rows[0]["iteration"], rows[0]["optimizer.lr"], rows[0]["reason"]) == (60, 0.1, None)
