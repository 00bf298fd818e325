import gzip
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import norm

import harness.metrics.parzen as parzen_module
from harness.errors import InputError
from harness.metrics.parzen import (
    SIGMAS,
    Parzen,
    choose_bandwidth,
    log_likelihood,
    parzen,
    parzen_of_members,
)

Array = np.ndarray[Any, Any]


def naive(points: Array, centres: Array, sigmas: list[float]) -> Array:
    """The definition, by differences."""
    n, d = centres.shape
    squared = np.array([((x - centres) ** 2).sum(1) for x in points.astype(np.float64)])
    return np.array(
        [
            logsumexp(-squared / (2 * s**2), axis=1) - math.log(n) - d * (math.log(s) + math.log(2 * math.pi) / 2)
            for s in sigmas
        ]
    )


def assert_equals_naive(points: Array, centres: Array, sigmas: list[float]) -> None:
    expected = naive(points, centres, sigmas)
    computed = log_likelihood(points, centres, sigmas=sigmas).numpy()
    assert (np.abs(computed - expected) <= 1e-9 * np.maximum(1, np.abs(expected))).all()


def random_points(seed: int, *counts: int, d: int) -> list[Array]:
    random = np.random.default_rng(seed)
    return [random.random((count, d)) for count in counts]


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    t=st.integers(1, 12),
    n=st.integers(1, 12),
    d=st.sampled_from([1, 2, 3, 17, 200]),
    spread=st.floats(1e-6, 1e3),
    offset=st.sampled_from([0.0, 1.0, -1e6]),
    apart=st.sampled_from([0.0, 1e-7, 1.0, 1e5]),
    sigmas=st.lists(st.floats(1e-8, 1e2), min_size=1, max_size=3),
    tile=st.tuples(st.integers(1, 5), st.integers(1, 5)),
)
def test_log_likelihood_equals_the_naive_loop(
    seed: int,
    t: int,
    n: int,
    d: int,
    spread: float,
    offset: float,
    apart: float,
    sigmas: list[float],
    tile: tuple[int, int],
) -> None:
    points, centres = (offset + spread * values for values in random_points(seed, t, n, d=d))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parzen_module, "POINTS_PER_TILE", tile[0])
        patch.setattr(parzen_module, "CENTRES_PER_TILE", tile[1])
        assert_equals_naive(points + apart, centres, sigmas)


def test_points_that_are_centres_equal_the_naive_loop() -> None:
    (centres,) = random_points(0, 600, d=784)
    assert_equals_naive(np.concatenate([centres[:50], centres[:50] + 1e-9]), centres, [1e-9, 1e-5, 0.1, 1.0])


def test_equal_values_whose_roundings_add_up_equal_the_naive_loop() -> None:
    points, centres = (np.repeat(values, 3072, axis=1) for values in random_points(1, 40, 300, d=1))
    assert_equals_naive(points, centres, [1e-3, 0.1])


def test_points_so_far_that_every_kernel_underflows_have_finite_log_likelihood() -> None:
    points, centres = random_points(2, 20, 3000, d=784)
    assert np.exp(-(((points[0] + 30 - centres) ** 2).sum(1)) / 0.02).max() == 0
    assert_equals_naive(points + 30, centres, [0.1])


def test_a_nearer_centre_in_a_later_tile_equals_the_naive_loop() -> None:
    points, centres = random_points(3, 5, parzen_module.CENTRES_PER_TILE + 1, d=2)
    assert_equals_naive(points, np.concatenate([centres[:-1] + 50, points[:1]]), [0.1, 1.0])


def test_one_centre_gives_the_normal_density() -> None:
    points, centre = random_points(4, 30, 1, d=3)
    expected = norm.logpdf(points, loc=centre[0], scale=0.3).sum(1)
    np.testing.assert_allclose(log_likelihood(points, centre, sigmas=[0.3])[0].numpy(), expected, rtol=1e-12)


def test_the_estimate_is_the_mean_and_its_standard_error_at_the_chosen_sigma() -> None:
    samples, validation, test = random_points(5, 200, 50, 70, d=4)
    result = parzen(samples, validation, test)
    for estimate in (result.grid, result.refined):
        values = naive(test, samples, [estimate.sigma])[0]
        assert estimate.value == pytest.approx(values.mean(), rel=1e-9)
        assert estimate.standard_error == pytest.approx(values.std() / math.sqrt(70), rel=1e-9)
        expected = naive(validation, samples, [estimate.sigma])[0].mean()
        assert estimate.validation_value == pytest.approx(expected, rel=1e-9)
    assert (result.centres, result.validation, result.test, result.dimension) == (200, 50, 70, 4)


