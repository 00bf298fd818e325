"""The frame of all records."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pandas as pd
import pytest

from harness.analysis.frame import combinations, describe, frame, metric_keys, varying_axes
from harness.errors import InputError
from harness.runs import GridFolder, write_json

GRID_KEY = "parzen[test,n=10000,sigma=grid]"
REFINED_KEY = "parzen[test,n=10000,sigma=refined]"
LOSSES = ("non_saturating", "minimax")
LEARNING_RATES = (0.1, 0.05, 0.2)
MODELS = ("mlp", "maxout-mlp")


def test_every_run_is_a_row_with_its_axes_seed_and_status(grid: GridFolder) -> None:
    runs = frame([grid])
    assert list(runs["id"]) == [entry["id"] for entry in grid.manifest["runs"]]
    assert list(runs.columns.get_level_values(0)[:6]) == ["grid", "id", "loss", "optimizer.lr", "model", "seed"]
    assert runs["status"].value_counts().to_dict() == {
        "complete": 32,
        "diverged": 1,
        "failed": 1,
        "pending": 1,
        "running": 1,
    }


def test_a_metric_is_a_group_of_columns(grid: GridFolder) -> None:
    runs = frame([grid])
    first = runs[GRID_KEY].iloc[0]
    assert first["value"] == pytest.approx(16.8)
    assert first["standard_error"] == pytest.approx(0.668)
    assert first["test_images"] == 360
    assert metric_keys(runs) == [GRID_KEY, REFINED_KEY]


def test_axis_values_keep_the_order_of_the_grid(grid: GridFolder) -> None:
    runs = frame([grid])
    assert tuple(runs["loss"].cat.categories) == LOSSES
    assert tuple(runs["optimizer.lr"].cat.categories) == LEARNING_RATES
    assert [label for label, _ in combinations(runs, ["model"])] == [(model,) for model in MODELS]


def test_what_is_not_measured_is_nan(grid: GridFolder) -> None:
    runs = frame([grid])
    assert runs.loc[runs["status"] != "complete", (GRID_KEY, "standard_error")].isna().sum() == 3
    assert runs[GRID_KEY, "value"].isna().sum() == 5
    diverged = runs[runs["status"] == "diverged"].iloc[0]
    assert diverged["diverged_at"].item() == 30
    assert diverged[GRID_KEY, "value"] == 30.0


def test_several_grids_stand_in_one_frame(make_grid: Callable[..., GridFolder]) -> None:
    runs = frame([make_grid(name="b", seeds=(0,)), make_grid(name="a", seeds=(0,))])
    assert varying_axes(runs) == ["grid", "loss", "optimizer.lr", "model"]
    assert tuple(runs["grid"].cat.categories) == ("b", "a")


def test_an_axis_of_lists_is_shown_as_json(grid: GridFolder) -> None:
    manifest = grid.manifest | {"axes": ["hidden"]}
    manifest["runs"] = [{**run, "axes": {"hidden": [run["seed"], 8]}} for run in manifest["runs"]]
    write_json(grid.path / "grid.json", manifest)
    assert set(frame([GridFolder(grid.path)])["hidden"]) == {"[0, 8]", "[1, 8]", "[2, 8]"}


def test_axes_that_share_their_last_name_are_described_in_full() -> None:
    assert describe(["loss", "k"], ("minimax", 2)) == ["minimax", "k=2"]
    both = describe(["generator.optimizer.lr", "discriminator.optimizer.lr"], (0.1, 0.2))
    assert describe(["optimizer.betas.0", "k"], (0.5, 2)) == ["betas.0=0.5", "k=2"]
    assert both == ["generator.optimizer.lr=0.1", "discriminator.optimizer.lr=0.2"]


def test_a_frame_from_elsewhere_is_refused() -> None:
    with pytest.raises(InputError, match="harness.analysis.frame"):
        varying_axes(pd.DataFrame({"loss": ["minimax"]}))


def test_a_damaged_record_is_named(grid: GridFolder) -> None:
    path = grid.runs()[0].path / "evaluation.json"
    path.write_text("{")
    with pytest.raises(InputError, match="evaluation.json"):
        frame([grid])


def test_tables_need_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys, harness.analysis.tables, harness.analysis.status\n"
        "assert not {'torch', 'matplotlib', 'scipy'} & set(sys.modules), 'slow imports'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_table_of_a_hundred_runs_takes_little_time(make_grid: Callable[..., GridFolder]) -> None:
    grid = make_grid(seeds=tuple(range(9)))
    code = (
        "import sys, pathlib, harness.analysis.tables as t, harness.runs as r\n"
        "print(t.render(t.table(r.GridFolder(pathlib.Path(sys.argv[1]))), 'text'))"
    )
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code, str(grid.path)], check=True, capture_output=True)
    assert time.monotonic() - began < 6  # 0.4 s on a quiet machine
