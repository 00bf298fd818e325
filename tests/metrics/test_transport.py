import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from harness.errors import InputError
from harness.metrics.transport import sliced_wasserstein, wasserstein_1

Array = np.ndarray[Any, Any]

BOTH = pytest.mark.parametrize("metric", [sliced_wasserstein, wasserstein_1])


few_slices = partial(sliced_wasserstein, projections=50)


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def mean_projection(d: int) -> float:
    """E |u_1| of a direction u uniform on the sphere in d dimensions."""
    return math.gamma(d / 2) / (math.sqrt(math.pi) * math.gamma((d + 1) / 2))


@BOTH
def test_a_shift_on_a_line_is_the_distance(metric: Any) -> None:
    points = normal(0, 300, 1)
    assert metric(points + 0.7, points).value == pytest.approx(0.7, rel=1e-12)


@BOTH
def test_on_a_line_both_equal_scipys(metric: Any) -> None:
    points, reference = normal(1, 300, 1), 2 * normal(2, 300, 1) + 0.3
    expected = wasserstein_distance(points[:, 0], reference[:, 0])
    assert metric(points, reference).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("d", [2, 3, 50])
def test_a_shift_in_space_is_the_distance_and_sliced_its_mean_projection(d: int) -> None:
    points, shift = normal(3, 100, d), 3 * normal(4, d)
    length = float(np.linalg.norm(shift))
    assert wasserstein_1(points + shift, points).value == pytest.approx(length, rel=1e-9)
    sliced = sliced_wasserstein(points + shift, points, projections=20_000)
    assert sliced.value == pytest.approx(length * mean_projection(d), rel=0.03)


@BOTH
@pytest.mark.parametrize("d", [1, 5])
def test_points_have_no_distance_to_themselves(metric: Any, d: int) -> None:
    points = normal(5, 2500, d)  # over the limit of exact distances
    estimate = metric(points, points)
    assert estimate.value == pytest.approx(0, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 30),
    d=st.integers(1, 6),
    shift=st.sampled_from([0.0, 1e-3, 1e3]),
    rounded=st.booleans(),
)
def test_sliced_is_at_most_exact(seed: int, n: int, d: int, shift: float, rounded: bool) -> None:
    points, reference = normal(seed, 2, n, d)
    if rounded:  # many at one place
        points, reference = points.round(), reference.round()
    exact = wasserstein_1(points + shift, reference).value
    assert 0 <= sliced_wasserstein(points + shift, reference, projections=20).value <= exact * (1 + 1e-9)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 25), d=st.integers(2, 4))
def test_exact_is_the_least_over_assignments_and_the_most_over_potentials(seed: int, n: int, d: int) -> None:
    random = np.random.default_rng(seed)
    points, reference, directions = random.standard_normal((3, n, d))
    value = wasserstein_1(points, reference).value
    assert value <= np.linalg.norm(points - reference[random.permutation(n)], axis=1).mean() + 1e-12
    along = directions[0] / np.linalg.norm(directions[0])
    assert value >= ((points - reference) @ along).mean() - 1e-12


@BOTH
@pytest.mark.parametrize("d", [1, 4])
def test_the_order_of_points_does_not_matter_where_all_are_used(metric: Any, d: int) -> None:
    points, reference = normal(6, 200, d), normal(7, 200, d) + 0.5
    before, after = metric(points, reference), metric(points[::-1].copy(), np.roll(reference, 9, axis=0))
    assert after.value == pytest.approx(before.value, rel=1e-9)
    assert after.standard_error == pytest.approx(before.standard_error, rel=1e-6)


@BOTH
@pytest.mark.parametrize("d", [1, 3])
def test_values_scale_with_the_points(metric: Any, d: int) -> None:
    points, reference = normal(8, 50, d), normal(9, 50, d) + 0.5
    before, after = metric(points, reference), metric(1000 * points, 1000 * reference)
    assert after.value == pytest.approx(1000 * before.value, rel=1e-9)
    assert after.standard_error == pytest.approx(1000 * before.standard_error, rel=1e-6)


@BOTH
def test_of_the_larger_set_points_are_drawn_with_the_seed(metric: Any) -> None:
    points, reference = normal(10, 40, 2), normal(11, 90, 2)
    first = metric(points, reference, seed=1)
    assert metric(points, reference, seed=1) == first
    assert metric(points, reference, seed=2).value != first.value
    assert metric(reference, points, seed=1).value == pytest.approx(first.value, rel=1e-9)


