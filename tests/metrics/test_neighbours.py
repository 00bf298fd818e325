import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch_fidelity.metric_prc import prc_features_to_metric

import harness.metrics.neighbours as neighbours_module
from harness.errors import InputError
from harness.metrics.neighbours import Manifold, Neighbourhoods, manifold, nearest_squared_distances, neighbourhoods


def features(seed: int, n: int, d: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def between(points: Tensor, others: Tensor) -> Tensor:
    """Squared distances by the definition."""
    return torch.stack([(point - others.double()).square().sum(1) for point in points.double()])


def naive(samples: Tensor, reference: Tensor, k: tuple[int, int] = (3, 5)) -> dict[str, Tensor]:
    """The values whose means the four metrics are."""
    own, of_reference, across = between(samples, samples), between(reference, reference), between(samples, reference)
    radii = [of_reference.sort(1).values[:, rank] for rank in k]
    sample_radii = own.sort(1).values[:, k[0], None]
    return {
        "precision": (across <= radii[0]).any(1).double(),
        "recall": (across <= sample_radii).any(0).double(),
        "density": (across <= radii[1]).sum(1).double() / k[1],
        "coverage": (across <= radii[1]).any(0).double(),
    }


def assert_equals_naive(samples: Tensor, reference: Tensor, k: tuple[int, int] = (3, 5)) -> Neighbourhoods:
    result = neighbourhoods(samples, manifold(reference, k=k))
    for name, values in naive(samples, reference, k).items():
        estimate = getattr(result, name)
        assert estimate.value == pytest.approx(float(values.mean()), rel=1e-12, abs=0), name
        error = float(values.std(correction=0)) / math.sqrt(len(values))
        assert estimate.standard_error == pytest.approx(error, rel=1e-9, abs=1e-12), name
    return result


@pytest.fixture(params=["float32 products", "float64 products"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to the same result."""
    if request.param == "float64 products":
        monkeypatch.setattr(neighbours_module, "LARGEST_FLOAT32_SQUARE", -1.0)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize(("n", "n_reference", "d"), [(300, 200, 2), (150, 400, 64), (260, 260, 700)])
def test_precision_and_recall_equal_torch_fidelitys(n: int, n_reference: int, d: int) -> None:
    plane = features(99, 6, d) if d > 6 else torch.eye(d, dtype=torch.float64)
    samples, reference = 0.9 * features(0, n, len(plane)) @ plane, features(1, n_reference, len(plane)) @ plane
    samples[10:20], reference[30:33] = samples[5], reference[3]  # copies inside a set
    theirs = prc_features_to_metric(samples, reference, prc_neighborhood=3, save_cpu_ram=False, verbose=False)
    ours = neighbourhoods(samples, manifold(reference))
    assert 0.3 < ours.precision.value < 1
    assert 0.3 < ours.recall.value < 1
    assert ours.precision.value == pytest.approx(theirs["precision"], rel=1e-6)
    assert ours.recall.value == pytest.approx(theirs["recall"], rel=1e-6)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("d", [1, 3, 40, 513])
@pytest.mark.parametrize("scale", [0.3, 1.0, 1.3])
def test_all_four_equal_their_definitions(d: int, scale: float) -> None:
    assert_equals_naive(scale * features(2, 90, d), features(3, 120, d))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(4, 20),
    n_reference=st.integers(6, 20),
    d=st.integers(1, 4),
    values=st.integers(1, 6),
    offset=st.sampled_from([0, 100, -100_000]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.int32]),
    tile=st.sampled_from([2, 5, 30]),
)
def test_ties_and_copies_on_a_lattice_equal_the_definitions(
    seed: int, n: int, n_reference: int, d: int, values: int, offset: int, dtype: torch.dtype, tile: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    samples, reference = (
        (torch.randint(values, (count, d), generator=generator) + offset).to(dtype) for count in (n, n_reference)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours_module, "POINTS_PER_TILE", tile)
        assert_equals_naive(samples, reference)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    modes=st.integers(1, 4),
    spread=st.sampled_from([0.0, 1e-12, 1e-7, 1e-4, 1e-2]),
    offset=st.sampled_from([0.0, 1e3, 1e8]),
    scale=st.sampled_from([1e-40, 1.0, 1e30]),
    tile=st.sampled_from([3, 100]),
)
@example(seed=0, modes=1, spread=1e-12, offset=1e3, scale=1e30, tile=3)
def test_modes_too_tight_for_the_products_equal_the_definitions(
    seed: int, modes: int, spread: float, offset: float, scale: float, tile: int
) -> None:
    centres, noise = features(seed, modes, 16), features(seed + 1, 60, 16)
    points = scale * (centres[torch.arange(60) % modes] + spread * noise + offset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours_module, "POINTS_PER_TILE", tile)
        assert_equals_naive(points[:30], points[30:])
        assert_equals_naive(points[:30], torch.cat([points[:5], points[30:]]))


@pytest.mark.usefixtures("products")
def test_copies_of_the_reference_lie_inside_their_balls_and_on_the_border_of_others() -> None:
    reference = features(4, 300, 500, dtype=torch.float32) + 7
    result = neighbourhoods(reference.clone(), manifold(reference))
    assert (result.precision.value, result.recall.value, result.coverage.value) == (1, 1, 1)
    # Every ball holds its centre and, on its border, the fifth neighbour: 6 of the copies.
    assert result.density.value == pytest.approx(6 / 5, rel=1e-12)


def test_collapsed_samples_have_high_precision_and_low_recall_and_coverage() -> None:
    reference = features(5, 400, 10)
    samples = reference[:3].repeat_interleave(100, dim=0) + 1e-3 * features(6, 300, 10)
    result = neighbourhoods(samples, manifold(reference))
    assert result.precision.value == 1
    assert result.recall.value < 0.05
    assert result.coverage.value < 0.2


def test_samples_far_from_the_reference_have_none() -> None:
    result = neighbourhoods(features(7, 50, 5) + 100, manifold(features(8, 60, 5)))
    assert (result.precision.value, result.recall.value, result.density.value, result.coverage.value) == (0, 0, 0, 0)
    assert result.precision.standard_error == 0


def test_each_error_says_over_what_it_is() -> None:
    result = neighbourhoods(features(9, 50, 3), manifold(features(10, 60, 3)))
    for over_samples in (result.precision, result.density):
        assert over_samples.error == "over samples, the reference's balls fixed"
    for over_reference in (result.recall, result.coverage):
        assert over_reference.error == "over reference images, the samples' balls fixed"


def test_standard_errors_cover_repeated_draws_of_samples() -> None:
    reference = manifold(features(11, 200, 4))
    results = [neighbourhoods(features(100 + seed, 200, 4), reference) for seed in range(150)]
    for name in ("precision", "density"):
        estimates = [getattr(result, name) for result in results]
        spread = np.std([estimate.value for estimate in estimates])
        assert np.mean([estimate.standard_error for estimate in estimates]) == pytest.approx(spread, rel=0.2)


def test_the_order_of_samples_and_of_the_reference_does_not_matter() -> None:
    samples, reference = features(12, 150, 30), features(13, 130, 30)
    straight, reversed_ = (
        neighbourhoods(samples, manifold(reference)),
        neighbourhoods(samples.flip(0), manifold(reference.flip(0))),
    )
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(reversed_, name).value == getattr(straight, name).value


@pytest.mark.parametrize("points_per_tile", [7, 64, 10_000])
def test_the_sizes_of_tiles_change_no_bit(points_per_tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    samples, reference = features(14, 90, 40, dtype=torch.float32), features(15, 80, 40, dtype=torch.float32)
    samples[:20] = reference[:20]
    expected = manifold(reference)
    result = neighbourhoods(samples, expected)
    monkeypatch.setattr(neighbours_module, "POINTS_PER_TILE", points_per_tile)
    monkeypatch.setattr(neighbours_module, "VALUES_PER_BATCH", 40 * points_per_tile)
    again = manifold(reference)
    assert torch.equal(again.squared_radii, expected.squared_radii)
    assert neighbourhoods(samples, again) == result


def test_radii_are_the_squared_distances_to_the_neighbours_of_those_ranks() -> None:
    points = features(16, 70, 20)
    balls = manifold(points, k=(2, 9))
    ascending = between(points, points).sort(1).values
    assert torch.allclose(balls.squared_radii, ascending[:, [2, 9]].T, rtol=1e-14, atol=0)


def test_a_larger_k_for_precision_than_for_density_equals_the_definitions() -> None:
    assert_equals_naive(features(17, 60, 3), features(18, 50, 3), k=(7, 2))
    assert_equals_naive(features(17, 60, 3), features(18, 50, 3), k=(1, 1))


def test_the_fewest_points_give_balls_that_reach_all_others() -> None:
    points = features(19, 6, 2)
    assert torch.allclose(manifold(points).squared_radii[1], between(points, points).amax(1))


def test_a_manifold_rebuilt_from_its_tensors_gives_the_same() -> None:
    samples, original = features(20, 50, 6), manifold(features(21, 60, 6))
    rebuilt = Manifold(original.features.clone(), original.k, original.squared_radii.clone())
    assert neighbourhoods(samples, rebuilt) == neighbourhoods(samples, original)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.uint8, torch.int64])
def test_a_narrower_type_gives_the_same_as_its_float64_copy(dtype: torch.dtype) -> None:
    samples, reference = ((20 * features(seed, 60, 5).abs()).to(dtype) for seed in (22, 23))
    assert neighbourhoods(samples, manifold(reference)) == neighbourhoods(
        samples.double(), manifold(reference.double())
    )


def test_numpy_and_torch_features_agree_and_are_left_as_they_were() -> None:
    samples, reference = features(24, 60, 5, dtype=torch.float32), features(25, 60, 5, dtype=torch.float32)
    arrays = [tensor.numpy().copy() for tensor in (samples, reference)]
    for array in arrays:
        array.setflags(write=False)
    result = neighbourhoods(samples.clone().requires_grad_(), manifold(reference))
    assert neighbourhoods(arrays[0], manifold(arrays[1])) == result
    assert (samples.numpy() == arrays[0]).all() and (reference.numpy() == arrays[1]).all()


@pytest.fixture
def short_products() -> Iterator[None]:
    """A CPU that may shorten float32 products."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("short_products")
def test_shortened_float32_products_are_never_used(monkeypatch: pytest.MonkeyPatch) -> None:
    types = product_types(monkeypatch)
    neighbourhoods(features(26, 40, 30, dtype=torch.float32), manifold(features(27, 40, 30, dtype=torch.float32)))
    assert types == {torch.float64}


def test_products_are_float32_otherwise_even_where_autocast_shortens_others(monkeypatch: pytest.MonkeyPatch) -> None:
    types = product_types(monkeypatch)
    samples, reference = features(28, 40, 30, dtype=torch.float32), features(29, 40, 30, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        result = neighbourhoods(samples, manifold(reference))
    assert torch.float32 in types and torch.bfloat16 not in types
    assert result == neighbourhoods(samples, manifold(reference))


def product_types(monkeypatch: pytest.MonkeyPatch) -> set[torch.dtype]:
    """The types of the matrix products from here on."""
    types = set()
    original = torch.addmm

    def recorded(*arguments: Any, out: Tensor, **options: Any) -> Tensor:
        types.add(out.dtype)
        return original(*arguments, out=out, **options)

    monkeypatch.setattr(torch, "addmm", recorded)
    return types


class Largest(TorchDispatchMode):
    """Notes the most bytes of any tensor made in it."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return result


@pytest.mark.parametrize("spread", [1e-9, 1e-3, 1.0])  # of ten modes: the tight ones leave comparisons open
def test_no_tensor_is_larger_than_a_tile_in_float64_or_some_values_a_point(
    spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours_module, "POINTS_PER_TILE", 50)
    monkeypatch.setattr(neighbours_module, "VALUES_PER_BATCH", 50 * 50)
    n, d = 500, 8
    points = features(30, 10, d)[torch.arange(n) % 10] + spread * features(31, n, d)
    with Largest() as largest:
        neighbourhoods(points + spread, manifold(points))
    a_tile, own = 50 * 50 * 8, n * (5 + neighbours_module.SPARE_NEIGHBOURS) * 16
    assert largest.bytes <= max(a_tile, own) < n * n  # a byte a pair


@pytest.mark.usefixtures("products")
def test_nearest_squared_distances_equal_the_definition() -> None:
    points, others = features(32, 70, 50), features(33, 90, 50)
    points[:10] = others[40:50]
    nearest = nearest_squared_distances(points, others)
    assert torch.allclose(nearest, between(points, others).amin(1), rtol=1e-14, atol=0)
    assert (nearest[:10] == 0).all()
    assert torch.allclose(nearest_squared_distances(points, others[:1]), between(points, others[:1])[:, 0])


GOOD = torch.arange(20.0).view(10, 2)


@pytest.mark.parametrize(
    ("samples", "reference", "message"),
    [
        (GOOD[:3], GOOD, r"samples have shape \(3, 2\); give at least 4"),
        (GOOD, GOOD[:5], r"features have shape \(5, 2\); give at least 6"),
        (GOOD[:0], GOOD, r"samples have shape \(0, 2\)"),
        (GOOD, GOOD[None], r"features have shape \(1, 10, 2\)"),
        (GOOD[:, :1], GOOD, "samples have 1 values a point, those compared with 2"),
        (GOOD * math.nan, GOOD, "samples hold NaN"),
        (GOOD, GOOD + math.inf, "features hold NaN, infinite"),
        (GOOD, GOOD.double() * 1e60, "features hold NaN, infinite or huge"),
        (GOOD.to(torch.complex64), GOOD, "samples are of type"),
        (np.array([["a"]]), GOOD, "samples are of type"),
    ],
)
def test_bad_features_are_refused_by_name(samples: Any, reference: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        neighbourhoods(samples, manifold(reference))


@pytest.mark.parametrize("k", [(0, 5), (3, -1)])
def test_a_ball_without_neighbours_is_refused(k: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="1 neighbour or more"):
        manifold(GOOD, k=k)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_agrees_with_the_cpu() -> None:
    samples, reference = features(34, 3000, 100, dtype=torch.float32), features(35, 2500, 100, dtype=torch.float32)
    on_cpu, on_cuda = (neighbourhoods(samples, manifold(reference.to(device))) for device in ("cpu", "cuda"))
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(on_cuda, name).value == pytest.approx(getattr(on_cpu, name).value, rel=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("d", [3, 500, 2048])
def test_copies_lie_on_the_border_of_balls_on_a_cuda_device_too(d: int) -> None:
    reference = features(36, 700, d, dtype=torch.float32).cuda()
    result = neighbourhoods(reference.flip(0), manifold(reference))
    assert (result.precision.value, result.recall.value, result.coverage.value) == (1, 1, 1)
    assert result.density.value == pytest.approx(6 / 5, rel=1e-12)
