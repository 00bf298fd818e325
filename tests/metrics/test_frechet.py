import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

import harness.metrics.frechet as frechet_module
from harness.errors import InputError
from harness.metrics.estimate import Estimate
from harness.metrics.frechet import Moments, fid, fid_infinity, frechet_distance, moments, reference

Array = np.ndarray[Any, Any]


def correlated(seed: int, n: int, d: int, *, scale: float = 1.0, shift: float = 0.0) -> Array:
    """Gaussian points whose distribution depends on d alone, but for scale and shift."""
    mixing = np.random.default_rng(d).standard_normal((d, d)) * np.linspace(0.2, 2, d)
    return np.random.default_rng(seed).standard_normal((n, d)) @ mixing * scale + shift


def distance(features: Array, reference_features: Array) -> float:
    return frechet_distance(moments(features), reference(moments(reference_features)))


def torch_fidelity_distance(features: Array, reference_features: Array) -> float:
    statistics = [fid_features_to_statistics(torch.from_numpy(each)) for each in (features, reference_features)]
    return float(fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"])


@pytest.mark.parametrize(("n", "n_reference", "d"), [(300, 500, 2), (100, 90, 64), (1000, 400, 200)])
def test_the_distance_equals_torch_fidelitys(n: int, n_reference: int, d: int) -> None:
    features, others = correlated(0, n, d, scale=1.1, shift=0.2), correlated(1, n_reference, d)
    expected = torch_fidelity_distance(features, others)
    assert distance(features, others) == pytest.approx(expected, rel=1e-6)
    assert fid(features, reference(moments(others))).value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "n_reference"), [(30, 50), (30, 400), (400, 30)])
def test_fewer_samples_than_dimensions_equal_torch_fidelity(n: int, n_reference: int) -> None:
    features, others = correlated(2, n, 100, shift=0.2), correlated(3, n_reference, 100)
    expected = torch_fidelity_distance(features, others)
    assert distance(features, others) == pytest.approx(expected, rel=1e-6)
    assert fid(features, reference(moments(others))).value == pytest.approx(expected, rel=1e-6)


def test_fewer_samples_than_dimensions_have_the_singular_values_of_their_points() -> None:
    features, others = correlated(31, 30, 100), correlated(32, 400, 100)
    root = np.linalg.cholesky(np.cov(others, rowvar=False))
    root_trace = np.linalg.svd((features - features.mean(0)) @ root / math.sqrt(29), compute_uv=False).sum()
    traces = features.var(0, ddof=1).sum() + others.var(0, ddof=1).sum()
    expected = ((features.mean(0) - others.mean(0)) ** 2).sum() + traces - 2 * root_trace
    assert distance(features, others) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("constant_in", ["both", "features", "reference"])
def test_constant_columns_equal_torch_fidelity(constant_in: str) -> None:
    features, others = correlated(4, 200, 40), correlated(5, 300, 40, scale=1.2)
    if constant_in != "reference":
        features[:, 7:20] = 0.3
    if constant_in != "features":
        others[:, 7:20] = 0.5
    expected = torch_fidelity_distance(features, others)
    assert distance(features, others) == pytest.approx(expected, rel=1e-6)
    assert fid(features, reference(moments(others))).value == pytest.approx(expected, rel=1e-6)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), d=st.integers(1, 8), scale=st.floats(0, 1e3), shift=st.floats(-1e3, 1e3))
def test_scaled_and_shifted_features_have_the_closed_form(seed: int, d: int, scale: float, shift: float) -> None:
    features = np.random.default_rng(seed).standard_normal((30, d))
    total_variance = features.var(0, ddof=1).sum()
    expected = ((features.mean(0) * (scale - 1) + shift) ** 2).sum() + (scale - 1) ** 2 * total_variance
    tolerance = 1e-12 * (1 + scale**2 + shift**2) * 30 * d
    assert distance(features * scale + shift, features) == pytest.approx(expected, rel=1e-9, abs=tolerance)


def test_gaussians_that_do_not_commute_have_the_closed_form() -> None:
    # In two dimensions tr (M)^(1/2) = sqrt(tr M + 2 sqrt(det M)), of the product of the covariances too.
    one, other = np.array([[2.0, 0.9], [0.9, 0.5]]), np.array([[1.0, -0.3], [-0.3, 3.0]])
    product = one @ other
    root_trace = math.sqrt(np.trace(product) + 2 * math.sqrt(np.linalg.det(product)))
    gaussians = [Moments(torch.tensor([m, 0.0]).double(), torch.tensor(c), 9) for m, c in ((3, one), (1, other))]
    expected = 4 + np.trace(one) + np.trace(other) - 2 * root_trace
    assert frechet_distance(gaussians[0], reference(gaussians[1])) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(200, 30), (20, 60)])
