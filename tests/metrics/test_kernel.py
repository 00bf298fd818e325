import math
from typing import Any

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from harness.errors import InputError
from harness.metrics.kernel import kid, subset_size_for

Array = np.ndarray[Any, Any]


def gaussian(seed: int, n: int, d: int = 8, *, scale: float = 1.0, shift: float = 0.0) -> Array:
    return np.random.default_rng(seed).standard_normal((n, d)) * np.linspace(0.2, 2, d) * scale + shift


def torch_fidelity_kid(features: Array, reference: Array, **options: int) -> tuple[float, float]:
    settings = {f"kid_{name}" if name != "seed" else "rng_seed": value for name, value in options.items()}
    pair = (torch.from_numpy(each) for each in (features, reference))
    found = kid_features_to_metric(*pair, **settings, verbose=False)
    return found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]


@pytest.mark.parametrize(
    ("n", "n_reference", "d", "subset_size"), [(300, 400, 8, 100), (150, 60, 200, 60), (50, 50, 1, 50), (40, 30, 64, 2)]
)
def test_the_distance_and_its_spread_equal_torch_fidelitys(n: int, n_reference: int, d: int, subset_size: int) -> None:
    features, reference = gaussian(0, n, d, shift=0.5), gaussian(1, n_reference, d)
    features[:, d // 2 + 1 :] = 0.3  # constant columns
    value, std = torch_fidelity_kid(features, reference, subset_size=subset_size, subsets=20, seed=7)
    found = kid(features, reference, subset_size=subset_size, subsets=20, seed=7)
    assert found.estimate.value == pytest.approx(value, rel=1e-6)
    assert found.subset_std == pytest.approx(std, rel=1e-6, abs=1e-12)


def test_the_defaults_are_torch_fidelitys() -> None:
    features, reference = gaussian(2, 300, 2), gaussian(3, 200, 2)
    value, _ = torch_fidelity_kid(features, reference, subset_size=50)
    assert kid(features, reference, subset_size=50).estimate.value == pytest.approx(value, rel=1e-6)


def test_whole_sets_have_the_estimate_by_its_definition() -> None:
    x, y = gaussian(4, 12, 3), gaussian(5, 12, 3, shift=0.4)

    def kernel(a: Array, b: Array) -> float:
        return float((a @ b / 3 + 1) ** 3)

    pairs = [(i, j) for i in range(12) for j in range(12)]
    within = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs if i != j) / (12 * 11)
    across = sum(kernel(x[i], y[j]) for i, j in pairs) / 12**2
    found = kid(x, y, subset_size=12, subsets=3)
    assert found.estimate.value == pytest.approx(within - 2 * across, rel=1e-10)
    assert found.subset_std == pytest.approx(0, abs=1e-10)


def test_one_distribution_is_at_distance_zero_on_average() -> None:
    values = [kid(gaussian(s, 60), gaussian(s + 999, 60), subset_size=60, subsets=1).estimate.value for s in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(300)


def test_a_set_against_itself_is_nearer_than_any_independent_draw() -> None:
    features = gaussian(6, 200)
    independent = [kid(gaussian(seed, 200), features, subset_size=100).estimate.value for seed in range(100, 120)]
    assert kid(features, features, subset_size=100).estimate.value < min(0.0, *independent)


def test_the_order_of_samples_matters_no_more_than_the_draw_of_subsets() -> None:
    features, reference = gaussian(7, 500, shift=0.3), gaussian(8, 500)
    forward, backward = (kid(each, reference, subset_size=100).estimate for each in (features, features[::-1]))
    assert forward.standard_error is not None
    assert forward.value != backward.value
    assert abs(forward.value - backward.value) < 2 * forward.standard_error


def spread_and_error(n: int, n_reference: int, *, subset_size: int, subsets: int, shift: float) -> tuple[float, float]:
    """The standard deviation of the distance over draws of the samples, and the mean of its stated error."""
    reference = gaussian(10**6, n_reference)
    draws = [gaussian(seed, n, shift=shift) for seed in range(150)]
    found = [
        kid(each, reference, subset_size=subset_size, subsets=subsets, seed=s).estimate for s, each in enumerate(draws)
    ]
    return float(np.std([each.value for each in found])), float(np.mean([each.standard_error or 0 for each in found]))


@pytest.mark.parametrize(
    ("n", "n_reference", "subset_size", "subsets"),
    [(300, 400, 50, 40), (300, 60, 60, 20), (100, 100, 100, 1), (120, 300, 90, 15)],
    ids=["subsets of both", "the reference whole", "both whole", "subsets beyond half"],
)
def test_the_error_is_the_spread_over_repeated_draws(n: int, n_reference: int, subset_size: int, subsets: int) -> None:
    spread, error = spread_and_error(n, n_reference, subset_size=subset_size, subsets=subsets, shift=0.4)
    assert error == pytest.approx(spread, rel=0.15)


def test_the_error_at_distance_zero_is_at_most_too_large_by_the_square_root_of_two() -> None:
    spread, error = spread_and_error(80, 2000, subset_size=80, subsets=20, shift=0)
    assert 0.9 * spread < error < 1.1 * math.sqrt(2) * spread


def test_float32_features_agree_with_their_float64_copies_and_with_torch() -> None:
    features, reference = (gaussian(seed, 100).astype(np.float32) for seed in (9, 10))
    found = kid(features, reference, subset_size=50)
    assert found == kid(features.astype(np.float64), reference.astype(np.float64), subset_size=50)
    assert found == kid(torch.from_numpy(features), torch.from_numpy(reference), subset_size=50)


@pytest.mark.parametrize(("n", "n_reference", "expected"), [(10_000, 5000, 1000), (10_000, 300, 300), (20, 300, 20)])
def test_the_usual_subset_is_a_thousand_or_the_smaller_set(n: int, n_reference: int, expected: int) -> None:
    assert subset_size_for(n, n_reference) == expected


POINTS = gaussian(11, 9, 2)


@pytest.mark.parametrize(
    ("features", "reference", "message"),
    [
        (POINTS[:1], POINTS, r"kid: features have shape \(1, 2\)"),
        (POINTS, POINTS[0], r"kid: reference features have shape \(2,\)"),
        (POINTS * math.nan, POINTS, r"kid: features hold NaN"),
        (POINTS, POINTS * 1e99, r"kid: reference features hold NaN, infinite or huge"),
        (POINTS, gaussian(0, 9, 3), r"kid: reference features have 3 values a point, those compared with 2"),
    ],
)
def test_bad_features_are_refused_by_name(features: Array, reference: Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kid(features, reference, subset_size=5)


@pytest.mark.parametrize(("subset_size", "subsets"), [(1, 5), (8, 5), (3, 0)])
def test_subsets_that_cannot_be_drawn_are_refused(subset_size: int, subsets: int) -> None:
    with pytest.raises(InputError, match=r"9 samples and 7 reference.*1 or more subsets of 2 to 7"):
        kid(POINTS, POINTS[:7], subset_size=subset_size, subsets=subsets)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_agrees_with_the_cpu() -> None:
    features, reference = gaussian(12, 300, shift=0.3), gaussian(13, 300)
    on_cpu, on_cuda = (kid(each, reference, subset_size=99) for each in (features, torch.from_numpy(features).cuda()))
    assert on_cuda.estimate.value == pytest.approx(on_cpu.estimate.value, rel=1e-9)
    assert on_cuda.estimate.standard_error == pytest.approx(on_cpu.estimate.standard_error, rel=1e-9)
