"""Pictures that trained models are asked for: samples files of every kind, and the plots of a grid and of a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import click
import numpy as np
import pytest

from harness.images import ImageSet
from harness.metrics.features import quantised

Harness = Callable[..., CompletedProcess[str]]
WALKS = """\
name = "walks"
seeds = [0]
[experiment]
dataset = "digits"
method = "deep-gsn"
iterations = 5
batch_size = 20
baseline = {hidden = [10, 8], burn_in = 4, gap = 2}
"""
OF_MODELS = ("sweep", "interpolation", "neighbours")
ALL_THREE = [word for kind in OF_MODELS for word in ("--kind", kind)]


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """A samples file's content, read without pickles."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def sole_message(result: CompletedProcess[str]) -> str:
    """The one message of a refusal."""
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    assert result.stderr.count("harness: ") == 1 and "Traceback" not in result.stderr
    return result.stderr


@pytest.fixture
def run(trained: Path) -> Path:
    """A trained run's folder; not to be changed."""
    return next((trained / "runs").iterdir())


def test_an_interpolation_file_ends_at_the_random_ones_samples(command: Harness, run: Path, tmp_path: Path) -> None:
    random, between = tmp_path / "random.npz", tmp_path / "between.npz"
    assert command("sample", run, "--n", 6, "-o", random).returncode == 0
    kind = ["--kind", "interpolation", "--rows", 3, "--columns", 5, "--way", "spherical"]
    result = command("sample", run, *kind, "-o", between)
    assert (result.returncode, result.stdout) == (0, f"{between}\n"), result.stderr
    samples, found = arrays_of(random), arrays_of(between)
    assert list(samples) == ["images"]
    images = found["images"].reshape(3, 5, 1, 8, 8)
    assert np.array_equal(images[:, [0, 4]].reshape(6, 1, 8, 8), samples["images"])
    assert (str(found["kind"]), str(found["way"])) == ("interpolation", "spherical")
    assert found["latents"].shape == (15, 8) and found["fractions"].tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_a_sweep_file_says_what_was_moved(command: Harness, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "sweep.npz"
    assert command("sample", run, "--kind", "sweep", "--components", "5, 0", "-o", path).returncode == 0
    found = arrays_of(path)
    assert found["layout"].tolist() == [2, 9] and found["images"].shape == (18, 1, 8, 8)
    assert found["components"].tolist() == [5, 0]
    latents = found["latents"].reshape(2, 9, 8)
    assert np.array_equal(latents[0, :, 5], found["values"]) and np.array_equal(latents[1, :, 0], found["values"])


def test_a_grid_has_a_picture_a_kind_and_run(command: Harness, trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "small")
    ids = {run.name for run in (folder / "runs").iterdir()}
    result = command("plot", folder, *ALL_THREE, "--rows", 2, "--columns", 3)
    assert result.returncode == 0, result.stderr
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert {path.relative_to(folder / "plots") for path in paths} == {
        Path(kind, f"{run}.png") for kind in OF_MODELS for run in ids
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert {path.name for path in (folder / "plots").iterdir()} == set(OF_MODELS)


def test_kinds_of_files_and_of_models_are_drawn_of_a_run(command: Harness, run: Path, tmp_path: Path) -> None:
    result = command("plot", run, "--kind", "sweep", "--kind", "samples", "--components", "3", "-o", tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [str(tmp_path / "samples.png"), str(tmp_path / "sweep.png")]


def test_neighbours_are_the_nearest_training_images(
    command: Harness, run: Path, digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.analysis import sheets

    drawn: list[tuple[Any, ...]] = []
    draw = sheets.neighbours
    monkeypatch.setattr(sheets, "neighbours", lambda *found, **words: drawn.append(found) or draw(*found, **words))
    words = ["--kind", "neighbours", "--rows", 4, "--columns", 2]
    assert command("plot", run, *words, "-o", tmp_path).returncode == 0
    assert command("sample", run, "--n", 8, "-o", tmp_path / "8.npz").returncode == 0
    [(samples, nearest, distances)] = drawn
    assert np.array_equal(samples.reshape(8, 1, 8, 8), arrays_of(tmp_path / "8.npz")["images"])
    training = quantised(digits.train.images[np.arange(len(digits.train))]).reshape(-1, 64).astype(np.int64)
    lasts = quantised(samples[:, 1]).reshape(4, 64).astype(np.int64)
    squares = ((lasts[:, None] - training[None]) ** 2).sum(2)
    np.testing.assert_array_equal(quantised(nearest).reshape(4, 64), training[squares.argmin(1)])
    np.testing.assert_allclose(distances, np.sqrt(squares.min(1)))


REFUSED = {
    "sample {run} --kind sweep --n 5": "--n: not for kind sweep: sweep takes --columns, --components, --rows",
    "sample {run} --rows 5": "--rows: not for kind random: random takes --n",
    "sample {run} --kind interpolation --components 1": "--components: not for kind interpolation",
    "sample {run} --kind sweep --components 1,x": "--components 1,x: give whole numbers",
    "sample {run} --kind sweep --components 1 --rows 2": "leave --rows out",
    "sample {run} --kind sweep --components 8": "components 0 to 7, not 8",
    "plot {grid} --kind sweep --components 8": "4 of 4 pictures could not be drawn",
    "plot {grid} --kind sweep --way spherical": "--way: not for kind sweep",
    "sample {run} --kind chains": "the method 'gan' has no Markov chains to show",
    "sample {run} --kind sweep --every 2": "--every: not for kind sweep",
    "plot {run} --kind chains --way linear": "chains takes --after, --columns, --every, --rows",
    "plot {run} --kind landscape": "the method 'gan' keeps nothing in its snapshots that scores points",
    "plot {run} --kind landscape --rows 2": "landscape takes none of them",
    "plot {grid} --rows 3": "--rows: for the kinds conditions, sweep, interpolation, chains, neighbours alone",
    "plot {grid} --every 3": "--every: for the kind chains alone",
    "plot {grid} --kind sweep --data .": "--data: for kinds that look at the training images: neighbours, landscape",
    "plot {grid} --kind sweep --metric parzen": "--metric: for the kind metric alone",
    "plot {run} --kind metric": "give the grid's folder",
    "plot {run} --kind sweep -o {file}": "cannot write",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_a_kind_does_not_take_is_refused(
    line: str, command: Harness, trained: Path, run: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    places = {"run": run, "grid": trained, "file": tmp_path / "file"}
    assert REFUSED[line] in sole_message(command(*line.format(**places).split()))
    assert not (trained / "plots").exists()


def test_pictures_of_points_are_refused(command: Harness, small_grid: Path, tmp_path: Path) -> None:
    settings = ["dataset=ring-8", "iterations=2", "seeds=[0]", 'axes.loss=["minimax"]']
    arguments = [word for setting in settings for word in ("--set", setting)]
    assert command("run", small_grid, "--out", tmp_path, *arguments).returncode == 0
    assert "ring-8 holds points, not images" in sole_message(command("plot", tmp_path / "small", *ALL_THREE))
    run = next((tmp_path / "small" / "runs").iterdir())
    path = tmp_path / "points.npz"
    assert command("sample", run, "--kind", "interpolation", "-o", path).returncode == 0
    assert arrays_of(path)["images"].shape == (72, 2, 1, 1)


def test_a_run_that_cannot_be_drawn_leaves_the_others_theirs(command: Harness, trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "small")
    broken = next((folder / "runs").iterdir())
    snapshot = next((broken / "snapshots").iterdir())
    snapshot.write_bytes(snapshot.read_bytes()[:50])
    result = command("plot", folder, "--kind", "sweep", "--rows", 2)
    assert result.returncode == 1
    assert "1 of 4 pictures could not be drawn" in result.stderr and f"{snapshot.name} is damaged" in result.stderr
    assert len(list((folder / "plots" / "sweep").iterdir())) == 3


def test_a_grid_without_a_complete_run_has_nothing_to_draw(command: Harness, trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "small")
    for path in folder.glob("runs/*/provenance.json"):
        path.unlink()
    result = command("plot", folder, *ALL_THREE)
    assert (result.returncode, result.stdout) == (0, "") and "nothing to draw yet" in result.stderr


def test_the_command_offers_every_kind_there_is() -> None:
    from harness import cli, sheets
    from harness.analysis import kinds
    from harness.analysis.sheets import FIGURES

    def offered(command: click.Command) -> set[str]:
        [kind] = [option for option in command.params if "--kind" in option.opts]
        assert isinstance(kind.type, click.Choice)
        return set(kind.type.choices)

    assert offered(cli.sample) == {"random", *kinds.SHEETS}
    assert offered(cli.plot) == {*kinds.OF_FILES, *kinds.OF_MODELS}
    assert FIGURES.keys() == sheets.KINDS.keys() == kinds.SHEETS.keys()
    laid_out = frozenset().union(*(kind.options for kind in kinds.OF_MODELS.values()))
    assert laid_out == {field.name for field in fields(sheets.Layout)}


def test_chains_are_drawn_and_written_alike(command: Harness, tmp_path: Path) -> None:
    (tmp_path / "walks.toml").write_text(WALKS)
    assert command("run", tmp_path / "walks.toml", "--out", tmp_path).returncode == 0
    run = next((tmp_path / "walks" / "runs").iterdir())
    kind = ["--kind", "chains", "--rows", 3, "--columns", 4, "--every", 2]
    drawn = command("plot", run, *kind)
    assert (drawn.returncode, drawn.stdout) == (0, f"{run / 'plots' / 'chains.png'}\n"), drawn.stderr
    assert command("sample", run, *kind, "-o", tmp_path / "chains.npz").returncode == 0
    assert command("sample", run, "--n", 3, "-o", tmp_path / "random.npz").returncode == 0
    found = arrays_of(tmp_path / "chains.npz")
    assert (found["times"].tolist(), found["layout"].tolist()) == ([4, 6, 8, 10], [3, 4])
    assert np.array_equal(found["images"][::4], arrays_of(tmp_path / "random.npz")["images"])
