"""Precision, recall, density and coverage: whether samples lie among reference images, and reach all of them.

Each point of a set has a ball that just reaches its k-th nearest neighbour within the set; the balls together are the
set's manifold. Sources: Kynkaanniemi et al. (2019) for precision and recall, Naeem et al. (2020) for density and
coverage.

All results are those of squared distances summed from differences in float64, ties included, whatever the sizes of
tiles. Matrix products only tell which comparisons they leave open by a bound on their rounding. On a CPU they are
float32; on a GPU float64, which TF32 never touches, and likewise on a CPU that is allowed shorter numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.errors import InputError
from harness.metrics.estimate import Estimate
from harness.metrics.points import Array, checked

# On an idle machine half as many are as fast; on a busy one threads wait for each other at every operation.
POINTS_PER_TILE = 2048
VALUES_PER_BATCH = 2**16  # of pairs whose differences are summed together: these stay in a core's cache

# Products give a point's nearest neighbours up to rounding; with so many in reserve they are seldom too close to tell.
SPARE_NEIGHBOURS = 3
# Of a tile's pairs: where more stay open in float32, its float64 product is cheaper than their differences.
LARGEST_OPEN_SHARE = 1e-3

FLOAT32_HOLDS = (torch.float32, torch.float16, torch.bfloat16, torch.uint8, torch.int8, torch.int16, torch.bool)
LARGEST_FLOAT32 = torch.finfo(torch.float32).max
LARGEST_FLOAT32_SQUARE = 1e36  # squared distances between such points still fit in float32

OVER_SAMPLES = "over samples, the reference's balls fixed"
OVER_REFERENCE = "over reference images, the samples' balls fixed"


@dataclass(frozen=True)
class Manifold:
    """Features (n, d) of a set and the squared radii (2, n), float64, of each one's two balls.

    `k` are the balls' numbers of neighbours, the point itself not counted: first for precision and recall, then for
    density and coverage. Plain values: a cache may store the tensors and build it again.
    """

    features: Tensor
    k: tuple[int, int]
    squared_radii: Tensor


@dataclass(frozen=True)
class Neighbourhoods:
    """Precision, recall and coverage in [0, 1] and density in [0, n / k], each higher is better.

    The standard errors are those of means over independent points, every ball held fixed; they are zero where all
    points agree.
    """

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def manifold(features: Array, *, k: tuple[int, int] = (3, 5)) -> Manifold:
    """The balls of features (n, d), any real type: 3 neighbours for precision and recall, 5 for density and coverage.

    Working memory as for `neighbourhoods`. Errors: InputError for fewer than max(k) + 1 points, for NaN, infinite or
    huge values.
    """
    if min(k) < 1:
        raise InputError(f"k = {k}; a ball needs 1 neighbour or more.")
    points = checked("neighbours: features", features, at_least=max(k) + 1)
    return Manifold(points, k, _squared_radii(points, k).T.contiguous())


def neighbourhoods(features: Array, reference: Manifold) -> Neighbourhoods:
    """Precision, recall, density and coverage of samples' features (n, d) against a reference's balls.

    Precision: share of samples inside any reference ball, its border included. Recall: share of reference images
    inside any ball of the samples. Density: mean over samples of (number of reference balls that hold it) / k.
    Coverage: share of reference images whose ball holds a sample.
    Working memory beside the features: tiles of 256 MiB at most at 2,048 dimensions, and 1 KiB a point.
    Errors: InputError for fewer than k + 1 samples, another width, NaN, infinite or huge values.
    """
    k_precision, k_density = reference.k
    samples = checked("neighbours: samples", features, at_least=k_precision + 1, dimension=reference.features.shape[1])
    samples = samples.to(reference.features.device)
    sample_radii = _squared_radii(samples, [k_precision])[:, 0]
    precise, recalled, dense, covered = _memberships(samples, sample_radii, reference)
    return Neighbourhoods(
        precision=_mean(precise > 0, OVER_SAMPLES),
        recall=_mean(recalled > 0, OVER_REFERENCE),
        density=_mean(dense, OVER_SAMPLES, per=k_density),
        coverage=_mean(covered > 0, OVER_REFERENCE),
    )


def nearest_squared_distances(points: Array, others: Array) -> Tensor:
    """Squared distance of each point (n, d) to the nearest of others (t, d), float64 (n,), zero for an exact copy.

    Working memory as for `neighbourhoods`. Errors: InputError for no points, another width, NaN, infinite or huge
    values.
    """
    targets = checked("neighbours: others", others)
    sources = checked("neighbours: points", points, dimension=targets.shape[1]).to(targets.device)
    origin = _mean_point(targets)
    left, right = _Cloud.of(sources, origin), _Cloud.of(targets, origin)
    dtype = _product_types(left, right)[0]
    candidates = _Candidates.none(len(sources), min(1 + SPARE_NEIGHBOURS, len(targets)), left.squares, dtype)
    for rows in _slices(len(sources)):
        block = left.block(rows, dtype)
        for columns in _slices(len(targets)):
            candidates.merge(rows, _lower_bounds(block, right.block(columns, dtype)), columns.start)
    return _settled(left, right, candidates, [0])[:, 0]


@dataclass(frozen=True)
class _Block:
    """Points seen from the origin (b, d) in the type of products, and their squares less half the error bound."""

    moved: Tensor
    lowered_squares: Tensor


@dataclass(frozen=True)
class _Cloud:
    """Points as given, and their squared distances (float64) to an origin amid them, where products cancel little."""

    points: Tensor
    origin: Tensor
    squares: Tensor

    @classmethod
    def of(cls, points: Tensor, origin: Tensor) -> _Cloud:
        squares = [(points[rows].double() - origin).square_().sum(1) for rows in _slices(len(points))]
        return cls(points, origin, torch.cat(squares))

    def half_errors(self, dtype: torch.dtype) -> Tensor:
        """Two points' sum bounds the difference between their `_lower_bounds` uncorrected and `_squared_distances`.

        Worst case: u per point and product of the sum in any order, its terms at most half the squares' sum; a few u
        for the other roundings; the same for the differences in float64; and underflows.
        """
        d = self.points.shape[1]
        rounding, double = torch.finfo(dtype).eps / 2, torch.finfo(torch.float64).eps
        relative = rounding * (1.01 * d + 16) + 2 * double * (d + 8)
        return self.squares * relative + 2 * d * torch.finfo(dtype).tiny

    def block(self, rows: slice | Tensor, dtype: torch.dtype) -> _Block:
        held = dtype if self.points.dtype in FLOAT32_HOLDS else torch.float64
        moved = torch.sub(self.points[rows].to(held), self.origin.to(held)).to(dtype)
        return _Block(moved, (self.squares - self.half_errors(dtype))[rows].to(dtype))


@dataclass(frozen=True)
class _Candidates:
    """For each point the others of least lower bounds so far: bounds (n, m) in ascending order, and which they are."""

    bounds: Tensor
    indices: Tensor

    @classmethod
    def none(cls, n: int, m: int, like: Tensor, dtype: torch.dtype) -> _Candidates:
        bounds = like.new_full((n, m), torch.inf, dtype=dtype)
        return cls(bounds, torch.zeros_like(bounds, dtype=torch.int64))

    def merge(self, rows: slice, bounds: Tensor, first: int) -> None:
        """Take in the bounds (b, c) between the rows and the others from `first` on."""
        m = self.bounds.shape[1]
        least = bounds.topk(min(m, bounds.shape[1]), largest=False)
        both = torch.cat([self.bounds[rows], least.values], dim=1)
        indices = torch.cat([self.indices[rows], least.indices + first], dim=1)
        self.bounds[rows], chosen = both.topk(m, largest=False)
        self.indices[rows] = indices.gather(1, chosen)


def _squared_radii(points: Tensor, k: Sequence[int]) -> Tensor:
    """Squared distances of each point to its k-th nearest other in the set for every k, float64 (n, len(k))."""
    cloud = _Cloud.of(points, _mean_point(points))
    dtype = _product_types(cloud)[0]
    n = len(points)
    candidates = _Candidates.none(n, min(max(k) + SPARE_NEIGHBOURS, n - 1), cloud.squares, dtype)
    for rows in _slices(n):
        block = cloud.block(rows, dtype)
        bounds = _lower_bounds(block, block)
        candidates.merge(rows, bounds.fill_diagonal_(torch.inf), rows.start)
        for columns in _slices(n, start=rows.stop):
            bounds = _lower_bounds(block, cloud.block(columns, dtype))
            candidates.merge(rows, bounds, columns.start)
            candidates.merge(columns, bounds.T.contiguous(), rows.start)
    return _settled(cloud, cloud, candidates, [rank - 1 for rank in k])


def _settled(left: _Cloud, right: _Cloud, candidates: _Candidates, ranks: Sequence[int]) -> Tensor:
    """The squared distances of each left point to its nearest right ones of those ranks from 0, float64 (n, ranks)."""
    n, m = candidates.bounds.shape
    lower = candidates.bounds.to(torch.float64, copy=True)
    half_errors = [cloud.half_errors(candidates.bounds.dtype) for cloud in (left, right)]
    upper = lower + 2 * (half_errors[0][:, None] + half_errors[1][candidates.indices])
    unsure = torch.zeros_like(lower, dtype=torch.bool)
    for rank in ranks:
        unsure |= (upper >= lower[:, [rank]]) & (lower <= upper.sort().values[:, [rank]])
    i, place = unsure.nonzero(as_tuple=True)
    # The others keep their bounds: they are nearer, or farther, than every unsure one that may have the rank.
    lower[i, place] = _squared_distances(left, i, right, candidates.indices[i, place])
    nearest = lower.sort().values[:, ranks]

    farthest = nearest.amax(1)
    if m == len(right.points) - (left is right):
        return nearest
    # No other is nearer than the last candidate's bound, nor than zero.
    for part in torch.split(((farthest > candidates.bounds[:, -1]) & (farthest > 0)).nonzero()[:, 0], POINTS_PER_TILE):
        nearest[part] = _nearest_no_farther(left, part, right, farthest[part], max(ranks) + 1)[:, ranks]
    return nearest


def _nearest_no_farther(left: _Cloud, points: Tensor, right: _Cloud, farthest: Tensor, k: int) -> Tensor:
    """The k least squared distances of some left points (b, k), ascending, none of which exceeds `farthest` (b,)."""
    block = left.block(points, torch.float64)
    nearest = farthest.new_full((len(points), k), torch.inf)
    for columns in _slices(len(right.points)):
        bounds = _lower_bounds(block, right.block(columns, torch.float64))
        near = bounds <= farthest[:, None]
        if left is right:
            near &= points[:, None] != torch.arange(columns.start, columns.stop, device=points.device)
        i, j = near.nonzero(as_tuple=True)
        bounds.fill_(torch.inf)[i, j] = _squared_distances(left, points[i], right, j + columns.start)
        nearest = torch.cat([nearest, bounds], dim=1).topk(k, largest=False).values
    return nearest


def _memberships(samples: Tensor, sample_radii: Tensor, reference: Manifold) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How many balls hold each: a sample and a reference image for precision and recall, and a sample for density.

    Last, how many samples each reference ball holds, for coverage. All int64, over samples or reference images.
    """
    origin = _mean_point(reference.features)
    left, right = _Cloud.of(samples, origin), _Cloud.of(reference.features, origin)
    precision_radii, density_radii = reference.squared_radii
    precise, dense = torch.zeros(2, len(samples), dtype=torch.int64, device=origin.device)
    recalled, covered = torch.zeros(2, len(reference.features), dtype=torch.int64, device=origin.device)
    for rows in _slices(len(samples)):
        for columns in _slices(len(reference.features)):
            radii = precision_radii[columns], sample_radii[rows, None], density_radii[columns]
            for_precision, for_recall, for_density = _inside(left, rows, right, columns, radii)
            precise[rows] += for_precision.sum(1, dtype=torch.int32)
            recalled[columns] += for_recall.sum(0, dtype=torch.int32)
            dense[rows] += for_density.sum(1, dtype=torch.int32)
            covered[columns] += for_density.sum(0, dtype=torch.int32)
    return precise, recalled, dense, covered


