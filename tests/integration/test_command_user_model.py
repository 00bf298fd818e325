"""A user's own model beside the grid file: found, hashed, and isolated when it fails."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest

Harness = Callable[..., CompletedProcess[str]]

MODEL = """\
from pathlib import Path

from torch import nn


class Generator(nn.Module):
    def __init__(self, latent_size, image_shape, hidden=8):
        super().__init__()
        c, h, w = image_shape
        norm = {norm}
        self.layers = nn.Sequential(nn.Linear(latent_size, hidden), norm, nn.ReLU(), nn.Linear(hidden, c * h * w))
        self.image_shape = image_shape

    def forward(self, z):
        return self.layers(z).sigmoid().view(-1, *self.image_shape)


class Discriminator(nn.Module):
    def __init__(self, image_shape):
        super().__init__()
        c, h, w = image_shape
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(c * h * w, 8), nn.ReLU(), nn.Linear(8, 1))
        self.batches = 0

    def forward(self, x):
        self.batches += 1
        if self.batches > 8 and (Path(__file__).parent / "broken").exists():
            raise RuntimeError("the sky falls")
        return self.layers(x)


def build(latent_size, image_shape, generator, discriminator):
    return Generator(latent_size, image_shape, **generator), Discriminator(image_shape, **discriminator)
