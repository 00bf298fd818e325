"""A grid folder as training and evaluation leave it: 36 runs, 12 combinations, every status."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.runs import GridFolder, write_json, write_npz, write_parquet

GRID_KEY = "parzen[test,n=10000,sigma=grid]"
REFINED_KEY = "parzen[test,n=10000,sigma=refined]"
LOSSES = ("non_saturating", "minimax")
LEARNING_RATES = (0.1, 0.05, 0.2)
MODELS = ("mlp", "maxout-mlp")
SEEDS = (2, 0, 1)

# (loss, lr, model, seed) of the runs that do not count
DIVERGED = ("minimax", 0.2, "mlp", 0)
FAILED = ("minimax", 0.2, "mlp", 1)
PENDING = ("non_saturating", 0.05, "mlp", 2)
RUNNING = ("non_saturating", 0.05, "mlp", 0)
UNEVALUATED = ("non_saturating", 0.2, "maxout-mlp", 1)
WITHOUT_VALUE = ("non_saturating", 0.2, "maxout-mlp", 0)
AT_EDGE = ("minimax", 0.1, "maxout-mlp", 2)

Point = tuple[str, float, str, int]


def value_of(point: Point) -> float:
    """The metric that a run of the fixture grid has."""
    loss, lr, model, seed = point
    return 10.0 * LOSSES.index(loss) + 100.0 * lr + 3.0 * MODELS.index(model) + 1.7 * seed**2


def history_of(point: Point, *, iterations: int) -> pd.DataFrame:
    """Curves that differ by run and end near the game's equilibrium."""
    rng = np.random.default_rng([LOSSES.index(point[0]), round(100 * point[1]), MODELS.index(point[2]), point[3]])
    t = np.linspace(0, 1, iterations)
    noise = rng.normal(size=(3, iterations)) * 0.06
    gap = 0.45 * np.exp(-4 * t) + 0.08 * point[3] + 0.05 * MODELS.index(point[2])
    real = np.clip(0.5 + gap + noise[0], 0.01, 0.99)
    fake = np.clip(0.5 - gap + noise[1], 0.01, 0.99)
    generator = -np.log(fake) if point[0] == "non_saturating" else np.log(1 - fake)
    return pd.DataFrame(
        {
            "iteration": np.arange(1, iterations + 1),
            "discriminator_loss": -np.log(real) - np.log(1 - fake),
            "generator_loss": generator,
            "d_real": real,
            "d_fake": fake,
        }
    )


def samples_of(point: Point) -> np.ndarray:
    """100 grey 8 x 8 blobs whose place depends on the run."""
    rng = np.random.default_rng([point[3], round(100 * point[1]), len(point[0]), len(point[2])])
    centres = rng.uniform(2, 5, (100, 2, 1, 1))
    y, x = np.mgrid[0:8, 0:8]
    return np.exp(-((x - centres[:, 0]) ** 2 + (y - centres[:, 1]) ** 2) / 3)[:, None].astype(np.float32)


def metric(value: float | None, *, at_edge: bool = False) -> dict[str, Any]:
    """One record of an evaluation."""
    if value is None:
        return {"value": None, "standard_error": None, "reason": "samples hold NaN"}
    return {
        "value": value,
        "standard_error": 0.5 + value / 100,
        "sigma": 0.1 + value / 1000,
        "sigma_at_edge": at_edge,
        "test_images": 360,
    }


@pytest.fixture
def make_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., GridFolder]:
    """Writes the grid of this file; `seeds` and `iterations` set its size."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # 200 files a grid that no crash need survive

    def make(*, name: str = "demo", seeds: tuple[int, ...] = SEEDS, iterations: int = 60) -> GridFolder:
        grid = GridFolder(tmp_path / name)
        points = list(itertools.product(LOSSES, LEARNING_RATES, MODELS, seeds))
        ids = {point: f"{number:016x}" for number, point in enumerate(points)}
        stacks = [{"id": f"s{number}", "members": [ids[point]]} for number, point in enumerate(points)]
        runs = [
            {"id": ids[loss, lr, model, seed], "axes": {"loss": loss, "optimizer.lr": lr, "model": model}, "seed": seed}
            for loss, lr, model, seed in points
        ]
        axes = ["loss", "optimizer.lr", "model"]
        write_json(grid.path / "grid.json", {"schema": 1, "name": name, "axes": axes, "runs": runs, "stacks": stacks})
        write_json(
            grid.path / "controls.json",
            {"training-images": {"metrics": {GRID_KEY: metric(57.25), REFINED_KEY: metric(58.5)}}},
        )
        for stack, point in zip(stacks, points, strict=True):
            write_run(grid, stack["id"], ids[point], point, iterations=iterations)
        return grid

    return make


@pytest.fixture
def grid(make_grid: Callable[..., GridFolder]) -> GridFolder:
    return make_grid()


def write_run(grid: GridFolder, stack: str, run_id: str, point: Point, *, iterations: int) -> None:
    """One run's files, as far as its status has them."""
    run = grid.run(run_id)
    run.write("experiment.json", {"loss": point[0], "model": point[2], "seed": point[3], "iterations": iterations})
    progress = {
        "state": "done",
        "iteration": iterations,
        "iterations": iterations,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "updated": time.time(),
        "iterations_per_second": 20.0,
    }
    if point == PENDING:
        return
    if point == RUNNING:
        write_json(grid.stack(stack) / "progress.json", {**progress, "state": "running", "iteration": 20})
        return
    write_json(grid.stack(stack) / "progress.json", progress)
    if point == FAILED:
        run.write("failure.json", {"reason": "out of memory\nat step 3", "traceback": "Traceback ..."})
        return
    diverged = 30 if point == DIVERGED else None
    outcome = "complete" if diverged is None else "diverged"
    run.write(
        "provenance.json",
        {"outcome": outcome, "diverged_at": diverged, "iterations": diverged or iterations, "seconds": 1.5},
    )
    write_parquet(run.path / "history.parquet", history_of(point, iterations=diverged or iterations))
    write_npz(run.path / "samples.npz", images=samples_of(point))
    if point == UNEVALUATED:
        return
    value = None if point == WITHOUT_VALUE else value_of(point)
    run.write(
        "evaluation.json",
        {
            "metrics": {
                GRID_KEY: metric(value, at_edge=point == AT_EDGE),
                REFINED_KEY: metric(value if value is None else value + 1),
            }
        },
    )
