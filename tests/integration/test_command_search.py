"""A random search, its evaluation, and the same command again: the best draws train with seeds of their own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Harness = Callable[..., CompletedProcess[str]]
SEARCH = """
[search]
draws = 3
digits = 6
then_best = {n = 1, seeds = 2, metric = "fid"}
[search.space]
"optimizer.lr" = {distribution = "log-uniform", low = 1e-5, high = 1e-2}
"""


@pytest.fixture(scope="module")
def search_grid(small_grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small grid with three draws of the learning rate for each loss."""
    path = tmp_path_factory.mktemp("grids") / "searched.toml"
    path.write_text(small_grid.read_text().replace("seeds = [0, 1]", "seeds = [0]") + SEARCH)
    return path


@pytest.fixture(scope="module")
def first_run(harness: Harness, search_grid: Path, tmp_path_factory: pytest.TempPathFactory) -> CompletedProcess[str]:
    """What the first call said."""
    return harness("run", search_grid, "--out", tmp_path_factory.mktemp("searched"))


@pytest.fixture(scope="module")
def measured(harness: Harness, first_run: CompletedProcess[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the search, evaluated; not to be changed."""
    assert first_run.returncode == 0, first_run.stderr
    folder = Path(first_run.stdout.strip())
    evaluated = shutil.copytree(folder, tmp_path_factory.mktemp("measured") / "small")
    result = harness("evaluate", evaluated, "--metrics", "precision")
    assert result.returncode == 0, result.stderr
    return evaluated


@pytest.fixture(scope="module")
def finished(harness: Harness, search_grid: Path, measured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the best have trained and are evaluated; not to be changed."""
    folder = shutil.copytree(measured, tmp_path_factory.mktemp("finished") / "small")
    result = harness("run", search_grid, "--out", folder.parent)
    assert result.returncode == 0, result.stderr
    assert "[6/10] skipped" in result.stderr and "[10/10] complete" in result.stderr
    assert harness("evaluate", folder, "--metrics", "precision").returncode == 0
    return folder


def entries(folder: Path, stage: str) -> list[dict[str, Any]]:
    manifest = json.loads((folder / "grid.json").read_text())
    return [entry for entry in manifest["runs"] if entry["axes"]["stage"] == stage]


def score(folder: Path, run_id: str) -> float:
    record = json.loads((folder / "runs" / run_id / "evaluation.json").read_text())
    return float(record["metrics"][record["validation"]["fid"]["key"]]["value"])


def test_the_first_call_says_what_comes_next(first_run: CompletedProcess[str]) -> None:
    folder = first_run.stdout.strip()
    assert "6 draws of the search lack fid on validation images" in first_run.stderr
    assert f"`harness evaluate {folder}` measures it, then the same command again trains the best" in first_run.stderr


def test_before_evaluation_the_same_command_changes_nothing(
    command: Harness, search_grid: Path, first_run: CompletedProcess[str]
) -> None:
    folder = Path(first_run.stdout.strip())
    before = (folder / "grid.json").read_bytes()
    result = command("run", search_grid, "--out", folder.parent)
    assert result.returncode == 0 and "6 draws of the search lack fid" in result.stderr
    assert (folder / "grid.json").read_bytes() == before and not (folder / "search.json").exists()


def test_the_best_on_validation_images_train_under_seeds_of_their_own(finished: Path, measured: Path) -> None:
    best = entries(finished, "best")
    assert len(best) == 4 and {entry["seed"] for entry in best} == {1, 2}
    for loss in ("minimax", "non_saturating"):
        draws = [entry for entry in entries(finished, "search") if entry["axes"]["loss"] == loss]
        lowest = min(draws, key=lambda entry: score(measured, entry["id"]))
        chosen = [entry["axes"] for entry in best if entry["axes"]["loss"] == loss]
        assert chosen == [lowest["axes"] | {"stage": "best"}] * 2


def test_old_stacks_stay_and_a_third_call_does_nothing(
    command: Harness, search_grid: Path, measured: Path, finished: Path
) -> None:
    old, new = (json.loads((folder / "grid.json").read_text())["stacks"] for folder in (measured, finished))
    assert new[: len(old)] == old and len(new) > len(old)
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    result = command("run", search_grid, "--out", finished.parent)
    assert result.returncode == 0 and "complete" not in result.stderr and "search" not in result.stderr
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    changed = {path for path in after if after[path] != before.get(path) and path.parent.name != "claims"}
    assert changed <= {finished / "grid.json"}


def planned(command: Harness, search_grid: Path, folder: Path) -> list[str]:
    result = command("run", search_grid, "--out", folder.parent, "--dry-run", "--format", "json")
    assert result.returncode == 0, result.stderr
    return [row["id"] for row in json.loads(result.stdout)]


def test_a_dry_run_names_the_best_and_writes_nothing(
    command: Harness, search_grid: Path, measured: Path, finished: Path
) -> None:
    expected = [entry["id"] for entry in entries(finished, "search") + entries(finished, "best")]
    assert planned(command, search_grid, measured) == expected
    assert not (measured / "search.json").exists()


def test_a_call_that_ended_behind_the_choice_goes_on_with_it(
    command: Harness, search_grid: Path, measured: Path, finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(measured, tmp_path / "small")
    shutil.copy(finished / "search.json", folder)
    for path in folder.glob("runs/*/evaluation.json"):
        record = json.loads(path.read_text())
        record["metrics"][record["validation"]["fid"]["key"]]["value"] *= -1  # the last would be first
        path.write_text(json.dumps(record))
    assert planned(command, search_grid, folder) == planned(command, search_grid, finished)
    (folder / "search.json").unlink()
    assert planned(command, search_grid, folder) != planned(command, search_grid, finished)


def test_the_table_has_one_row_for_the_draws_and_one_for_the_best(command: Harness, finished: Path) -> None:
    rows = json.loads(command("table", finished, "--metric", "precision", "--format", "json").stdout)
    runs = [row for row in rows if row["control"] is None]
    assert [(row["loss"], row["stage"], row["runs"], row["optimizer.lr"] is None) for row in runs] == [
        (loss, stage, count, stage == "search")
        for loss in ("minimax", "non_saturating")
        for stage, count in (("search", 3), ("best", 2))
    ]
    each = json.loads(command("table", finished, "--metric", "precision", "--draws", "--format", "json").stdout)
    assert len([row for row in each if row["control"] is None]) == 8


def test_text_says_what_the_rows_are(command: Harness, finished: Path) -> None:
    text = " ".join(command("table", finished).stdout.split())
    assert "fid validation" in text.partition("precision:")[0]
    assert "the draws of a search are one row, mean and error over them" in text
    assert "the best are chosen by validation images and have seeds of their own" in text


def test_the_figures_have_a_panel_for_the_draws(command: Harness, finished: Path, tmp_path: Path) -> None:
    result = command("plot", finished, "-o", tmp_path)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in tmp_path.glob("*.png")} == {"curves.png", "samples.png", "metric.png"}