def test_a_set_is_at_distance_zero_from_itself(n: int, d: int) -> None:
    features = correlated(6, n, d)
    assert 0 <= distance(features, features) <= 1e-10 * features.var(0).sum()


def test_collapsed_features_lie_at_the_references_spread() -> None:
    others = correlated(7, 300, 10)
    collapsed = np.tile(others.mean(0), (50, 1))
    assert distance(collapsed, others) == pytest.approx(others.var(0, ddof=1).sum(), rel=1e-9)
    assert fid(collapsed, reference(moments(others))).standard_error == pytest.approx(0, abs=1e-9)


def test_a_reference_without_variance_leaves_means_and_spread() -> None:
    features, constant = correlated(8, 300, 5), np.full((20, 5), 0.25)
    expected = ((features.mean(0) - 0.25) ** 2).sum() + features.var(0, ddof=1).sum()
    assert distance(features, constant) == pytest.approx(expected, rel=1e-9)
    assert fid(features, reference(moments(constant))).value == pytest.approx(expected, rel=1e-9)


def test_moments_far_from_the_origin_do_not_cancel() -> None:
    features = correlated(9, 500, 6)
    far = moments(features + 1e6)
    np.testing.assert_allclose(far.covariance.numpy(), np.cov(features, rowvar=False), rtol=1e-7, atol=1e-7)


def test_moments_are_those_of_numpy_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    features = correlated(10, 101, 6)
    for size in (1, 7, 1000):
        monkeypatch.setattr(frechet_module, "ROWS_PER_BLOCK", size)
        computed = moments(features)
        np.testing.assert_allclose(computed.mean.numpy(), features.mean(0), rtol=1e-12)
        np.testing.assert_allclose(computed.covariance.numpy(), np.cov(features, rowvar=False), rtol=1e-11, atol=1e-13)


def test_the_root_gives_the_covariance_back_in_as_many_columns_as_its_rank() -> None:
    features = correlated(11, 40, 60)
    prepared = reference(moments(features))
    assert prepared.root.shape == (60, 39)
    np.testing.assert_allclose(
        (prepared.root @ prepared.root.T).numpy(), np.cov(features, rowvar=False), rtol=1e-9, atol=1e-9
    )


