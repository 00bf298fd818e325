"""Gaussian Parzen-window log-likelihood of test points under samples, the published protocol.

    log p(x) = log mean_i exp(-||x - c_i||^2 / (2 sigma^2)) - d log(sigma sqrt(2 pi))

The centres c_i are a model's samples in [0, 1]: where it has means these, and their binary draws only under keys that
say so. sigma is chosen by the mean log-likelihood of validation points. Everything is float64, whose products TF32
never touches.
Source: Breuleux, Bengio and Vincent (2011); Goodfellow et al. (2014), section 5, and the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from harness.errors import InputError
from harness.metrics.estimate import Estimate
from harness.metrics.points import ALONE, LARGEST_VALUE, Array, Processes, checked

SIGMAS: tuple[float, ...] = tuple(np.logspace(-1, 0, 10).tolist())
"""The published grid of bandwidths."""

VALIDATION_POINTS = 1000
"""The protocol chooses sigma on the first so many validation points."""

# 64 MiB of distances: small tiles are no faster on an idle machine, and on a busy one threads wait for each other
# at every operation, so few large ones lose least.
POINTS_PER_TILE = 2048
CENTRES_PER_TILE = 4096

SMALLEST_EXPONENT = -700.0  # exp of less is a denormal, many times slower, and adds nothing to a sum of 1 or more
LOG_SIGMA_TOLERANCE = 1e-4
_ERROR = "over the points, the samples fixed"


@dataclass(frozen=True)
class Bandwidth:
    """A bandwidth chosen on validation points, their mean log-likelihood in nats, and whether a bound stopped it."""

    sigma: float
    at_edge: bool
    validation_value: float


@dataclass(frozen=True)
class LogLikelihood(Estimate):
    """Mean test log-likelihood in nats at one bandwidth, higher is better.

    `standard_error` is the standard deviation over test points (ddof 0) / sqrt(their number): it knows
    nothing of training seeds, nor of dependence between samples.
    """

    sigma: float
    sigma_at_edge: bool
    validation_value: float


@dataclass(frozen=True)
class Parzen:
    """The protocol's two estimates, sigma from the grid and refined, and the numbers of points behind them."""

    grid: LogLikelihood
    refined: LogLikelihood
    centres: int
    validation: int
    test: int
    dimension: int


def parzen(
    samples: Array,
    validation: Array,
    test: Array,
    *,
    sigmas: Sequence[float] = SIGMAS,
    device: torch.device | str | None = None,
    processes: Processes = ALONE,
) -> Parzen:
    """Parzen log-likelihood of `test` under `samples` (n, d), as `parzen_of_members` gives it for one member."""
    only = checked("parzen: centres", samples)[None]
    [result] = parzen_of_members(only, validation, test, sigmas=sigmas, device=device, processes=processes)
    return result


