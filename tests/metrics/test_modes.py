import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from harness.errors import InputError
from harness.images.toys import MIXTURES
from harness.metrics.modes import high_quality, mode_coverage

Array = np.ndarray[Any, Any]

MEANS = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])


def at(*places: tuple[int, float, float]) -> Array:
    """So many points at each place."""
    return np.concatenate([np.tile([x, y], (count, 1)) for count, x, y in places])


def test_a_mode_is_reached_by_one_point_in_a_hundred() -> None:
    assert mode_coverage(at((98, 0, 0), (1, 10, 0), (1, 0, 10)), MEANS, 0.1).value == 3
    assert mode_coverage(at((99, 0, 0), (1, 10, 0), (1, 0, 10)), MEANS, 0.1).value == 1
    assert mode_coverage(at((200, 5, 5)), MEANS, 0.1).value == 0


def test_a_mode_ends_at_three_standard_deviations() -> None:
    near, far = at((1, 10, 1.4999)), at((1, 10, 1.5001))
    assert (mode_coverage(near, MEANS, 0.5).value, high_quality(near, MEANS, 0.5).value) == (1, 1)
    assert (mode_coverage(far, MEANS, 0.5).value, high_quality(far, MEANS, 0.5).value) == (0, 0)


def test_high_quality_is_the_share_of_points_near_any_mode() -> None:
    assert high_quality(at((30, 0, 0), (50, 10, 0), (20, 5, 5)), MEANS, 0.1).value == 0.8


@pytest.mark.parametrize("name", sorted(MIXTURES))
def test_true_points_reach_all_modes_and_lie_inside_as_often_as_gaussians_do(name: str) -> None:
    mixture = MIXTURES[name]
    means = np.asarray(mixture.means)
    points = mixture.sample(10_000, np.random.default_rng(0))
    assert mode_coverage(points, means, mixture.sigma).value == len(means)
    estimate = high_quality(points, means, mixture.sigma)
    assert estimate.standard_error is not None
    assert abs(estimate.value - chi2.cdf(9, df=means.shape[1])) < 3 * estimate.standard_error


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_the_error_of_high_quality_is_its_spread_over_samples(share: float) -> None:
    random = np.random.default_rng(0)
    points = [at((count, 0, 0), (400 - count, 5, 5)) for count in random.binomial(400, share, size=300)]
    found = [high_quality(own, MEANS, 0.1) for own in points]
    errors = [estimate.standard_error for estimate in found if estimate.standard_error is not None]
    assert np.mean(errors) / np.std([estimate.value for estimate in found]) == pytest.approx(1, abs=0.2)


def test_the_error_of_high_quality_does_not_vanish_where_all_points_are_near() -> None:
    estimate = high_quality(at((100, 0, 0)), MEANS, 0.1)
    assert estimate.value == 1
    assert estimate.standard_error == pytest.approx(math.sqrt(102 / 104 * 2 / 104 / 104), rel=1e-12)


def test_mode_coverage_says_why_it_has_no_standard_error() -> None:
    estimate = mode_coverage(at((10, 0, 0)), MEANS, 0.1)
    assert estimate.standard_error is None and estimate.error.startswith("none: ")


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), shift=st.sampled_from([0.0, 1e7]))
def test_neither_order_nor_a_shift_of_all_matters(seed: int, shift: float) -> None:
    random = np.random.default_rng(seed)
    points = MEANS[random.integers(3, size=200)] + random.uniform(-0.5, 0.5, (200, 2))
    # A point so near to a mode's edge could fall to either side after the shift.
    gaps = np.linalg.norm(points[:, None] - MEANS, axis=2).min(1) - 0.3
    points = points[np.abs(gaps) > 1e-6]
    moved = random.permutation(points) + shift
    assert mode_coverage(moved, MEANS + shift, 0.1) == mode_coverage(points, MEANS, 0.1)
    assert high_quality(moved, MEANS + shift, 0.1) == high_quality(points, MEANS, 0.1)


def test_torch_points_of_a_narrow_type_and_read_only_arrays_are_taken() -> None:
    points = at((30, 0, 0), (50, 10, 0), (20, 5, 5))
    expected = high_quality(points, MEANS, 0.1)
    points.setflags(write=False)
    assert high_quality(points, torch.from_numpy(MEANS).float(), 0.1) == expected


@pytest.mark.parametrize("metric", [mode_coverage, high_quality])
@pytest.mark.parametrize(
    ("points", "means", "sigma", "message"),
    [
        (np.zeros((0, 2)), MEANS, 0.1, r"points have shape \(0, 2\)"),
        (np.zeros((4, 2, 1, 1)), MEANS, 0.1, r"points have shape \(4, 2, 1, 1\)"),
        (np.zeros((4, 3)), MEANS, 0.1, r"points have 3 values each, means 2"),
        (np.full((4, 2), math.nan), MEANS, 0.1, r"points hold NaN"),
        (np.zeros((4, 2)), np.full((3, 2), math.inf), 0.1, r"means hold NaN, inf"),
        (np.zeros((4, 2)), MEANS, 0.0, r"sigma is 0\.0"),
        (np.zeros((4, 2)), MEANS, math.nan, r"sigma is nan"),
    ],
)
def test_bad_arrays_and_sigmas_are_refused(
    metric: Any, points: Array, means: Array, sigma: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        metric(points, means, sigma)