@pytest.mark.parametrize("d", [1, 2])
def test_the_limit_draws_points_of_both_from_all_over(d: int) -> None:
    points = np.concatenate([normal(12, 400, d), normal(13, 400, d) + 10])
    reference = np.concatenate([normal(14, 300, d), normal(15, 300, d) + 10])
    # Were the first taken, both would lie around 0.
    assert wasserstein_1(points, reference[:300], limit=100).value > 3
    assert wasserstein_1(points, reference, limit=100).value < 2.5


@pytest.mark.parametrize(("metric", "d"), [(few_slices, 3), (wasserstein_1, 1), (wasserstein_1, 2)])
@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
def test_the_error_is_the_spread_over_samples_or_somewhat_more_where_sets_are_alike(
    metric: Any, d: int, shift: float
) -> None:
    random = np.random.default_rng(16)
    reference = random.standard_normal((100, d))
    found = [metric(random.standard_normal((100, d)) + shift * np.eye(d)[0], reference) for _ in range(120)]
    ratio = np.mean([estimate.standard_error for estimate in found]) / np.std([estimate.value for estimate in found])
    assert 0.85 < ratio < (1.2 if shift == 1 else 1.7)


@BOTH
def test_the_error_of_points_far_from_all_others_is_that_of_their_mean_distance(metric: Any) -> None:
    points, reference = normal(17, 200, 1), normal(18, 200, 1) + 50
    assert metric(points, reference).standard_error == pytest.approx(points.std() / math.sqrt(200), rel=1e-9)


def test_sorting_and_assigning_agree_on_value_and_error() -> None:
    points, reference = normal(19, 150, 1), normal(20, 150, 1) + 0.8
    sorted_, assigned = (wasserstein_1(own, other) for own, other in ((points, reference), on_a_line_in_space()))
    assert assigned.value == pytest.approx(sorted_.value, rel=1e-9)
    # The potential is free between the points, so the errors differ a little.
    assert assigned.standard_error == pytest.approx(sorted_.standard_error, rel=0.1)


def on_a_line_in_space() -> tuple[Array, Array]:
    points, reference = normal(19, 150, 1), normal(20, 150, 1) + 0.8
    return points * [[0.6, 0.8]], reference * [[0.6, 0.8]]


def test_directions_sorted_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    points, reference = normal(21, 50, 3), normal(22, 50, 3) + 0.2
    whole = sliced_wasserstein(points, reference)
    monkeypatch.setattr("harness.metrics.transport._SORTED_TOGETHER", 700)
    parts = sliced_wasserstein(points, reference)
    assert parts.value == pytest.approx(whole.value, rel=1e-12)
    assert parts.standard_error == pytest.approx(whole.standard_error, rel=1e-9)


@BOTH
def test_bytes_torch_and_read_only_arrays_are_taken(metric: Any) -> None:
    points, reference = np.random.default_rng(23).integers(0, 256, (2, 30, 4), dtype=np.uint8)
    expected = metric(points.astype(np.float64), reference.astype(np.float64))
    points.setflags(write=False)
    assert metric(points, torch.from_numpy(reference).float().requires_grad_()) == expected


@BOTH
@pytest.mark.parametrize(
    ("points", "reference", "message"),
    [
        (np.zeros((0, 2)), np.zeros((4, 2)), r"points have shape \(0, 2\)"),
        (np.zeros((4, 2)), np.zeros((4, 1, 2, 1)), r"reference have shape \(4, 1, 2, 1\)"),
        (np.zeros((4, 2)), np.zeros((4, 3)), r"points have 2 values each, the reference 3"),
        (np.full((4, 2), math.nan), np.zeros((4, 2)), r"points hold NaN"),
        (np.zeros((4, 2)), np.full((4, 2), math.inf), r"reference hold NaN, inf"),
    ],
)
def test_bad_points_are_refused(metric: Any, points: Array, reference: Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        metric(points, reference)


def test_no_projections_and_no_points_are_refused() -> None:
    points = np.zeros((4, 2))
    with pytest.raises(InputError, match="0 projections"):
        sliced_wasserstein(points, points, projections=0)
    with pytest.raises(InputError, match="limit of 0 points"):
        wasserstein_1(points, points, limit=0)
