"""Grids that nobody trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.analysis.frame import frame
from harness.analysis.status import status_frame
from harness.benchmarks.synthetic import FEATURES, PARZEN, write_grid
from harness.runs import STATUSES, GridFolder


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GridFolder:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    write_grid(GridFolder(tmp_path), 200)
    return GridFolder(tmp_path)


def test_a_synthetic_grid_has_runs_of_every_status_but_preempted(grid: GridFolder) -> None:
    counts = {"pending": 2, "running": 2, "complete": 192, "diverged": 2, "failed": 2}
    assert status_frame([grid]).attrs["counts"] == counts
    assert set(STATUSES) - counts.keys() == {"preempted"}


def test_a_synthetic_grid_has_every_metric_of_its_evaluated_runs(grid: GridFolder) -> None:
    runs = frame([grid])
    assert {key: int(runs[key, "value"].notna().sum()) for key in (*PARZEN, *FEATURES)} == dict.fromkeys(
        (*PARZEN, *FEATURES), 190
    )


def test_a_synthetic_grid_is_found_by_every_reader_of_its_folder(grid: GridFolder) -> None:
    assert grid.statuses() == dict(status_frame([grid])[["id", "status"]].itertuples(index=False))