def _inside(left: _Cloud, rows: slice, right: _Cloud, columns: slice, radii: Sequence[Tensor]) -> list[Tensor]:
    """Whether each pair of a tile is no farther apart than the squared radii: a bool tensor (b, c) for each of them.

    Each kind of radii has a shape that broadcasts to (b, c).
    """
    for dtype in _product_types(left, right):
        bounds = _lower_bounds(left.block(rows, dtype), right.block(columns, dtype))
        width = 2 * (left.half_errors(dtype)[rows].max() + right.half_errors(dtype)[columns].max())
        unsure = torch.zeros_like(bounds, dtype=torch.bool)
        results = []
        for squared in radii:
            inside = bounds <= _rounded(squared, dtype, torch.inf)
            unsure |= inside ^ (bounds <= _rounded(squared - width, dtype, -torch.inf))
            results.append(inside)
        i, j = unsure.nonzero(as_tuple=True)
        if len(i) <= LARGEST_OPEN_SHARE * bounds.numel():
            break
    distances = _squared_distances(left, i + rows.start, right, j + columns.start)
    for inside, squared in zip(results, radii, strict=True):
        inside[i, j] = distances <= squared.expand(inside.shape)[i, j]
    return results


def _product_types(*clouds: _Cloud) -> tuple[torch.dtype, ...]:
    """The types of matrix products to try in turn, none of them shortened on the way."""
    on_cpu = clouds[0].squares.device.type == "cpu"
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # public, but torch's stubs leave it out
    in_full = matmul.fp32_precision in ("none", "ieee")
    if on_cpu and in_full and all(bool(cloud.squares.max() <= LARGEST_FLOAT32_SQUARE) for cloud in clouds):
        return torch.float32, torch.float64
    return (torch.float64,)


