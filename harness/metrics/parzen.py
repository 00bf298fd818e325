"""Gaussian Parzen-window log-likelihood of test points under samples, the published protocol.

    log p(x) = log mean_i exp(-||x - c_i||^2 / (2 sigma^2)) - d log(sigma sqrt(2 pi))

The centres c_i are a model's samples (means in [0, 1], never binary draws). sigma is chosen by the mean
log-likelihood of validation points. Everything is float64, whose products TF32 never touches.
Source: Breuleux, Bengio and Vincent (2011); Goodfellow et al. (2014), section 5, and the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from harness.errors import InputError

Array = Tensor | np.ndarray[Any, Any]

SIGMAS: tuple[float, ...] = tuple(np.logspace(-1, 0, 10).tolist())
"""The published grid of bandwidths."""

VALIDATION_POINTS = 1000
"""The protocol chooses sigma on the first so many validation points."""

# 64 MiB of distances: small tiles are no faster on an idle machine, and on a busy one threads wait for each other
# at every operation, so few large ones lose least.
POINTS_PER_TILE = 2048
CENTRES_PER_TILE = 4096

SMALLEST_EXPONENT = -700.0  # exp of less is a denormal, many times slower, and adds nothing to a sum of 1 or more
LARGEST_VALUE = 1e50  # squares, and their ratios to squares of 1 / LARGEST_VALUE, still fit in float64
LOG_SIGMA_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Bandwidth:
    """A bandwidth chosen on validation points, their mean log-likelihood in nats, and whether a bound stopped it."""

    sigma: float
    at_edge: bool
    validation_value: float


@dataclass(frozen=True)
class Estimate:
    """Mean test log-likelihood in nats at one bandwidth, higher is better.

    `standard_error` is the standard deviation over test points (ddof 0) / sqrt(their number): it knows
    nothing of training seeds, nor of dependence between samples.
    """

    value: float
    standard_error: float
    sigma: float
    sigma_at_edge: bool
    validation_value: float


@dataclass(frozen=True)
class Parzen:
    """The protocol's two estimates, sigma from the grid and refined, and the numbers of points behind them."""

    grid: Estimate
    refined: Estimate
    centres: int
    validation: int
    test: int
    dimension: int


@dataclass(frozen=True)
class Processes:
    """This process's place among those that share the points.

    `total` takes a float64 tensor of the same shape in every process and gives the sum over all of them,
    the same bits in each (torch.distributed's all_reduce does).
    """

    rank: int
    count: int
    total: Callable[[Tensor], Tensor]


ALONE = Processes(rank=0, count=1, total=lambda values: values)


def parzen(
    samples: Array,
    validation: Array,
    test: Array,
    *,
    sigmas: Sequence[float] = SIGMAS,
    device: torch.device | str | None = None,
    processes: Processes = ALONE,
) -> Parzen:
    """Parzen log-likelihood of `test` under `samples`, with sigma from the grid and refined, both in nats.

    Shapes: samples (n, d), validation (v, d) of which the first 1,000 are used, test (t, d); any float or integer
    type, torch or numpy, in original units. `device` is that of the samples unless given. With several
    processes, each passes all arrays and evaluates its share of the points. Working memory: a float64 copy of the
    samples, 8 n min(v, 1000) bytes of validation distances, and some tiles.
    Errors: InputError for arrays that are empty, of different width, or hold NaN or infinities.
    """
    grid_sigmas = _checked_sigmas(sigmas)
    centres = _prepare(samples, device)
    validation = _checked("validation", validation, centres.dimension)[:VALIDATION_POINTS]
    test = _checked("test", test, centres.dimension)
    share = slice(processes.rank, None, processes.count)

    def mean_over_validation(values: Tensor) -> Tensor:
        return processes.total(values.sum(1)) / len(validation)

    chosen = _choose_bandwidth(validation[share], centres, grid_sigmas, mean_over_validation)
    values = _log_likelihood(test[share], centres, [bandwidth.sigma for bandwidth in chosen])
    means = processes.total(values.sum(1)) / len(test)
    variances = processes.total((values - means[:, None]).square_().sum(1)) / len(test)
    grid, refined = (
        Estimate(
            value=mean,
            standard_error=math.sqrt(variance / len(test)),
            sigma=bandwidth.sigma,
            sigma_at_edge=bandwidth.at_edge,
            validation_value=bandwidth.validation_value,
        )
        for mean, variance, bandwidth in zip(means.tolist(), variances.tolist(), chosen, strict=True)
    )
    return Parzen(
        grid=grid,
        refined=refined,
        centres=len(centres.centred),
        validation=len(validation),
        test=len(test),
        dimension=centres.dimension,
    )