def parzen_of_members(
    samples: Array,
    validation: Array,
    test: Array,
    *,
    sigmas: Sequence[float] = SIGMAS,
    device: torch.device | str | None = None,
    processes: Processes = ALONE,
) -> list[Parzen]:
    """Parzen log-likelihood of `test` under each member's samples, with sigma from the grid and refined, both in nats.

    Shapes: samples (m, n, d), validation (v, d) of which the first 1,000 are used, test (t, d); any float or integer
    type, torch or numpy, in original units. One pass over the validation distances serves all sigmas, one over the
    test distances both that were chosen; on a GPU both serve as many members as fit into a tile. `device` is that of
    the samples unless given. With several processes, each passes all arrays and evaluates its share of the points.
    Working memory, for the members that share a pass: a float64 copy of their samples, 8 n min(v, 1000) bytes of
    validation distances each, and some tiles.
    Errors: InputError for arrays that are empty, of different width, or hold NaN or infinities.
    """
    grid_sigmas = _checked_sigmas(sigmas)
    samples = checked("parzen: centres", samples, ndim=3)
    place = samples.device if device is None else torch.device(device)
    validation = checked("parzen: validation", validation, dimension=samples.shape[2])[:VALIDATION_POINTS]
    test = checked("parzen: test", test, dimension=samples.shape[2])
    origin = _origin(validation, place)
    on_validation, on_test = (_Share.of(points, place, processes) for points in (validation, test))
    together = _members_in_a_pass(max(on_validation.largest, on_test.largest), samples.shape[1], place)
    return [
        result
        for members in _slices(len(samples), together)
        for result in _protocol(_Centres.of(samples[members], origin), on_validation, on_test, grid_sigmas)
    ]


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
    once and kept: 8 v n bytes. Errors: InputError, as for `parzen_of_members`.
    """
    grid_sigmas = _checked_sigmas(sigmas)
    points, prepared = _prepared("validation", validation, centres, device)
    [chosen] = _choose_bandwidths(_Share.of(points, points.device, ALONE), prepared, grid_sigmas)
    return chosen


def log_likelihood(
    points: Array, centres: Array, *, sigmas: Sequence[float], device: torch.device | str | None = None
) -> Tensor:
    """log p of each point at each bandwidth in nats, float64 (s, t), from one pass over the distances.

    Shapes: points (t, d), centres (n, d), sigmas (s,). Within 1e-9 max(1, |log p|) of differences summed in float64.
    Errors: InputError, as for `parzen_of_members`.
    """
    grid_sigmas = _checked_sigmas(sigmas)
    there, prepared = _prepared("points", points, centres, device)
    return _log_likelihood(there, prepared, prepared.origin.new_tensor(grid_sigmas)[:, None])[..., 0]


@dataclass(frozen=True)
class _Centres:
    """Members' centres (m, n, d): as given, and seen from an origin in float64, where products cancel little.

    The origin lies amid the points, not amid the centres, so that members share it and none depends on another.
    """

    given: Tensor
    origin: Tensor
    moved: Tensor
    squares: Tensor

    @classmethod
    def of(cls, given: Tensor, origin: Tensor) -> _Centres:
        given = given.to(origin.device)
        moved = given.to(torch.float64, copy=True).sub_(origin)
        return cls(given, origin, moved, torch.linalg.vector_norm(moved, dim=2).square_())


@dataclass(frozen=True)
class _Share:
    """This process's part of `count` points, on the device; no process has more than `largest`."""

    points: Tensor
    count: int
    processes: Processes

    @classmethod
    def of(cls, points: Tensor, device: torch.device, processes: Processes) -> _Share:
        return cls(points[processes.rank :: processes.count].to(device), len(points), processes)

    @property
    def largest(self) -> int:
        return -(-self.count // self.processes.count)

    def mean(self, values: Tensor) -> Tensor:
        """Means over all points (s, m) of values (s, points, m) at this process's own."""
        return self.processes.total(values.sum(1)) / self.count


def _origin(points: Tensor, device: torch.device) -> Tensor:
    """The mean of all points, float64 (d,)."""
    return points.to(device).mean(0, dtype=torch.float64)


def _prepared(name: str, points: Array, centres: Array, device: torch.device | str | None) -> tuple[Tensor, _Centres]:
    """Points on the device, and the centres (n, d) of one member."""
    given = checked("parzen: centres", centres)
    place = given.device if device is None else torch.device(device)
    there = checked(f"parzen: {name}", points, dimension=given.shape[1]).to(place)
    return there, _Centres.of(given[None], _origin(there, place))


def _members_in_a_pass(points: int, centres: int, device: torch.device) -> int:
    """How many members go together: as many as fit into a tile whole, or one.

    On a CPU always one: little is gained there by fewer calls, and a member's own distances stay in its caches (36
    members of 1,000 centres in 64 dimensions took 1.2 to 1.4 times as long together).
    """
    if device.type == "cpu":
        return 1
    return max(1, POINTS_PER_TILE * CENTRES_PER_TILE // (min(points, POINTS_PER_TILE) * centres))


def _protocol(centres: _Centres, validation: _Share, test: _Share, sigmas: Sequence[float]) -> list[Parzen]:
    """Bandwidths from the validation points, then the test points' estimates, of each member."""
    chosen = _choose_bandwidths(validation, centres, sigmas)
    of_members = [[bandwidth.sigma for bandwidth in pair] for pair in chosen]
    values = _log_likelihood(test.points, centres, centres.origin.new_tensor(of_members).T)
    means = test.mean(values)
    errors = (test.mean((values - means[:, None]).square_()) / test.count).sqrt()
    _, n, d = centres.moved.shape
    results = []
    for pair, pair_means, pair_errors in zip(chosen, means.T.tolist(), errors.T.tolist(), strict=True):
        grid, refined = (
            LogLikelihood(mean, error, _ERROR, bandwidth.sigma, bandwidth.at_edge, bandwidth.validation_value)
            for bandwidth, mean, error in zip(pair, pair_means, pair_errors, strict=True)
        )
        results.append(Parzen(grid, refined, centres=n, validation=validation.count, test=test.count, dimension=d))
    return results


def _log_likelihood(points: Tensor, centres: _Centres, sigmas: Tensor) -> Tensor:
    """log p of points (t, d) under each member at bandwidths (s, m), its own ones: float64 (s, t, m)."""
    members, n, _ = centres.moved.shape
    rates = 1 / (2 * sigmas**2)
    result = rates.new_empty(len(rates), len(points), members)
    columns_per_tile = min(CENTRES_PER_TILE, n) if members == 1 else n  # several members are as few as fit whole
    tile, work = rates.new_empty(2, min(POINTS_PER_TILE, len(points)) * members * columns_per_tile)
    for rows in _slices(len(points), POINTS_PER_TILE):
        nearest = rates.new_full((len(points[rows]), members), torch.inf)
        sums = rates.new_zeros(len(rates), *nearest.shape)
        for columns in _slices(n, columns_per_tile):
            distances = _squared_distances(points[rows], centres, columns, smallest_sigma=sigmas.amin(0), out=tile)
            # The largest exponent belongs to the nearest centre, whatever sigma: one shift serves them all.
            nearer = torch.minimum(nearest, distances.amin(2))
            sums *= torch.exp((nearer - nearest) * rates[:, None])
            sums += _kernel_sums(distances.sub_(nearer[..., None]), rates[..., None], work)
            nearest = nearer
        result[:, rows] = sums.log_() - nearest * rates[:, None]
    return result.sub_(_log_normaliser(centres, sigmas)[:, None])


def _choose_bandwidths(
    validation: _Share, centres: _Centres, sigmas: Sequence[float]
) -> list[tuple[Bandwidth, Bandwidth]]:
    """As `choose_bandwidth`, for each member."""
    grid = sorted(set(sigmas))
    lowest, highest = grid[0] / 10, grid[-1] * 10
    distances, nearest = _distances_beyond_nearest(validation.points, centres, smallest_sigma=lowest)
    _, members, n = distances.shape
    rows_per_tile = max(1, POINTS_PER_TILE * CENTRES_PER_TILE // (members * n))
    work = distances.new_empty(min(rows_per_tile, len(distances)) * members * n)

    def means(candidates: Sequence[float], of: slice) -> Tensor:
        """Mean log-likelihoods (s, m) of the candidates for some members."""
        rates = [1 / (2 * sigma**2) for sigma in candidates]
        own_nearest = nearest[:, of]
        values = distances.new_empty(len(rates), *own_nearest.shape)
        for rows in _slices(len(distances), rows_per_tile):
            values[:, rows] = _kernel_sums(distances[rows, of], rates, work)
        column, sigmas_column = distances.new_tensor([rates, candidates])[..., None, None]
        values.log_().sub_(own_nearest * column).sub_(_log_normaliser(centres, sigmas_column))
        return validation.mean(values)

    def pair(member: int, on_grid: Sequence[float]) -> tuple[Bandwidth, Bandwidth]:
        best = int(np.argmax(on_grid))
        coarse = Bandwidth(grid[best], best in (0, len(grid) - 1), on_grid[best])
        low = grid[best - 1] if best > 0 else lowest
        high = grid[best + 1] if best < len(grid) - 1 else highest
        alone = slice(member, member + 1)
        return coarse, _refined(lambda sigma: float(means([sigma], alone)), coarse, math.log(low), math.log(high))

    return [pair(member, on_grid) for member, on_grid in enumerate(means(grid, slice(None)).T.tolist())]


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
    """Squared distances (v, m, n) less the smallest for each point and member, and that smallest (v, m)."""
    members, n, _ = centres.moved.shape
    distances = centres.origin.new_empty(len(points), members, n)
    smallest = centres.origin.new_tensor(smallest_sigma)
    for rows in _slices(len(points), POINTS_PER_TILE):
        out = distances[rows].view(-1)
        _squared_distances(points[rows], centres, slice(0, n), smallest_sigma=smallest, out=out)
    nearest = distances.amin(2)
    return distances.sub_(nearest[..., None]), nearest


def _squared_distances(
    points: Tensor, centres: _Centres, columns: slice, *, smallest_sigma: Tensor, out: Tensor
) -> Tensor:
    """Squared distances (b, m, c) of points to a slice of the centres, in the first b m c places of `out`.

    They come from one matrix product for all members, which cancels where a point lies much nearer to a centre than to
    the origin. Where the error bound exceeds both 1e-9 nats at `smallest_sigma` (one, or one a member) and 1e-10 of the
    exponent, a member's distances are done again by differences, so what remains below zero is within those 1e-9 nats.
    """
    moved, squares = centres.moved[:, columns], centres.squares[:, columns]
    from_origin = points.to(torch.float64) - centres.origin
    point_squares = torch.linalg.vector_norm(from_origin, dim=1).square_()[:, None]
    distances = out[: len(points) * squares.numel()].view(len(points), squares.numel())
    torch.addmm(squares.flatten(), from_origin, moved.flatten(0, 1).T, alpha=-2, out=distances)
    distances = distances.add_(point_squares).view(len(points), *squares.shape)

    # The worst case, which sums of equal terms come near: their roundings all go the same way.
    error = torch.finfo(torch.float64).eps * (moved.shape[2] + 8) * (point_squares + squares.amax(1))
    tolerated = torch.maximum(1e-10 * distances.amin(2), 1e-9 * 2 * smallest_sigma**2)
    inexact = error > tolerated
    for member in inexact.any(0).nonzero()[:, 0].tolist():
        rows = inexact[:, member].nonzero()[:, 0]
        pair = points[rows].to(torch.float64), centres.given[member, columns].to(torch.float64)
        distances[rows, member] = torch.cdist(*pair, compute_mode="donot_use_mm_for_euclid_dist").square_()
    return distances


def _kernel_sums(distances: Tensor, rates: Sequence[float] | Tensor, work: Tensor) -> Tensor:
    """sum_j exp(-rate distances_ij), float64 (s, b, m), of squared distances (b, m, c).

    `rates` are s numbers, or (s, m, 1) where members have their own. `work` holds b m c numbers or more.
    """
    exponents = work[: distances.numel()].view(distances.shape)
    sums = distances.new_empty(len(rates), *distances.shape[:2])
    for row, rate in zip(sums, rates, strict=True):
        torch.mul(distances, -rate, out=exponents)
        torch.sum(exponents.clamp_(min=SMALLEST_EXPONENT).exp_(), dim=2, out=row)
    return sums


def _log_normaliser(centres: _Centres, sigmas: Tensor) -> Tensor:
    """log n + d log(sigma sqrt(2 pi)) of each of the sigmas."""
    _, n, d = centres.moved.shape
    return (sigmas.log() + math.log(2 * math.pi) / 2) * d + math.log(n)


def _slices(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _checked_sigmas(sigmas: Sequence[float]) -> list[float]:
    given = [float(sigma) for sigma in sigmas]
    if not given or not all(1 / LARGEST_VALUE <= sigma <= LARGEST_VALUE for sigma in given):
        raise InputError(f"parzen: sigmas {given} must be one or more finite numbers above 0.")
    return given