def test_the_grid_sigma_is_the_published_grids_best_on_validation() -> None:
    samples, validation = random_points(6, 300, 60, d=4)
    grid, _ = choose_bandwidth(validation, samples)
    means = naive(validation, samples, list(np.logspace(-1, 0, 10))).mean(1)
    assert grid.sigma == np.logspace(-1, 0, 10)[means.argmax()]
    assert not grid.at_edge


def test_only_the_first_thousand_validation_points_count() -> None:
    samples, validation, test = random_points(7, 40, 1000, 30, d=2)
    assert parzen(samples, np.concatenate([validation, validation + 9]), test) == parzen(samples, validation, test)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(1e-3, 1e3), d=st.integers(1, 5))
def test_the_refined_sigma_is_at_least_as_good_on_validation(seed: int, spread: float, d: int) -> None:
    samples, validation = random_points(seed, 50, 20, d=d)
    grid, refined = choose_bandwidth(spread * validation, spread * samples)
    assert refined.validation_value >= grid.validation_value


def test_a_grid_that_holds_the_very_maximum_is_not_made_worse() -> None:
    grid, refined = choose_bandwidth(np.array([[1.0]]), np.array([[0.0]]), sigmas=[0.4, 1.0, 3.0])
    assert grid.sigma == 1.0
    assert refined.validation_value >= grid.validation_value
    assert refined.sigma == pytest.approx(1.0, abs=1e-3)


def test_the_refined_sigma_is_the_maximum_between_the_grids_neighbours() -> None:
    samples, validation = random_points(8, 300, 60, d=4)
    _, refined = choose_bandwidth(validation, samples)
    finer = list(np.logspace(-1, 0, 2001))
    means = naive(validation, samples, finer).mean(1)
    assert refined.sigma == pytest.approx(finer[int(means.argmax())], rel=2e-3)
    assert refined.validation_value >= means.max() - 1e-6
    assert not refined.at_edge


def test_a_best_sigma_beyond_the_grid_flags_the_grid_and_is_found_by_the_refinement() -> None:
    samples, validation = random_points(9, 300, 60, d=2)
    for scale, edge in ((0.5, 0.1), (20.0, 1.0)):
        grid, refined = choose_bandwidth(scale * validation, scale * samples)
        assert (grid.sigma, grid.at_edge, refined.at_edge) == (edge, True, False)
        assert refined.validation_value > grid.validation_value


def test_validation_points_among_the_samples_flag_the_refined_sigma_too() -> None:
    (samples,) = random_points(10, 100, d=20)
    grid, refined = choose_bandwidth(samples[:30], samples)
    assert grid.at_edge and refined.at_edge
    assert refined.sigma == pytest.approx(SIGMAS[0] / 10, rel=2e-3)


def test_the_order_of_samples_and_of_points_does_not_matter() -> None:
    samples, validation, test = random_points(11, 3000, 50, 60, d=5)
    result, reversed_result = parzen(samples, validation, test), parzen(samples[::-1], validation[::-1], test[::-1])
    assert reversed_result.grid.value == pytest.approx(result.grid.value, rel=1e-12)
    assert reversed_result.refined.value == pytest.approx(result.refined.value, rel=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8])
def test_a_narrower_type_gives_the_same_as_its_float64_copy(dtype: torch.dtype) -> None:
    samples, validation, test = ((torch.rand(n, 6) * 2).to(dtype) for n in (80, 30, 40))
    assert parzen(samples, validation, test) == parzen(samples.double(), validation.double(), test.double())


def test_numpy_and_torch_inputs_agree_and_are_left_as_they_were() -> None:
    samples, validation, test = random_points(12, 80, 30, 40, d=6)
    copies = [torch.tensor(array, requires_grad=True) for array in (samples, validation, test)]
    samples.setflags(write=False)
    assert parzen(samples, validation, test) == parzen(copies[0], copies[1], copies[2])
    for copy, array in zip(copies, random_points(12, 80, 30, 40, d=6), strict=True):
        assert (copy.detach().numpy() == array).all()