def choose_bandwidth(
    validation: Array,
    centres: Array,
    *,
    sigmas: Sequence[float] = SIGMAS,
    device: torch.device | str | None = None,
) -> tuple[Bandwidth, Bandwidth]:
    """The bandwidth of highest mean log-likelihood on all validation points: on the grid, and refined around it.

    Shapes: validation (v, d), centres (n, d). The refined one is sought between the grid's neighbours of the best,
    or up to ten times beyond the grid's end; it is never worse on validation than the grid's. Distances are computed
    once and kept: 8 v n bytes. Errors: InputError, as for `parzen`.
    """
    grid_sigmas = _checked_sigmas(sigmas)
    prepared = _prepare(centres, device)
    points = _checked("validation", validation, prepared.dimension)
    return _choose_bandwidth(points, prepared, grid_sigmas, lambda values: values.mean(1))


def log_likelihood(
    points: Array, centres: Array, *, sigmas: Sequence[float], device: torch.device | str | None = None
) -> Tensor:
    """log p of each point at each bandwidth in nats, float64 (s, t), from one pass over the distances.

    Shapes: points (t, d), centres (n, d), sigmas (s,). Within 1e-9 max(1, |log p|) of differences summed in float64.
    Errors: InputError, as for `parzen`.
    """
    checked_sigmas = _checked_sigmas(sigmas)
    prepared = _prepare(centres, device)
    return _log_likelihood(_checked("points", points, prepared.dimension), prepared, checked_sigmas)


@dataclass(frozen=True)
class _Centres:
    """Centres ready for distances: as given, and moved to mean zero in float64, where products cancel least."""

    given: Tensor
    mean: Tensor
    centred: Tensor
    squares: Tensor

    @property
    def dimension(self) -> int:
        return int(self.centred.shape[1])


def _prepare(samples: Array, device: torch.device | str | None) -> _Centres:
    given = _checked("centres", samples)
    if device is not None:
        given = given.to(device)
    centred = given.to(torch.float64, copy=True)
    mean = centred.mean(0)
    centred -= mean
    return _Centres(given, mean, centred, torch.linalg.vector_norm(centred, dim=1).square_())


def _log_likelihood(points: Tensor, centres: _Centres, sigmas: Sequence[float]) -> Tensor:
    rates = [1 / (2 * sigma**2) for sigma in sigmas]
    column = centres.mean.new_tensor(rates)[:, None]
    result = column.new_empty(len(sigmas), len(points))
    tile, work = column.new_empty(2, min(POINTS_PER_TILE, len(points)) * min(CENTRES_PER_TILE, len(centres.centred)))
    for rows in _slices(len(points), POINTS_PER_TILE):
        block = points[rows].to(column)
        nearest = column.new_full((len(block),), torch.inf)
        sums = column.new_zeros(len(sigmas), len(block))
        for columns in _slices(len(centres.centred), CENTRES_PER_TILE):
            distances = _squared_distances(block, centres, columns, smallest_sigma=min(sigmas), out=tile)
            # The largest exponent belongs to the nearest centre, whatever sigma: one shift serves them all.
            nearer = torch.minimum(nearest, distances.amin(1))
            sums *= torch.exp((nearer - nearest) * column)
            sums += _kernel_sums(distances.sub_(nearer[:, None]), rates, work)
            nearest = nearer
        result[:, rows] = sums.log_() - nearest * column
    return result.sub_(_log_normaliser(centres, sigmas))


