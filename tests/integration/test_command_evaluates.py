"""From trained runs to numbers: evaluate, table, plot, sample, and a user's own data."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import PIL.Image
import pytest

Harness = Callable[..., CompletedProcess[str]]
KEYS = ["parzen[test,n=200,sigma=grid]", "parzen[test,n=200,sigma=refined]"]


def records(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """The bytes and times of all that evaluation wrote."""
    paths = [*folder.glob("runs/*/evaluation.json"), folder / "controls.json"]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def parzen_of(path: Path) -> dict[str, dict[str, Any]]:
    metrics: dict[str, dict[str, Any]] = json.loads(path.read_text())["metrics"]
    return metrics


def test_evaluation_records_every_run(trained: Path, evaluated: Path) -> None:
    paths = list(evaluated.glob("runs/*/evaluation.json"))
    assert len(paths) == 4
    assert {tuple(parzen_of(path)) for path in paths} == {tuple(KEYS)}
    assert not list(trained.glob("runs/*/evaluation.json"))


def test_evaluating_again_computes_nothing(command: Harness, evaluated: Path) -> None:
    before = records(evaluated)
    assert command("evaluate", evaluated).returncode == 0
    assert records(evaluated) == before


def test_other_settings_are_evaluated_anew(command: Harness, evaluated: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(evaluated, tmp_path / "small")
    assert command("evaluate", folder, "--samples-count", 50).returncode == 0
    assert {tuple(parzen_of(path))[0] for path in folder.glob("runs/*/evaluation.json")} == {
        "parzen[test,n=50,sigma=grid]"
    }


def test_the_table_is_the_same_in_csv_and_json(command: Harness, evaluated: Path) -> None:
    from_csv = list(csv.DictReader(io.StringIO(command("table", evaluated, "--format", "csv").stdout)))
    from_json = json.loads(command("table", evaluated, "--format", "json").stdout)
    assert len(from_csv) == len(from_json) == 2 * (2 + 1)  # metrics x (losses + the control)
    for flat, full in zip(from_csv, from_json, strict=True):
        assert flat.keys() == full.keys()
        assert float(flat["mean"]) == full["mean"]
        assert flat["metric"] == full["metric"]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("text", ["loss", "minimax", "non_saturating", "training images", " ± "]),
        ("markdown", ["| loss", "| minimax |", " ± "]),
        ("latex", [r"\begin{tabular}", r"non\_saturating", r"$\pm$", r"\bottomrule"]),
    ],
)
def test_the_table_prints_for_people(form: str, words: list[str], command: Harness, evaluated: Path) -> None:
    result = command("table", evaluated, "--format", form)
    assert (result.returncode, result.stderr) == (0, "")
    assert all(word in result.stdout for word in words)


@pytest.mark.parametrize("form", ["json", "csv"])
def test_the_tables_of_several_grids_parse_as_one(form: str, command: Harness, evaluated: Path, tmp_path: Path) -> None:
    for name in ("small", "other"):
        folder = shutil.copytree(evaluated, tmp_path / name)
        manifest = json.loads((folder / "grid.json").read_text())
        (folder / "grid.json").write_text(json.dumps(manifest | {"name": name}))
    printed = command("table", tmp_path, "--format", form).stdout
    rows = json.loads(printed) if form == "json" else list(csv.DictReader(io.StringIO(printed)))
    assert {row["grid"] for row in rows} == {"small", "other"}
    assert len(rows) == 2 * 2 * (2 + 1)


def test_plots_are_png_files(command: Harness, evaluated: Path, tmp_path: Path) -> None:
    result = command("plot", evaluated, "-o", tmp_path / "figures")
    assert result.returncode == 0, result.stderr
    names = [Path(line).name for line in result.stdout.split()]
    assert names == ["curves.png", "samples.png", "metric.png"]
    for name in names:
        assert (tmp_path / "figures" / name).read_bytes().startswith(b"\x89PNG")


def test_training_images_in_the_place_of_samples(command: Harness) -> None:
    arguments = ["--samples", "training-images", "--dataset", "digits", "--samples-count", 200]
    result = command("evaluate", *arguments, "--format", "json")
    assert (result.returncode, result.stderr) == (0, "")
    record = json.loads(result.stdout)
    assert list(record["metrics"]) == KEYS
    assert record["metrics"][KEYS[0]]["value"] > 0


def test_samples_in_a_file_give_the_value_of_their_run(command: Harness, evaluated: Path, tmp_path: Path) -> None:
    run = next((evaluated / "runs").iterdir())
    assert command("sample", run, "--n", 200, "-o", tmp_path / "samples.npz").returncode == 0
    result = command("evaluate", "--samples", tmp_path / "samples.npz", "--dataset", "digits", "--format", "json")
    assert json.loads(result.stdout)["metrics"] == parzen_of(run / "evaluation.json")


def test_fewer_samples_are_the_first_of_more(command: Harness, evaluated: Path, tmp_path: Path) -> None:
    run = next((evaluated / "runs").iterdir())
    for n in (3, 1500):
        assert command("sample", run, "--n", n, "-o", tmp_path / f"{n}.npz").returncode == 0
    with np.load(tmp_path / "3.npz") as few, np.load(tmp_path / "1500.npz") as many:
        assert many["images"].shape == (1500, 1, 8, 8) and many["images"].dtype == np.float32
        assert np.array_equal(few["images"], many["images"][:3])


def test_a_run_is_evaluated_from_its_path_alone(
    command: Harness, trained: Path, evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(trained, tmp_path / "small")
    run = next((folder / "runs").iterdir())
    monkeypatch.chdir(run)
    result = command("evaluate", ".", "--format", "json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["metrics"] == parzen_of(evaluated / "runs" / run.name / "evaluation.json")


@pytest.mark.parametrize("settings", [["precision=float64"], ["precision=bf16", "ema=0.9"]])
def test_every_precision_trains_samples_and_is_evaluated(
    settings: list[str], harness: Harness, small_grid: Path, tmp_path: Path
) -> None:
    arguments = [argument for setting in ['axes.loss=["minimax"]', *settings] for argument in ("--set", setting)]
    assert harness("run", small_grid, "--out", tmp_path, *arguments).returncode == 0
    result = harness("evaluate", tmp_path / "small", "--format", "json")
    assert result.returncode == 0, result.stderr
    assert all(row["mean"] is not None for row in json.loads(result.stdout))


def test_a_toy_is_evaluated_in_its_original_units(harness: Harness, small_grid: Path, tmp_path: Path) -> None:
    settings = ["--set", "dataset=gaussian-1d", "--set", "evaluation.samples=1000", "--set", "seeds=[0]"]
    assert harness("run", small_grid, "--out", tmp_path, *settings).returncode == 0
    assert harness("evaluate", tmp_path / "small").returncode == 0
    controls = json.loads((tmp_path / "small" / "controls.json").read_text())
    value = controls["training-images"]["metrics"]["parzen[test,n=1000,sigma=refined]"]["value"]
    entropy = 0.5 * np.log(2 * np.pi * np.e)  # of the standard normal distribution, in nats
    assert -entropy - 0.05 < value < -entropy + 0.05


def test_npz_data_beside_the_grid_file_is_found_again_from_elsewhere(
    harness: Harness, small_grid: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    grid_file = shutil.copyfile(small_grid, mine / "small.toml")
    images = np.random.default_rng(0).integers(0, 256, (200, 6, 6, 3), dtype=np.uint8)
    np.savez(mine / "colours.npz", train_images=images[:150], test_images=images[150:])
    settings = ["--set", "dataset=npz:colours.npz", "--set", 'axes.loss=["minimax"]']
    trained = harness("run", "mine/small.toml", "--out", "out", *settings, cwd=tmp_path)
    assert (trained.returncode, trained.stdout) == (0, "out/small\n"), trained.stderr
    evaluated = harness("evaluate", tmp_path / "out" / "small", cwd=grid_file.parent.parent.parent)
    assert evaluated.returncode == 0, evaluated.stderr
    with np.load(next(tmp_path.glob("out/small/runs/*/samples.npz"))) as arrays:
        assert arrays["images"].shape == (100, 3, 6, 6)
    np.savez(mine / "colours.npz", train_images=images[:149], test_images=images[150:])
    changed = harness("evaluate", tmp_path / "out" / "small", "--samples-count", 50)
    assert changed.returncode == 2
    assert "colours.npz has changed" in changed.stderr


def test_a_folder_of_pictures_is_trained_on(harness: Harness, small_grid: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 64), ("validation", 8), ("test", 8)):
        (tmp_path / "pictures" / split).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 256, (5, 7), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / "pictures" / split / f"{number}.png")
    settings = ["--set", "dataset=folder:pictures", "--set", 'axes.loss=["minimax"]', "--data", tmp_path]
    trained = harness("run", small_grid, "--out", tmp_path / "out", *settings)
    assert trained.returncode == 0, trained.stderr
    evaluated = harness("evaluate", tmp_path / "out" / "small")
    assert evaluated.returncode == 0, evaluated.stderr
