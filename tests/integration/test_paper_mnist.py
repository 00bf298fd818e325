"""MNIST: the paper's settings, and test images beside the samples of every model that ships."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pandas as pd
import pytest

Harness = Callable[..., CompletedProcess[str]]
DATA = Path(os.environ.get("HARNESS_DATA") or "nowhere")
needs_mnist = pytest.mark.skipif(
    not (DATA / "MNIST/raw").is_dir(), reason="HARNESS_DATA names no folder with MNIST/raw and its four files"
)


METRICS = ("--metrics", "parzen,fid,kid,coverage", "--reference", "train", "--data", DATA, "--format", "json")
MODELS = """
name = "models"
seeds = [0]
[experiment]
dataset = "mnist"
iterations = 300
batch_size = 64
latent = {size = 100}
[axes]
architecture = [
    {name = "mlp", model = "mlp", optimizer = {name = "Adam", lr = 2e-4, betas = [0.5, 0.999]}},
    {name = "dcgan", model = "dcgan", optimizer = {name = "Adam", lr = 2e-4, betas = [0.5, 0.999]}},
    {name = "maxout-mlp", model = "maxout-mlp", optimizer = {name = "SGD", lr = 0.1, momentum = 0.5}},
]
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        not (DATA / "MNIST/raw").is_dir(), reason="HARNESS_DATA names no folder with MNIST/raw and its four files"
    ),
]


@pytest.fixture(scope="module")
def held_out(harness: Harness) -> dict[str, float]:
    """What 10,000 test images are worth as samples, by key."""
    result = harness("evaluate", "--samples", "test-images", "--dataset", "mnist", *METRICS, OMP_NUM_THREADS="2")
    return {key: record["value"] for key, record in json.loads(result.stdout)["metrics"].items()}


def evaluated(harness: Harness, folder: Path) -> pd.DataFrame:
    """The table of a grid."""
    result = harness("evaluate", folder, *METRICS, timeout=600, OMP_NUM_THREADS="2")
    return pd.DataFrame(json.loads(result.stdout))


def test_four_epochs_in_the_papers_settings_leave_the_floor_far_behind(
    harness: Harness, tmp_path: Path, held_out: dict[str, float]
) -> None:
    """One epoch gives about -376 nats, five about -50."""
    settings = ("--data", DATA, "--set", "iterations=2000", "--set", "seeds=[0]")
    trained = harness("run", "paper-mnist", "--out", tmp_path, *settings, timeout=1200, OMP_NUM_THREADS="2")
    assert trained.returncode == 0, trained.stderr
    rows = evaluated(harness, tmp_path / "paper-mnist").set_index("metric")["mean"]
    model, control = rows["parzen[test,n=10000,sigma=grid]"]
    assert model > -300
    assert 240.5 < control < 244.7
    for key, value in held_out.items():
        assert value > rows[key].iloc[0] if key.startswith(("parzen", "coverage")) else value < rows[key].iloc[0], key


def test_test_images_are_better_samples_than_those_of_models_that_ship(
    harness: Harness, tmp_path: Path, held_out: dict[str, float]
) -> None:
    tried = {"mlp", "dcgan", "maxout-mlp"}  # on a CPU the other convolutional pairs take too long
    assert tried <= set(harness("list", "models").stdout.split())
    (tmp_path / "models.toml").write_text(MODELS)
    trained = harness("run", tmp_path / "models.toml", "--out", tmp_path, "--data", DATA, OMP_NUM_THREADS="2")
    assert trained.returncode == 0, trained.stderr
    rows = evaluated(harness, tmp_path / "models").dropna(subset="architecture")
    for key, value in held_out.items():
        models = rows[rows["metric"] == key].set_index("architecture")["mean"]
        assert set(models.index) - {"training images"} == tried
        for name in tried:
            assert value > models[name] if key.startswith(("parzen", "coverage")) else value < models[name], (key, name)
