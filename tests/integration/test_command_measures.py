"""`harness evaluate` and its metrics, as users call them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess, Popen
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

Harness = Callable[..., CompletedProcess[str]]
ALL = "parzen,fid,kid,isc,precision,recall,density,coverage,class-coverage,memorisation"


def values(result: CompletedProcess[str]) -> dict[str, float | None]:
    assert result.returncode == 0, result.stderr
    return {key: found["value"] for key, found in json.loads(result.stdout)["metrics"].items()}


def short(found: dict[str, float | None]) -> dict[str, float]:
    """The values by metric's name."""
    return {key.partition("[")[0]: value for key, value in found.items() if value is not None}


def on_digits(command: Harness, samples: object, *arguments: object) -> CompletedProcess[str]:
    return command("evaluate", "--samples", samples, "--dataset", "digits", "--format", "json", *arguments)


def test_copies_of_training_images_are_caught(command: Harness) -> None:
    train = ("--metrics", "memorisation", "--samples-count", 300)
    held_out = short(values(on_digits(command, "test-images", *train)))
    copies = short(values(on_digits(command, "training-images", *train)))
    assert copies["memorisation"] > 0.99 and copies["exact-copies"] == 300
    assert held_out["memorisation"] == 0.5 and held_out["exact-copies"] < 5


def test_a_folder_of_images_has_the_numbers_of_its_array(command: Harness, tmp_path: Path, digits: Any) -> None:
    pixels = np.rint(digits.test.images[np.arange(60)] * 255).astype(np.uint8)
    np.savez(tmp_path / "made.npz", images=pixels)
    for number, image in enumerate(pixels):
        PIL.Image.fromarray(image[0]).save(tmp_path / f"{number:03}.png")
    assert values(on_digits(command, tmp_path, "--metrics", ALL)) == values(
        on_digits(command, tmp_path / "made.npz", "--metrics", ALL)
    )


def test_jpeg_files_are_warned_of(
    command: Harness, tmp_path: Path, digits: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for number, image in enumerate(digits.test.images[np.arange(12)]):
        PIL.Image.fromarray(np.rint(image[0] * 255).astype(np.uint8)).save(tmp_path / f"{number}.jpg")
    result = on_digits(command, tmp_path, "--metrics", "fid")
    assert result.returncode == 0 and "JPEG" in caplog.text
    assert json.loads(result.stdout)["samples"]["jpeg"] is True


def test_an_exported_generator_runs_only_where_it_is_trusted(command: Harness, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(5, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))
    batch = torch.export.Dim("batch")
    torch.export.save(
        torch.export.export(network, (torch.zeros(4, 5),), dynamic_shapes=({0: batch},)), tmp_path / "generator.pt2"
    )
    refused = on_digits(command, tmp_path / "generator.pt2", "--metrics", "memorisation")
    assert refused.returncode == 2 and "--trust-code" in refused.stderr and "Traceback" not in refused.stderr
    arguments = ("--metrics", "memorisation", "--samples-count", 50, "--trust-code")
    found = values(on_digits(command, tmp_path / "generator.pt2", *arguments))
    assert set(found) == {"memorisation[pixels,test,n=50]", "exact-copies[pixels,test,n=50]"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("wide.npz", np.zeros((20, 1, 9, 8), np.uint8), "(1, 8, 8)"),
        ("signed.npz", np.linspace(-1, 1, 640, dtype=np.float32).reshape(10, 1, 8, 8), "[-1, 1]"),
        ("long.npz", np.zeros((20, 1, 8, 8), np.int64), "int64"),
        ("one.npz", np.zeros((1, 1, 8, 8), np.uint8), "one.npz"),
    ],
)
def test_samples_that_do_not_fit_are_named(
    name: str, content: Any, words: str, command: Harness, tmp_path: Path
) -> None:
    np.savez(tmp_path / name, images=content)
    result = on_digits(command, tmp_path / name, "--metrics", "fid")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert name in result.stderr and words in result.stderr


def test_the_batch_norm_of_foreign_samples_is_unknown(command: Harness, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "made.npz", images=pixels)
    [key] = values(on_digits(command, tmp_path / "made.npz", "--metrics", "fid"))
    [of_images] = values(on_digits(command, "test-images", "--metrics", "fid", "--samples-count", 40))
    assert key == "fid[classifier-digits,test,n=40,resize=none,bn=unknown]"
    assert of_images == key.replace("unknown", "running")  # so that it stands beside models


