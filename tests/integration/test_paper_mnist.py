"""The paper's MNIST settings on the real data, and real images beside the model's samples."""

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


@needs_mnist
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_four_epochs_in_the_papers_settings_leave_the_floor_far_behind(harness: Harness, tmp_path: Path) -> None:
    """One epoch gives about -376 nats, five about -50; test images are better samples than such a model's."""
    settings = ("--data", DATA, "--set", "iterations=2000", "--set", "seeds=[0]")
    trained = harness("run", "paper-mnist", "--out", tmp_path, *settings, timeout=1200, OMP_NUM_THREADS="2")
    assert trained.returncode == 0, trained.stderr
    evaluate = ("evaluate", "--data", DATA, "--format", "json", "--reference", "train")
    metrics = ("--metrics", "parzen,fid,kid,coverage")
    grid = harness(*evaluate, *metrics, tmp_path / "paper-mnist", timeout=600, OMP_NUM_THREADS="2")
    rows = pd.DataFrame(json.loads(grid.stdout)).set_index("metric")["mean"]
    model, control = rows["parzen[test,n=10000,sigma=grid]"]
    assert model > -300
    assert 240.5 < control < 244.7

    held_out = harness(*evaluate, *metrics, "--samples", "test-images", "--dataset", "mnist", OMP_NUM_THREADS="2")
    for key, record in json.loads(held_out.stdout)["metrics"].items():
        value, models = record["value"], rows[key].iloc[0]
        assert value > models if key.startswith(("parzen", "coverage")) else value < models, key
