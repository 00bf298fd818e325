"""Trackers of Accelerate get each run's history."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Harness = Callable[..., CompletedProcess[str]]


def test_tensorboard_shows_every_run(harness: Harness, small_grid: Path, tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    arguments = ["run", small_grid, "--out", tmp_path, "--set", "axes.k=[1,2]", "--tracker", "tensorboard"]
    assert harness(*arguments).returncode == 0
    seen = {
        (value.tag, event.step)
        for path in tmp_path.rglob("*tfevents*")
        for event in reading.LegacyEventFileLoader(str(path)).Load()
        for value in event.summary.value
    }
    runs = json.loads((tmp_path / "small" / "grid.json").read_text())["runs"]
    assert len(runs) == 8
    assert {(f"{run['id']}/generator_loss", 30) for run in runs} <= seen