@pytest.mark.parametrize("options", [["--companions"], ["--select", "last"], ["--select-by", "fid"]])
def test_what_is_for_runs_is_refused_for_foreign_samples(command: Harness, options: list[str]) -> None:
    result = on_digits(command, "test-images", *options)
    assert result.returncode == 2 and options[0] in result.stderr and "runs" in result.stderr


def test_a_grid_that_cannot_be_evaluated_leaves_the_others(command: Harness, trained: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(trained, tmp_path / name)
    for path in (tmp_path / "a").glob("runs/*/provenance.json"):
        path.unlink()
    result = command("evaluate", tmp_path)
    assert result.returncode == 1 and f"{tmp_path / 'a'} has no complete run" in result.stderr
    assert len(list((tmp_path / "b").glob("runs/*/evaluation.json"))) == 4


def test_more_samples_than_a_file_holds_are_refused(command: Harness, tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", images=np.zeros((20, 1, 8, 8), np.uint8))
    result = on_digits(command, tmp_path / "few.npz", "--samples-count", 21)
    assert result.returncode == 2 and "20" in result.stderr and "few.npz" in result.stderr


def test_an_unknown_metric_is_refused_with_the_nearest(command: Harness) -> None:
    result = on_digits(command, "test-images", "--metrics", "fid,precison")
    assert result.returncode == 2 and "precision" in result.stderr


def test_a_metric_without_its_extractor_leaves_the_others(command: Harness, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = {f"{split}_images": random.integers(0, 256, (30, 8, 8), dtype=np.uint8) for split in ("train", "test")}
    np.savez(tmp_path / "mine.npz", **arrays)
    arguments = [
        "--samples",
        "test-images",
        "--dataset",
        f"npz:{tmp_path / 'mine.npz'}",
        "--metrics",
        "fid,memorisation",
    ]
    result = command("evaluate", *arguments, "--format", "json")
    assert result.returncode == 0
    metrics = json.loads(result.stdout)["metrics"]
    assert "no labels to fit one to" in metrics["fid[test,n=30]"]["reason"]
    assert metrics["memorisation[pixels,test,n=30]"]["value"] == 0.5


def test_a_fitted_classifier_is_an_extractor(command: Harness, tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    fitted = command("extractor", "fit", "--dataset", "digits", "--steps", 20, "-o", weights)
    assert fitted.returncode == 0 and "accuracy" in fitted.stdout, fitted.stderr
    found = values(on_digits(command, "test-images", "--metrics", "fid,isc", "--extractor", weights))
    assert all(key.partition("[")[2].startswith("mine@") for key in found) and len(found) == 3


def test_companions_stand_beside_the_runs(command: Harness, evaluated: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(evaluated, tmp_path / "small")
    shown = command("table", folder, "--companions")
    assert shown.returncode == 0, shown.stderr
    assert "training images" in shown.stdout and "k-means" in shown.stdout
    controls = json.loads((folder / "controls.json").read_text())
    assert controls["k-means"]["metrics"].keys() == controls["training-images"]["metrics"].keys()
    assert "k-means" not in command("table", evaluated).stdout


def test_adding_a_metric_keeps_what_is_there(command: Harness, evaluated: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(evaluated, tmp_path / "small")
    before = {path: json.loads(path.read_text()) for path in folder.glob("runs/*/evaluation.json")}
    assert command("evaluate", folder, "--metrics", "parzen,kid").returncode == 0
    for path, old in before.items():
        new = json.loads(path.read_text())["metrics"]
        assert new.items() > old["metrics"].items() and any(key.startswith("kid[") for key in new)


def test_the_best_snapshot_is_chosen_on_validation(command: Harness, small_grid: Path, tmp_path: Path) -> None:
    settings = ("--set", 'evaluation.select="best-validation"')
    refused = command("run", small_grid, "--out", tmp_path, *settings)
    assert refused.returncode == 2 and "snapshot_every" in refused.stderr
    assert command("run", small_grid, "--out", tmp_path, *settings, "--set", "run.snapshot_every=10").returncode == 0
    assert command("evaluate", tmp_path / "small", "--metrics", "fid").returncode == 0
    for path in (tmp_path / "small").glob("runs/*/evaluation.json"):
        record = json.loads(path.read_text())
        curve = record["selection"]["curve"]
        best = min(curve, key=lambda point: float(point["value"]))
        assert len(curve) > 1 and record["samples"]["iteration"] == best["iteration"]
        assert "validation" in record["selection"]["metric"]
        assert all("test" in key.split("[")[1].split(",") for key in record["metrics"])


def test_two_processes_measure_like_one(
    start_ranks: Callable[..., list[Popen[str]]], command: Harness, trained: Path, tmp_path: Path
) -> None:
    folders = [shutil.copytree(trained, tmp_path / name) for name in ("one", "two")]
    assert command("evaluate", folders[0], "--metrics", ALL).returncode == 0
    processes = start_ranks("evaluate", folders[1], "--metrics", ALL, "--cache", tmp_path / "references")
    answers = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert answers[1] == ("", "")
    paths = [*(path.relative_to(folders[0]) for path in folders[0].glob("runs/*/evaluation.json")), "controls.json"]
    assert len(paths) == 5
    for path in paths:
        one, two = (json.loads((folder / path).read_text()) for folder in folders)
        if path == "controls.json":
            one, two = one["training-images"], two["training-images"]
        assert one["metrics"].keys() == two["metrics"].keys()
        for key, found in one["metrics"].items():
            assert two["metrics"][key]["value"] == pytest.approx(found["value"], rel=1e-9, abs=1e-12), key


@pytest.mark.parametrize("rule", ["last", "best-validation"])
def test_groups_that_processes_take_have_the_numbers_of_one_process(
    rule: str, start_ranks: Callable[..., list[Popen[str]]], command: Harness, small_grid: Path, tmp_path: Path
) -> None:
    settings = ("--set", "axes.k=[1, 2, 3]", "--set", "run.snapshot_every=10")
    assert command("run", small_grid, "--out", tmp_path, *settings).returncode == 0
    folders = [tmp_path / "small", shutil.copytree(tmp_path / "small", tmp_path / "two" / "small")]
    arguments = ("--metrics", "fid,parzen", "--select", rule)
    assert command("evaluate", folders[0], *arguments).returncode == 0
    processes = start_ranks("evaluate", folders[1], *arguments, "--cache", tmp_path / "references")
    answers = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    paths = [path.relative_to(folders[0]) for path in folders[0].glob("runs/*/evaluation.json")]
    assert len(paths) == 12
    for path in paths:
        one, two = (json.loads((folder / path).read_text()) for folder in folders)
        assert two["samples"]["iteration"] == one["samples"]["iteration"]
        assert two["metrics"].keys() == one["metrics"].keys()
        for key, found in one["metrics"].items():
            assert two["metrics"][key]["value"] == pytest.approx(found["value"], rel=1e-9), key
        for mine, theirs in zip(one["selection"].get("curve", ()), two["selection"].get("curve", ()), strict=True):
            assert theirs["value"] == pytest.approx(mine["value"], rel=1e-9)


def test_an_unknown_extractor_is_refused_with_the_nearest(command: Harness) -> None:
    result = on_digits(command, "test-images", "--metrics", "fid", "--extractor", "clasifier-digits")
    assert result.returncode == 2 and "classifier-digits" in result.stderr


def test_companions_are_measured_as_the_runs_were(command: Harness, evaluated: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(evaluated, tmp_path / "small")
    assert command("evaluate", folder, "--metrics", "kid", "--samples-count", 150, "--companions").returncode == 0
    before = (folder / "controls.json").read_bytes()
    shown = command("table", folder, "--companions")
    assert shown.returncode == 0 and "k-means" in shown.stdout, shown.stderr
    assert (folder / "controls.json").read_bytes() == before


def test_one_sample_file_on_two_processes_is_one_record(
    start_ranks: Callable[..., list[Popen[str]]], command: Harness, tmp_path: Path
) -> None:
    arguments = ["--samples", "validation-images", "--dataset", "digits", "--metrics", ALL, "--format", "json"]
    processes = start_ranks("evaluate", *arguments, "--cache", tmp_path)
    answers = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0] and answers[1][0] == "", answers
    one = values(command("evaluate", *arguments))
    two = {key: found["value"] for key, found in json.loads(answers[0][0])["metrics"].items()}
    assert two == pytest.approx(one, rel=1e-9)
