"""A run that diverges ends as diverged, with the step, and takes nobody along."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pandas as pd
import pytest

Harness = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def half_diverged(harness: Harness, small_grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stack of two sane runs and two whose learning rate is absurd, evaluated."""
    out = tmp_path_factory.mktemp("diverged")
    settings = ['optimizer={name = "SGD", lr = 0.01}', "axes.optimizer.lr=[0.01, 1e30]", 'axes.loss=["minimax"]']
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    result = harness("run", small_grid, "--out", out, *arguments)
    assert result.returncode == 0, result.stderr
    assert harness("evaluate", out / "small").returncode == 0
    return out / "small"


def rows_of(harness: Harness, verb: str, folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(harness(verb, folder, "--format", "json").stdout)
    return rows


def test_the_status_tells_the_step(command: Harness, half_diverged: Path) -> None:
    for row in rows_of(command, "status", half_diverged):
        provenance = json.loads((half_diverged / "runs" / row["id"] / "provenance.json").read_text())
        sane = row["optimizer.lr"] == 0.01
        assert row["status"] == provenance["outcome"] == ("complete" if sane else "diverged")
        assert row["iteration"] == (30 if sane else provenance["diverged_at"])
        assert sane or 1 <= provenance["diverged_at"] <= 30


def test_the_history_of_a_diverged_run_stops_there(command: Harness, half_diverged: Path) -> None:
    for row in rows_of(command, "status", half_diverged):
        history = pd.read_parquet(half_diverged / "runs" / row["id"] / "history.parquet")
        assert list(history["iteration"]) == list(range(1, row["iteration"] + 1))
        assert history.iloc[:-1].notna().all().all()


def test_a_diverged_run_has_neither_samples_nor_metrics(command: Harness, half_diverged: Path) -> None:
    for row in rows_of(command, "status", half_diverged):
        run = half_diverged / "runs" / row["id"]
        assert [(run / name).exists() for name in ("samples.npz", "evaluation.json")] == [
            row["status"] == "complete"
        ] * 2


def test_the_table_counts_failures(command: Harness, half_diverged: Path) -> None:
    rows = [row for row in rows_of(command, "table", half_diverged) if row["optimizer.lr"] is not None]
    assert {(row["optimizer.lr"], row["all_runs"], row["failures"], row["mean"] is None) for row in rows} == {
        (0.01, 2, 0, False),
        (1e30, 2, 2, True),
    }


def test_its_neighbours_train_as_without_it(
    harness: Harness, half_diverged: Path, small_grid: Path, tmp_path: Path
) -> None:
    settings = ['optimizer={name = "SGD", lr = 0.01}', "axes.optimizer.lr=[0.01, 0.02]", 'axes.loss=["minimax"]']
    arguments = [argument for setting in settings for argument in ("--set", setting)]
    assert harness("run", small_grid, "--out", tmp_path, *arguments).returncode == 0
    shared = [path for path in half_diverged.glob("runs/*/snapshots/*")]
    assert len(shared) == 2
    for path in shared:
        assert path.read_bytes() == (tmp_path / "small" / path.relative_to(half_diverged)).read_bytes()