@pytest.mark.parametrize("count", [2, 3, 50])  # of 50, some have no test point
def test_processes_that_share_the_points_agree_with_one_alone(
    in_threads: Callable[..., list[Parzen]], count: int
) -> None:
    samples, validation, test = random_points(13, 100, 51, 40, d=3)
    alone = parzen(samples, validation, test)
    shared = in_threads(count, lambda processes: parzen(samples, validation, test, processes=processes))
    assert all(result == shared[0] for result in shared)
    assert shared[0].grid.value == pytest.approx(alone.grid.value, rel=1e-12)
    assert shared[0].grid.validation_value == pytest.approx(alone.grid.validation_value, rel=1e-12)
    assert shared[0].grid.standard_error == pytest.approx(alone.grid.standard_error, rel=1e-12)
    assert shared[0].refined.value == pytest.approx(alone.refined.value, rel=1e-8)


def pack(monkeypatch: pytest.MonkeyPatch, together: int) -> None:
    """Let that many members share a pass, as they do on a GPU."""
    monkeypatch.setattr(parzen_module, "_members_in_a_pass", lambda *_: together)


def members_points(seed: int, members: int, *counts: int, d: int) -> tuple[Array, list[Array]]:
    """Samples of members (m, n, d) that differ in place and spread, and shared points."""
    samples, *points = random_points(seed, members * counts[0], *counts[1:], d=d)
    places = np.arange(members)[:, None, None]
    return samples.reshape(members, counts[0], d) * (1 + 0.3 * places) + 0.1 * places, points


@pytest.mark.parametrize("together", [1, 2, 5])
def test_each_member_of_a_batch_has_its_own_naive_estimate(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(monkeypatch, together)
    samples, (validation, test) = members_points(15, 5, 60, 40, 50, d=4)
    for own, result in zip(samples, parzen_of_members(samples, validation, test), strict=True):
        assert result.grid.sigma == choose_bandwidth(validation, own)[0].sigma
        assert result.refined.sigma == pytest.approx(choose_bandwidth(validation, own)[1].sigma, rel=1e-6)
        for estimate in (result.grid, result.refined):
            values = naive(test, own, [estimate.sigma])[0]
            assert estimate.value == pytest.approx(values.mean(), rel=1e-9)
            assert estimate.standard_error == pytest.approx(values.std() / math.sqrt(50), rel=1e-9)


def test_points_on_one_members_centres_are_exact_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    pack(monkeypatch, 3)
    samples, (validation,) = members_points(16, 3, 30, 20, d=784)
    test = samples[1, :10] + 1e-9
    for own, result in zip(samples, parzen_of_members(samples, validation, test, sigmas=[1e-9, 1.0]), strict=True):
        expected = naive(test, own, [result.grid.sigma])[0].mean()
        assert result.grid.value == pytest.approx(expected, rel=1e-9)


def test_a_replaced_member_changes_no_bit_of_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    pack(monkeypatch, 3)
    samples, (validation, test) = members_points(17, 3, 60, 40, 50, d=20)
    before = parzen_of_members(samples, validation, test)
    samples[1] = 1e3 * samples[1] + 50
    after = parzen_of_members(samples, validation, test)
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] != before[1]


def test_members_share_a_pass_on_a_gpu_as_far_as_a_tile_holds_their_distances() -> None:
    cuda, tile = torch.device("cuda"), parzen_module.POINTS_PER_TILE * parzen_module.CENTRES_PER_TILE
    in_a_pass = parzen_module._members_in_a_pass
    assert in_a_pass(360, 1000, cuda) == tile // 360_000 > 8
    assert in_a_pass(10_000, 10_000, cuda) == 1
    assert in_a_pass(360, 1000, torch.device("cpu")) == 1