def _lower_bounds(rows: _Block, columns: _Block) -> Tensor:
    """What `_squared_distances` (b, c) of all pairs are no less than, from one matrix product."""
    bounds = rows.moved.new_empty(len(rows.moved), len(columns.moved))  # autocast leaves `out` in its type
    torch.addmm(columns.lowered_squares, rows.moved, columns.moved.T, alpha=-2, out=bounds)
    return bounds.add_(rows.lowered_squares[:, None])


def _squared_distances(left: _Cloud, i: Tensor, right: _Cloud, j: Tensor) -> Tensor:
    """Squared distances of pairs of points, float64: the definition that all results follow.

    A device may order a sum by the shape of its batch, so all batches have one shape: a pair always has the same bits.
    """
    size = max(1, VALUES_PER_BATCH // left.points.shape[1])
    padding = i.new_zeros(-len(i) % size)
    i_padded, j_padded = torch.cat([i, padding]), torch.cat([j, padding])
    distances = left.squares.new_empty(len(i_padded))
    for start in range(0, len(distances), size):
        batch = slice(start, start + size)
        differences = left.points[i_padded[batch]].double().sub_(right.points[j_padded[batch]])
        torch.sum(differences.square_(), dim=1, out=distances[batch])
    return distances[: len(i)]


def _rounded(values: Tensor, dtype: torch.dtype, towards: float) -> Tensor:
    """The values in another type, never farther from the infinity given."""
    rounded = values.to(dtype)
    return torch.nextafter(rounded, torch.full_like(rounded, towards))


def _mean_point(points: Tensor) -> Tensor:
    """The mean of points (n, d) rounded to float32, float64 (d,), made without a float64 copy of them all.

    So float32 points are moved there in float32, each value rounded once.
    """
    total = torch.zeros(points.shape[1], dtype=torch.float64, device=points.device)
    for rows in _slices(len(points)):
        total += points[rows].double().sum(0)
    return (total / len(points)).clamp_(-LARGEST_FLOAT32, LARGEST_FLOAT32).float().double()


def _mean(counts: Tensor, error: str, *, per: int = 1) -> Estimate:
    """The mean of counts (n,) over `per`, and their standard deviation (ddof 0) / sqrt(n)."""
    mean = float(counts.sum()) / len(counts) / per  # a sum of whole numbers, exact in any order
    return Estimate(mean, float(counts.double().std(correction=0)) / per / math.sqrt(len(counts)), error)


def _slices(length: int, *, start: int = 0) -> Iterator[slice]:
    return (slice(first, min(first + POINTS_PER_TILE, length)) for first in range(start, length, POINTS_PER_TILE))