"""
GRID = """\
name = "own"
[experiment]
dataset = "digits"
iterations = 20
batch_size = 32
latent = {size = 6}
optimizer = {name = "Adam", lr = 1e-3}
[axes]
model = ["own_model:build", "mlp"]
[evaluation]
samples = 100
"""
RUN_FILES = {"experiment.json", "provenance.json", "history.parquet", "samples.npz", "snapshots"}


@pytest.fixture
def own_grid(tmp_path: Path) -> Path:
    """A grid file with a model beside it, of which every pair has batch normalisation and dropout."""
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own_model.py").write_text(MODEL.replace("{norm}", "nn.BatchNorm1d(hidden)"))
    (folder / "own.toml").write_text(GRID)
    return folder / "own.toml"


@pytest.fixture
def plain_grid(own_grid: Path) -> Path:
    """The same without batch normalisation."""
    (own_grid.parent / "own_model.py").write_text(MODEL.replace("{norm}", "nn.Identity()"))
    return own_grid


def run_ids(harness: Harness, grid_file: Path) -> list[str]:
    """The ids of the runs that the grid plans."""
    result = harness("run", grid_file, "--dry-run", "--format", "json")
    assert result.returncode == 0, result.stderr
    return [row["id"] for row in json.loads(result.stdout)]


def test_a_user_model_with_batch_norm_trains_is_evaluated_and_sampled(
    harness: Harness, own_grid: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    grid = tmp_path / "out" / "own"
    path = os.pathsep.join([environment["PYTHONPATH"], str(own_grid.parent)])
    result = harness("run", own_grid, "--out", tmp_path / "out")
    assert result.returncode == 0, (result.stderr, [path.read_text() for path in grid.glob("runs/*/failure.json")])
    assert all({path.name for path in run.iterdir()} == RUN_FILES for run in (grid / "runs").iterdir())
    evaluated = harness("evaluate", grid, PYTHONPATH=path)
    assert evaluated.returncode == 0, evaluated.stderr
    run = json.loads((grid / "grid.json").read_text())["runs"][0]["id"]
    sampled = harness("sample", grid / "runs" / run, "--n", 5, "-o", tmp_path / "five.npz", PYTHONPATH=path)
    assert sampled.returncode == 0, sampled.stderr
    with np.load(tmp_path / "five.npz") as arrays:
        assert arrays["images"].shape == (5, 1, 8, 8)
        five = arrays["images"]
    kind = ["--kind", "interpolation", "--rows", 2, "--columns", 3]
    between = harness("sample", grid / "runs" / run, *kind, "-o", tmp_path / "between.npz", PYTHONPATH=path)
    assert between.returncode == 0, between.stderr
    with np.load(tmp_path / "between.npz") as arrays:
        assert np.array_equal(arrays["images"][[0, 2, 3, 5]], five[:4])


def test_a_user_model_that_is_gone_or_edited_is_not_evaluated(
    harness: Harness, plain_grid: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    assert harness("run", plain_grid, "--out", tmp_path / "out").returncode == 0
    gone = harness("evaluate", tmp_path / "out" / "own")
    assert (gone.returncode, gone.stderr.count("harness: ")) == (1, 1)  # the other run of the grid is fine
    assert "PYTHONPATH" in gone.stderr and "Traceback" not in gone.stderr
    with open(plain_grid.parent / "own_model.py", "a") as source:
        source.write("# edited\n")
    path = os.pathsep.join([environment["PYTHONPATH"], str(plain_grid.parent)])
    edited = harness("evaluate", tmp_path / "out" / "own", PYTHONPATH=path)
    assert (edited.returncode, edited.stderr.count("harness: ")) == (1, 1)
    assert "own_model" in edited.stderr and "changed" in edited.stderr


def test_a_user_model_trains_through_the_launcher(launch: Harness, plain_grid: Path, tmp_path: Path) -> None:
    result = launch(plain_grid, "--out", tmp_path / "out", "--placement", "data-parallel")
    assert result.returncode == 0, result.stderr
    paths = list(tmp_path.glob("out/own/runs/*/provenance.json"))
    assert [json.loads(path.read_text())["processes"] for path in paths] == [2, 2]


@pytest.mark.parametrize(("dropout", "sizes"), [("nn.Dropout(0.2), ", [1, 1, 1]), ("", [3])])
def test_seeds_of_a_user_model_share_a_stack_unless_it_draws_numbers(
    dropout: str, sizes: list[int], harness: Harness, own_grid: Path, tmp_path: Path
) -> None:
    (own_grid.parent / "own_model.py").write_text(
        MODEL.replace("{norm}", "nn.BatchNorm1d(hidden)").replace("nn.Dropout(0.2), ", dropout)
    )
    own_grid.write_text("seeds = [0, 1, 2]\n" + GRID.replace(', "mlp"', ""))
    result = harness("run", own_grid, "--out", tmp_path, "--set", "run.stack_size=4")
    assert result.returncode == 0, result.stderr
    grid = json.loads((tmp_path / "own" / "grid.json").read_text())
    assert [len(stack["members"]) for stack in grid["stacks"]] == sizes
    assert all({path.name for path in run.iterdir()} == RUN_FILES for run in (tmp_path / "own" / "runs").iterdir())


def test_an_edited_model_is_another_run(harness: Harness, plain_grid: Path) -> None:
    own, mlp = run_ids(harness, plain_grid)
    with open(plain_grid.parent / "own_model.py", "a") as source:
        source.write("# edited\n")
    edited, still = run_ids(harness, plain_grid)
    assert edited != own and still == mlp


def test_a_failed_run_is_recorded_and_tried_again(harness: Harness, plain_grid: Path, tmp_path: Path) -> None:
    (plain_grid.parent / "broken").write_text("")
    own, mlp = run_ids(harness, plain_grid)
    grid = tmp_path / "out" / "own"
    result = harness("run", plain_grid, "--out", tmp_path / "out")
    assert result.returncode == 1
    assert result.stderr.count("harness: ") == 1 and "1 of 2 runs failed" in result.stderr and own in result.stderr
    assert "Traceback" not in result.stderr
    failure = json.loads((grid / "runs" / own / "failure.json").read_text())
    assert failure["reason"] == "RuntimeError: the sky falls"
    assert failure["traceback"].startswith("Traceback") and "own_model.py" in failure["traceback"]
    assert {path.name for path in (grid / "runs" / mlp).iterdir()} == RUN_FILES
    status = json.loads(harness("status", grid, "--format", "json").stdout)
    assert [(row["status"], row["reason"]) for row in status] == [("failed", failure["reason"]), ("complete", None)]

    (plain_grid.parent / "broken").unlink()
    again = harness("run", plain_grid, "--out", tmp_path / "out")
    assert again.returncode == 0, again.stderr
    assert {path.name for path in (grid / "runs" / own).iterdir()} == RUN_FILES


def test_a_resumed_user_model_ends_like_an_undisturbed_one(harness: Harness, plain_grid: Path, tmp_path: Path) -> None:
    arguments = ["run", plain_grid, "--set", "run.checkpoint_every=1", "--out"]
    (plain_grid.parent / "broken").write_text("")
    assert harness(*arguments, tmp_path / "disturbed").returncode == 1
    (plain_grid.parent / "broken").unlink()
    for out in ("disturbed", "undisturbed"):
        assert harness(*arguments, tmp_path / out).returncode == 0
    one, two = (
        {path.name: path.read_bytes() for path in tmp_path.glob(f"{out}/own/runs/*/snapshots/*")}
        for out in ("disturbed", "undisturbed")
    )
    assert one == two


def test_a_model_that_cannot_be_built_is_refused(harness: Harness, plain_grid: Path, tmp_path: Path) -> None:
    # A setting of mlp that the user's generator does not take.
    result = harness("run", plain_grid, "--out", tmp_path / "out", "--set", "generator={batch_norm=true}")
    assert (result.returncode, result.stderr.count("harness: ")) == (2, 1)
    assert "own_model:build" in result.stderr and "batch_norm" in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()
