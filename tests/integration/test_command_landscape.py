"""Landscapes of a discriminator that trains alone, on a toy: a panel a snapshot."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest

from harness import sampling
from harness.commands import landscape
from harness.errors import InputError
from harness.images import ImageSet
from harness.runs import GridFolder, RunFolder

Harness = Callable[..., CompletedProcess[str]]
TOYS = """\
name = "toys"
seeds = [0]
[experiment]
dataset = "ring-8"
iterations = 25
batch_size = 32
[axes]
of = [
    {name = "energy", method = "energy", baseline = {hidden = [8], negatives = 20, round_length = 10}},
    {name = "vae", method = "vae", baseline = {hidden = [8], latent = 2}},
]
[run]
snapshot_every = 10
"""


@pytest.fixture(scope="module")
def toys(harness: Harness, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained grid of two methods; not to be changed."""
    out = tmp_path_factory.mktemp("toys")
    (out / "toys.toml").write_text(TOYS)
    result = harness("run", out / "toys.toml", "--out", out)
    assert result.returncode == 0, result.stderr
    return out / "toys"


def run_of(toys: Path, method: str) -> RunFolder:
    return next(run for run in GridFolder(toys).runs() if run.experiment()["method"] == method)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What figures were drawn of: panels, training points, corners, and the caption."""
    drawn: list[tuple[Any, ...]] = []
    draw = landscape.figures.landscape

    def recorded(*given: Any, **words: Any) -> Any:
        drawn.append((*given, words["caption"]))
        return draw(*given, **words)

    monkeypatch.setattr(landscape.figures, "landscape", recorded)
    return drawn


def test_each_snapshot_has_a_panel_of_its_scores(
    command: Harness, toys: Path, figures: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    run = run_of(toys, "energy")
    result = command("plot", run.path, "--kind", "landscape", "-o", tmp_path)
    assert (result.returncode, result.stdout) == (0, f"{tmp_path / 'landscape.png'}\n"), result.stderr
    [(panels, training, corners, caption)] = figures
    assert [panel.name for panel in panels] == ["round 1, iteration 10", "round 2, iteration 20", "iteration 25"]
    assert "A round is 10 iterations long." in caption
    sampler = sampling.load(run, iteration=20)
    row, column = 30, 170
    point = np.array([[column + 0.5, row + 0.5]], np.float32) / landscape.SIDE
    np.testing.assert_allclose(panels[1].logits[row, column], sampler.landscape(point)[0, 0], rtol=1e-5)
    low, high = corners
    samples = low + (high - low) * sampler.sample(landscape.SAMPLES)[0].reshape(-1, 2)
    np.testing.assert_allclose(panels[1].samples, samples, atol=1e-5)
    assert np.abs(np.hypot(*training.T) - 2).max() < 0.1


def test_many_snapshots_are_thinned_and_the_caption_says_so(
    toys: Path, figures: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness import images

    monkeypatch.setattr(landscape, "MOST_PANELS", 2)
    landscape.landscape(run_of(toys, "energy"), images.load("ring-8", []), title="t")
    [(panels, _, _, caption)] = figures
    assert [panel.name for panel in panels] == ["round 1, iteration 10", "iteration 25"]
    assert "2 of 3 snapshots." in caption


def test_a_run_without_snapshots_on_the_way_has_one_panel(
    command: Harness, toys: Path, figures: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    folder = shutil.copytree(toys, tmp_path / "toys")
    run = run_of(folder, "energy")
    for path in sorted(run.snapshots.iterdir())[:-1]:
        path.unlink()
    assert command("plot", run.path, "--kind", "landscape").returncode == 0
    assert [panel.name for panel in figures[0][0]] == ["iteration 25"]


def test_a_method_without_a_landscape_leaves_the_others_theirs(command: Harness, toys: Path, tmp_path: Path) -> None:
    result = command("plot", toys, "--kind", "landscape", "-o", tmp_path)
    run = run_of(toys, "energy")
    assert (result.returncode, result.stdout) == (1, "")
    assert "1 of 2 pictures could not be drawn" in result.stderr
    assert "the method 'vae' keeps nothing in its snapshots that scores points" in result.stderr
    assert [path.name for path in tmp_path.rglob("*.png")] == [f"{run.id}.png"]


def test_images_have_no_plane(untrained_baseline: Callable[..., RunFolder], digits: ImageSet) -> None:
    with pytest.raises(InputError, match="digits does not hold points of a plane"):
        landscape.landscape(untrained_baseline("energy"), digits, title="t")