def test_the_order_of_samples_does_not_matter() -> None:
    features, prepared = correlated(12, 300, 20), reference(moments(correlated(13, 400, 20, scale=1.3)))
    forward, backward = fid(features, prepared), fid(features[::-1], prepared)
    assert backward.value == pytest.approx(forward.value, rel=1e-11)
    assert backward.standard_error == pytest.approx(forward.standard_error, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
def test_a_narrower_type_gives_the_same_as_its_float64_copy(dtype: torch.dtype) -> None:
    features = torch.from_numpy(correlated(14, 100, 8) * 20 + 100).clamp(0, 255).to(dtype)
    prepared = reference(moments(correlated(15, 100, 8)))
    assert fid(features, prepared) == fid(features.double(), prepared) == fid(features.numpy(), prepared)


def standard_deviation(values: list[float]) -> float:
    return float(np.std(values, ddof=1))


@pytest.mark.parametrize(("n", "d"), [(400, 4), (1000, 20)])
def test_the_error_is_the_spread_over_repeated_draws(n: int, d: int) -> None:
    prepared = reference(moments(correlated(16, 2000, d)))
    estimates = [fid(correlated(seed, n, d, scale=1.2, shift=0.5), prepared) for seed in range(400)]
    spread = standard_deviation([each.value for each in estimates])
    errors = [each.standard_error or math.nan for each in estimates]
    assert np.mean(errors) == pytest.approx(spread, rel=0.15)


def test_the_error_is_that_of_a_bootstrap_where_directions_have_no_variance() -> None:
    features, others = correlated(17, 600, 6, shift=0.5), correlated(18, 800, 6, scale=1.3)
    features[:, 2], others[:, 4] = 1.0, 1.0
    prepared, random = reference(moments(others)), np.random.default_rng(0)
    resampled = [frechet_distance(moments(features[random.integers(600, size=600)]), prepared) for _ in range(400)]
    assert fid(features, prepared).standard_error == pytest.approx(standard_deviation(resampled), rel=0.15)


def test_the_error_is_the_distances_derivative_by_the_weight_of_each_sample() -> None:
    features, prepared = correlated(19, 60, 3, shift=0.4), reference(moments(correlated(20, 90, 3)))

    def weighted(weights: Array) -> float:
        shares = weights / weights.sum()
        mean = shares @ features
        covariance = (features - mean).T @ np.diag(shares) @ (features - mean) * 60 / 59
        return frechet_distance(Moments(torch.from_numpy(mean), torch.from_numpy(covariance), 60), prepared)

    step = 1e-5
    changes = np.array([weighted(1 + step * row) - weighted(1 - step * row) for row in np.eye(60)]) / (2 * step)
    # ddof: the covariance's factor n / (n - 1) stands in the derivative too, which the error leaves out.
    assert fid(features, prepared).standard_error == pytest.approx(math.sqrt((changes**2).sum()), rel=0.02)


@pytest.mark.parametrize("count", [2, 3, 40])  # of 40, some have no sample
def test_processes_that_share_the_samples_agree_with_one_alone(
    in_threads: Callable[..., list[Estimate]], count: int
) -> None:
    features, prepared = correlated(21, 35, 5), reference(moments(correlated(22, 200, 5)))
    alone = fid(features, prepared)
    shared = in_threads(count, lambda processes: fid(features, prepared, processes=processes))
    assert all(result == shared[0] for result in shared)
    assert shared[0].value == pytest.approx(alone.value, rel=1e-9)
    assert shared[0].standard_error == pytest.approx(alone.standard_error, rel=1e-9)


def test_infinity_is_the_line_through_distances_at_fifteen_sizes() -> None:
    features, prepared = correlated(23, 5000, 3), reference(moments(correlated(24, 5000, 3, scale=1.2)))
    estimate = fid_infinity(features, prepared, seed=5, replicates=2)
    random = np.random.RandomState(5)
    counts = [round(2500 + 2500 * step / 14) for step in range(15)]
    distances = [frechet_distance(moments(features[random.permutation(5000)[:n]]), prepared) for n in counts]
    _, intercept = np.polyfit(1 / np.array(counts), distances, 1)
    assert estimate.value == pytest.approx(intercept, rel=1e-9)


def test_infinity_takes_the_bias_away() -> None:
    truth = Moments(torch.zeros(30).double(), torch.eye(30).double(), 10**9)  # the distribution itself
    features = [np.random.default_rng(seed).standard_normal((5000, 30)) for seed in range(8)]
    biased = [fid(each, reference(truth)).value for each in features]
    extrapolated = [fid_infinity(each, reference(truth), replicates=2).value for each in features]
    assert abs(np.mean(extrapolated)) < 0.25 * np.mean(biased)


def test_infinitys_error_is_the_spread_over_repeated_draws() -> None:
    prepared = reference(moments(correlated(25, 5000, 4)))
    draws = [correlated(seed, 5000, 4, scale=1.2, shift=0.5) for seed in range(80)]
    values = [fid_infinity(each, prepared, seed=seed, replicates=2).value for seed, each in enumerate(draws)]
    errors = [fid_infinity(each, prepared).standard_error or math.nan for each in draws[:6]]
    assert math.sqrt(np.mean(np.square(errors))) == pytest.approx(standard_deviation(values), rel=0.2)


def test_infinity_is_a_function_of_its_seed() -> None:
    features, prepared = correlated(26, 5000, 2), reference(moments(correlated(27, 100, 2)))
    one, same, other = (fid_infinity(features, prepared, seed=seed, replicates=3) for seed in (1, 1, 2))
    assert one == same
    assert one.value != other.value and one.standard_error != other.standard_error


POINTS = correlated(28, 9, 2)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (POINTS[:1], r"fid: features have shape \(1, 2\); give at least 2"),
        (POINTS[:, :0], r"fid: features have shape \(9, 0\)"),
        (POINTS.reshape(9, 1, 2), r"have shape \(9, 1, 2\)"),
        (np.where(POINTS[3, 1] == POINTS, math.nan, POINTS), r"hold NaN"),
        (POINTS * 1e200, r"hold NaN, infinite or huge"),
        (POINTS.astype(str), r"are of type <U"),
        (torch.from_numpy(POINTS).cfloat(), r"are of type torch.complex64"),
        (correlated(0, 9, 3), r"have 3 values a point, the reference 2"),
    ],
)
def test_bad_features_are_refused(features: Array | Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fid(features, reference(moments(POINTS)))


def test_moments_of_another_width_are_refused() -> None:
    with pytest.raises(InputError, match="3 values a point, the reference 2"):
        frechet_distance(moments(correlated(0, 9, 3)), reference(moments(POINTS)))


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (4999, {}, "4999 samples are too few for the fit; give 5000"),
        (5000, {"sizes": 1}, "sizes"),
        (5000, {"replicates": 1}, "replicates"),
    ],
)
def test_infinity_of_too_little_is_refused(n: int, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fid_infinity(correlated(0, n, 2), reference(moments(POINTS)), **options)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_agrees_with_the_cpu() -> None:
    features, prepared = correlated(29, 1000, 50), reference(moments(correlated(30, 1000, 50, scale=1.2)))
    on_cpu, on_cuda = fid(features, prepared), fid(torch.from_numpy(features).cuda(), prepared)
    assert on_cuda.value == pytest.approx(on_cpu.value, rel=1e-9)
    assert on_cuda.standard_error == pytest.approx(on_cpu.standard_error, rel=1e-9)