def _choose_bandwidth(
    points: Tensor, centres: _Centres, sigmas: Sequence[float], mean: Callable[[Tensor], Tensor]
) -> tuple[Bandwidth, Bandwidth]:
    """As `choose_bandwidth`; `mean` maps log-likelihoods (s, v) of these points to means (s,) over all points."""
    grid = sorted(set(sigmas))
    lowest, highest = grid[0] / 10, grid[-1] * 10
    distances, nearest = _distances_beyond_nearest(points, centres, smallest_sigma=lowest)
    rows_per_tile = max(1, POINTS_PER_TILE * CENTRES_PER_TILE // distances.shape[1])
    work = distances.new_empty(min(rows_per_tile, len(points)) * distances.shape[1])

    def means(candidates: Sequence[float]) -> list[float]:
        rates = [1 / (2 * sigma**2) for sigma in candidates]
        values = distances.new_empty(len(rates), len(points))
        for rows in _slices(len(points), rows_per_tile):
            values[:, rows] = _kernel_sums(distances[rows], rates, work)
        values.log_().sub_(nearest * values.new_tensor(rates)[:, None]).sub_(_log_normaliser(centres, candidates))
        return [float(value) for value in mean(values)]

    on_grid = means(grid)
    best = int(np.argmax(on_grid))
    coarse = Bandwidth(grid[best], best in (0, len(grid) - 1), on_grid[best])
    low = grid[best - 1] if best > 0 else lowest
    high = grid[best + 1] if best < len(grid) - 1 else highest
    return coarse, _refined(lambda sigma: means([sigma])[0], coarse, math.log(low), math.log(high))


def _refined(mean_at: Callable[[float], float], coarse: Bandwidth, low: float, high: float) -> Bandwidth:
    """The best sigma with its logarithm between two bounds, or the coarse one where none is better."""
    search = minimize_scalar(
        lambda log_sigma: -mean_at(math.exp(log_sigma)),
        bounds=(low, high),
        method="bounded",
        options={"xatol": LOG_SIGMA_TOLERANCE},
    )
    if -search.fun <= coarse.validation_value:
        return coarse
    at_bound = min(search.x - low, high - search.x) < 10 * LOG_SIGMA_TOLERANCE
    return Bandwidth(math.exp(search.x), bool(at_bound), float(-search.fun))


def _distances_beyond_nearest(points: Tensor, centres: _Centres, *, smallest_sigma: float) -> tuple[Tensor, Tensor]:
    """Squared distances (v, n) less each point's smallest, and that smallest (v,)."""
    n = len(centres.centred)
    distances = centres.mean.new_empty(len(points), n)
    for rows in _slices(len(points), POINTS_PER_TILE):
        block = points[rows].to(distances)
        _squared_distances(block, centres, slice(0, n), smallest_sigma=smallest_sigma, out=distances[rows].view(-1))
    nearest = distances.amin(1)
    return distances.sub_(nearest[:, None]), nearest


def _squared_distances(
    points: Tensor, centres: _Centres, columns: slice, *, smallest_sigma: float, out: Tensor
) -> Tensor:
    """Squared distances (b, c) of float64 points to a slice of the centres, in the first b c places of `out`.

    They come from a matrix product, which cancels where a point lies much nearer to a centre than to the mean. Points
    whose error bound exceeds both 1e-9 nats at `smallest_sigma` and 1e-10 of their exponent are done again by
    differences, so what remains below zero is within those 1e-9 nats.
    """
    centred, squares = centres.centred[columns], centres.squares[columns]
    distances = out[: len(points) * len(centred)].view(len(points), len(centred))
    moved = points - centres.mean
    point_squares = torch.linalg.vector_norm(moved, dim=1).square_()
    torch.addmm(squares, moved, centred.T, alpha=-2, out=distances)
    distances.add_(point_squares[:, None])

    # The worst case, which sums of equal terms come near: their roundings all go the same way.
    error = torch.finfo(torch.float64).eps * (centres.dimension + 8) * (point_squares + squares.amax())
    tolerated = (1e-10 * distances.amin(1)).clamp_(min=1e-9 * 2 * smallest_sigma**2)
    inexact = (error > tolerated).nonzero()[:, 0]
    if len(inexact):
        others = centres.given[columns].to(points)
        exact = torch.cdist(points[inexact], others, compute_mode="donot_use_mm_for_euclid_dist")
        distances[inexact] = exact.square_()
    return distances


def _kernel_sums(distances: Tensor, rates: Sequence[float], work: Tensor) -> Tensor:
    """sum_j exp(-rate distances_ij), float64 (s, b), of squared distances (b, c); `work` holds b c numbers or more."""
    exponents = work[: distances.numel()].view(distances.shape)
    sums = distances.new_empty(len(rates), len(distances))
    for row, rate in zip(sums, rates, strict=True):
        torch.mul(distances, -rate, out=exponents)
        torch.sum(exponents.clamp_(min=SMALLEST_EXPONENT).exp_(), dim=1, out=row)
    return sums


def _log_normaliser(centres: _Centres, sigmas: Sequence[float]) -> Tensor:
    """log n + d log(sigma sqrt(2 pi)), float64 (s, 1)."""
    logs = [math.log(sigma) + math.log(2 * math.pi) / 2 for sigma in sigmas]
    return centres.mean.new_tensor(logs)[:, None] * centres.dimension + math.log(len(centres.centred))


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _checked(name: str, array: Array, dimension: int | None = None) -> Tensor:
    """The array as a tensor (count, d), where it lies and in its own type."""
    if not isinstance(array, Tensor):
        native = np.asarray(array)
        if native.dtype.kind not in "fiub":
            raise InputError(f"parzen: {name} are of type {native.dtype}; give real numbers.")
        array = torch.from_numpy(np.require(native, native.dtype.newbyteorder("="), ["C", "W"]))
    if array.is_complex():
        raise InputError(f"parzen: {name} are of type {array.dtype}; give real numbers.")
    array = array.detach()
    shape = tuple(array.shape)
    if array.ndim != 2 or 0 in shape:
        raise InputError(f"parzen: {name} have shape {shape}; give at least one point, flattened to (count, d).")
    if dimension is not None and shape[1] != dimension:
        raise InputError(f"parzen: {name} have {shape[1]} values a point, the centres {dimension}; they must agree.")
    extremes = torch.stack(torch.aminmax(array)).double()
    if not bool((extremes.abs() <= LARGEST_VALUE).all()):
        raise InputError(f"parzen: {name} hold NaN, infinite or huge values (over {LARGEST_VALUE:g}); mend the points.")
    return array


def _checked_sigmas(sigmas: Sequence[float]) -> list[float]:
    checked = [float(sigma) for sigma in sigmas]
    if not checked or not all(1 / LARGEST_VALUE <= sigma <= LARGEST_VALUE for sigma in checked):
        raise InputError(f"parzen: sigmas {checked} must be one or more finite numbers above 0.")
    return checked
