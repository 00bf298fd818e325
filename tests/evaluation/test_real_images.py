"""Metrics on real images with known faults: what each must see, and what it must not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from harness import images
from harness.evaluation import Cache, Recipe, References
from harness.evaluation.measures import Subject, measured
from harness.training.processes import Processes

DATA = Path(os.environ.get("HARNESS_DATA") or "nowhere")
MNIST = pytest.param(
    "mnist",
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif(
            not (DATA / "MNIST/raw").is_dir(), reason="HARNESS_DATA names no folder with MNIST/raw and its four files"
        ),
    ],
)
SIZES = {"digits": 1000, "mnist": 10_000}
BLUR = {
    "digits": 0.7,
    "mnist": 1.4,
}  # pixels: more of it, and all images become the same blot, which lies among the ones

Measure = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture(scope="module", params=["digits", MNIST])
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> References:
    """A data set, with its test images as the reference."""
    data = images.load(request.param, [DATA])
    return References(data, Recipe(), Processes(), cache=Cache(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def train(real: References) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Training images, as many as are used for samples and a quarter more, and their labels."""
    rows = np.arange(min(len(real.data.train), SIZES[real.data.name] * 5 // 4))
    labels = real.data.train.labels
    assert labels is not None
    return real_pixels(real, rows), labels[rows]


def real_pixels(real: References, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    pixels = np.asarray(real.data.train.images[rows])
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8)


def measure(samples: NDArray[np.uint8], references: References, *names: str) -> dict[str, dict[str, Any]]:
    """Each metric's record by its name."""
    [records] = measured(names, Subject(samples[None], references))
    return {key.partition("[")[0]: record for key, record in records.items()}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("digit", [1, 8])
def test_a_missing_digit_costs_recall_and_coverage_and_no_precision(
    digit: int, real: References, train: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    pixels, labels = train
    n = SIZES[real.data.name]
    whole = measure(pixels[:n], real, "precision", "recall", "coverage")
    lacking = measure(pixels[labels != digit][:n], real, "precision", "recall", "coverage")
    for name in ("recall", "coverage"):
        assert whole[name]["value"] - lacking[name]["value"] > 3 * lacking[name]["standard_error"], name
    assert whole["precision"]["value"] - lacking["precision"]["value"] < whole["precision"]["standard_error"]


@pytest.mark.timeout(900)
def test_blur_costs_precision_and_quality(real: References, train: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> None:
    sharp = train[0][: SIZES[real.data.name]]
    width = BLUR[real.data.name]
    blurred = gaussian_filter(sharp.astype(np.float32), (0, 0, width, width)).round().astype(np.uint8)
    before, after = (measure(one, real, "precision", "fid", "kid", "isc") for one in (sharp, blurred))
    lost = before["precision"]["value"] - after["precision"]["value"]
    assert lost > 3 * before["precision"]["standard_error"]
    assert after["fid"]["value"] > before["fid"]["value"] + 3 * after["fid"]["standard_error"]
    assert after["kid"]["value"] > before["kid"]["value"] + 3 * after["kid"]["standard_error"]
    assert after["isc"]["value"] < before["isc"]["value"]


@pytest.mark.timeout(900)
def test_copies_of_training_images_are_caught(
    real: References, train: tuple[NDArray[np.uint8], NDArray[np.int64]]
) -> None:
    held_out = np.asarray(real.data.validation.images[np.arange(200)])
    fresh = held_out if held_out.dtype == np.uint8 else np.rint(held_out * 255).astype(np.uint8)
    copied = np.concatenate([fresh[:100], train[0][:100]])
    honest, caught = (measure(one, real, "memorisation") for one in (fresh, copied))
    assert honest["exact-copies"]["value"] == 0
    assert abs(honest["memorisation"]["value"] - 0.5) < 3 * honest["memorisation"]["standard_error"]
    assert caught["exact-copies"]["value"] == 100
    assert caught["memorisation"]["value"] > 0.5 + 5 * caught["memorisation"]["standard_error"]
