from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import InputError
from harness.metrics.memorisation import memorisation, nearest, nearest_with_places

Array = np.ndarray[Any, Any]


def images(seed: int, n: int, d: int = 64) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (n, d), dtype=np.uint8)


def naive(samples: Array, held_out: Array) -> float:
    """The definition, pair by pair."""
    return float(np.mean([(sample < other) + (sample == other) / 2 for sample in samples for other in held_out]))


def test_nearest_is_exact_on_pixels_and_on_floats() -> None:
    points, training = images(0, 50), images(1, 80)
    points[:5] = training[70:75]
    differences = points[:, None].astype(np.int64) - training[None].astype(np.int64)
    expected = np.sqrt((differences**2).sum(2).min(1))
    assert (nearest(points, training).numpy() == expected).all()
    in_unit_range = nearest(points / np.float32(255), torch.from_numpy(training / np.float32(255)))
    np.testing.assert_allclose(in_unit_range.numpy(), expected / 255, rtol=1e-5)
    assert (in_unit_range[:5] == 0).all() and (in_unit_range[5:] > 0).all()


def test_the_nearest_are_found_with_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.metrics.memorisation.POINTS_PER_TILE", 32)
    points, training = images(0, 50), images(1, 80)
    points[:5] = training[70:75]
    training[79] = training[70]  # equally near, but later
    squares = ((points[:, None].astype(np.int64) - training[None].astype(np.int64)) ** 2).sum(2)
    places, distances = nearest_with_places(points, training)
    assert (places.numpy() == squares.argmin(1)).all()
    assert places[:5].tolist() == [70, 71, 72, 73, 74]
    assert (distances == nearest(points, training)).all()


def test_one_pixel_apart_is_no_exact_copy() -> None:
    training = np.full((3, 12_288), 255, np.uint8)
    point = training[:2].copy()
    point[1, 7] -= 1
    distances = nearest(point, training)
    assert distances.tolist() == [0, 1]
    assert memorisation(distances, FINE).exact_copies == 1


def test_copies_of_training_images_are_counted_and_give_a_value_near_one() -> None:
    training = images(2, 300)
    result = memorisation(nearest(training[:40], training), nearest(images(3, 60), training))
    assert result.exact_copies == 40
    assert result.value.value == 1
    assert result.median_sample == 0 < result.median_held_out


def test_held_out_images_against_themselves_give_one_half() -> None:
    distances = nearest(images(4, 70), images(5, 90))
    result = memorisation(distances, distances)
    assert result.value.value == 0.5
    assert result.exact_copies == 0
    assert result.median_sample == result.median_held_out == np.median(distances.numpy())


def test_samples_far_from_the_data_give_a_value_near_zero() -> None:
    training, held_out = images(6, 100) // 4, images(7, 50) // 4
    assert memorisation(nearest(images(8, 50), training), nearest(held_out, training)).value.value < 0.01


@settings(deadline=None, max_examples=100)
@given(
    samples=st.lists(st.integers(0, 8), min_size=2, max_size=20),
    held_out=st.lists(st.integers(0, 8), min_size=2, max_size=20),
)
def test_the_value_equals_the_naive_one_with_ties_counted_half(samples: list[int], held_out: list[int]) -> None:
    first, second = np.array(samples, np.float64), np.array(held_out, np.float64)
    result = memorisation(torch.from_numpy(first), torch.from_numpy(second))
    assert result.value.value == pytest.approx(naive(first, second), abs=1e-12)
    swapped = memorisation(torch.from_numpy(second), torch.from_numpy(first))
    assert swapped.value.value == pytest.approx(1 - result.value.value, abs=1e-12)
    assert swapped.value.standard_error == pytest.approx(result.value.standard_error, abs=1e-12)


def test_the_error_is_delongs_over_both_sets() -> None:
    samples, held_out = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([3.0, 4.0, 5.0, 7.0])
    of_samples, of_held_out = [1.0, 1.0, 0.25], [2 / 3, 2 / 3, 2 / 3, 1.0]
    expected = (np.var(of_samples, ddof=1) / 3 + np.var(of_held_out, ddof=1) / 4) ** 0.5
    result = memorisation(samples, held_out)
    assert result.value.standard_error == pytest.approx(expected, rel=1e-12)
    assert "DeLong" in result.value.error


@pytest.mark.parametrize(("shift", "n", "h"), [(0.0, 100, 100), (-0.8, 60, 300), (0.0, 400, 50)])
def test_the_standard_error_is_the_spread_over_repeated_draws(shift: float, n: int, h: int) -> None:
    generator = torch.Generator().manual_seed(9)
    draws = [
        memorisation(
            (torch.randn(n, generator=generator) + shift).exp(), torch.randn(h, generator=generator).exp()
        ).value
        for _ in range(1000)
    ]
    spread = np.std([draw.value for draw in draws])
    assert np.mean([draw.standard_error for draw in draws]) == pytest.approx(spread, rel=0.1)


def test_the_order_of_distances_does_not_matter() -> None:
    samples, held_out = nearest(images(10, 50), images(11, 90)), nearest(images(12, 40), images(11, 90))
    result, flipped = memorisation(samples, held_out), memorisation(samples.flip(0), held_out.flip(0))
    assert flipped.value.value == pytest.approx(result.value.value, rel=1e-12)
    assert flipped.value.standard_error == pytest.approx(result.value.standard_error, rel=1e-12)
    assert flipped.median_sample == result.median_sample


FINE = torch.tensor([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("samples", "held_out", "message"),
    [
        (FINE[:1], FINE, r"sample distances have shape \(1,\)"),
        (FINE, FINE[None], r"held-out distances have shape \(1, 3\)"),
        (FINE * float("nan"), FINE, "sample distances hold NaN"),
        (FINE, -FINE, "held-out distances hold NaN, infinite or negative"),
    ],
)
def test_bad_distances_are_refused_by_name(samples: torch.Tensor, held_out: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        memorisation(samples, held_out)


@pytest.mark.parametrize(
    ("points", "training", "message"),
    [
        (np.zeros((2, 3)), np.zeros((0, 3)), r"training have shape \(0, 3\)"),
        (np.zeros((2, 3)), np.zeros((4, 2)), "points have 3 values a point, those compared with 2"),
        (np.full((2, 3), np.nan), np.zeros((4, 3)), "points hold NaN"),
    ],
)
def test_bad_points_are_refused_by_name(points: Array, training: Array, message: str) -> None:
    for function in (nearest, nearest_with_places):
        with pytest.raises(InputError, match=message):
            function(points, training)