def test_processes_share_the_points_of_many_members(
    in_threads: Callable[..., list[list[Parzen]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(monkeypatch, 2)
    samples, (validation, test) = members_points(18, 3, 50, 21, 10, d=3)
    alone = parzen_of_members(samples, validation, test)
    ranks = in_threads(12, lambda share: parzen_of_members(samples, validation, test, processes=share))
    assert all(results == ranks[0] for results in ranks)
    for one, many in zip(alone, ranks[0], strict=True):
        assert many.grid.value == pytest.approx(one.grid.value, rel=1e-12)
        assert many.refined.value == pytest.approx(one.refined.value, rel=1e-8)


@pytest.mark.parametrize("shape", [(5, 2), (0, 5, 2), (3, 0, 2)])
def test_samples_without_members_or_without_points_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"centres have shape.*\(members, count, d\)"):
        parzen_of_members(np.zeros(shape), POINT, POINT)


NAN = np.array([[0.0, math.nan]])
POINT = np.zeros((1, 2))


@pytest.mark.parametrize(
    ("samples", "validation", "test", "message"),
    [
        (np.empty((0, 2)), POINT, POINT, r"centres have shape \(0, 2\)"),
        (POINT, np.empty((0, 2)), POINT, r"validation have shape"),
        (POINT, POINT, np.zeros((3, 1, 2, 1)), r"test have shape \(3, 1, 2, 1\).*flattened"),
        (POINT, POINT, np.zeros((1, 3)), r"test have 3 values a point, those compared with 2"),
        (NAN, POINT, POINT, r"centres hold NaN"),
        (POINT, NAN, POINT, r"validation hold NaN"),
        (POINT, POINT, np.full((1, 2), math.inf), r"test hold NaN"),
        (POINT, POINT, POINT + 1e200, r"test hold NaN, infinite or huge"),
        (np.array([["a", "b"]]), POINT, POINT, r"centres are of type"),
        (torch.zeros(1, 2, dtype=torch.complex64), POINT, POINT, r"centres are of type"),
    ],
)
def test_bad_arrays_are_refused_by_name(samples: Array, validation: Array, test: Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parzen(samples, validation, test)


@pytest.mark.parametrize("sigmas", [[], [0.0], [-1.0], [math.nan], [0.1, math.inf], [1e-300]])
def test_bad_sigmas_are_refused(sigmas: list[float]) -> None:
    with pytest.raises(InputError, match="sigmas"):
        parzen(POINT, POINT, POINT, sigmas=sigmas)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_members_together_on_a_cuda_device_agree_with_the_cpu() -> None:
    samples, (validation, test) = members_points(19, 20, 700, 100, 300, d=50)
    on_cpu, on_cuda = (parzen_of_members(samples, validation, test, device=device) for device in ("cpu", "cuda"))
    for cpu, cuda in zip(on_cpu, on_cuda, strict=True):
        assert cuda.grid.value == pytest.approx(cpu.grid.value, rel=1e-11)
        assert cuda.refined.value == pytest.approx(cpu.refined.value, rel=1e-8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_agrees_with_the_cpu() -> None:
    samples, validation, test = random_points(14, 3000, 100, 700, d=50)
    on_cpu, on_cuda = parzen(samples, validation, test), parzen(samples, validation, test, device="cuda")
    assert on_cuda.grid.value == pytest.approx(on_cpu.grid.value, rel=1e-11)
    assert on_cuda.refined.value == pytest.approx(on_cpu.refined.value, rel=1e-8)


def mnist(file: Path) -> Array:
    with gzip.open(file) as stream:
        return np.frombuffer(stream.read(), np.uint8, offset=16).reshape(-1, 784) / np.float32(255)


@pytest.mark.slow
def test_training_images_as_samples_give_the_measured_anchor_on_mnist() -> None:
    folder = Path(os.environ.get("HARNESS_DATA", ""), "MNIST", "raw")
    if not (folder / "train-images-idx3-ubyte.gz").exists():
        pytest.skip("needs MNIST: set HARNESS_DATA to the folder that holds MNIST/raw")
    training, test = mnist(folder / "train-images-idx3-ubyte.gz"), mnist(folder / "t10k-images-idx3-ubyte.gz")
    samples = training[np.random.default_rng(0).choice(50_000, 10_000, replace=False)]
    result = parzen(samples, training[50_000:], test)
    assert 240.5 < result.grid.value < 244.7
    assert result.grid.sigma == pytest.approx(0.167, abs=5e-4)
    assert result.refined.sigma == pytest.approx(0.175, abs=2e-3)
    assert 242.5 < result.refined.value < 246.5
    assert not result.grid.sigma_at_edge and not result.refined.sigma_at_edge
