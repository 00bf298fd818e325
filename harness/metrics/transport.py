"""Wasserstein distances of order 1 between points and reference points.

    W1(P, Q) = inf E ||x - y|| over all couplings = sup E_P phi - E_Q phi over all phi of slope at most 1

Both functions take equal numbers of points. What two sets of n points from one distribution are apart shrinks with n,
in d dimensions only as n^(-1/d), so values compare at equal numbers alone, and never reach zero for a perfect model.

Standard errors are over samples, with the reference, the directions and the draw of points held fixed: sd(phi) /
sqrt(n), where phi, a potential that attains the supremum, is the derivative of the distance by each point's weight
(the infinitesimal jackknife). The distance is a convex function of the weights, so by the Poincare inequality this is
not too small when n is large. It is right where the potential is steady (sets apart), and up to 1.7 times too large
where the signs of noise decide it (sets alike).
Source: Villani, Optimal transport (2009), theorem 5.10; Bonneel et al., Sliced and Radon Wasserstein barycenters of
measures (2015).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from harness.draws import Draws
from harness.errors import InputError
from harness.metrics.estimate import Estimate
from harness.metrics.points import Array, checked

ERROR = "over samples, by infinitesimal jackknife, the reference fixed"

_SORTED_TOGETHER = 2**20  # values of some directions that are sorted in one call: 8 MiB


def sliced_wasserstein(points: Array, reference: Array, *, projections: int = 512, seed: int = 0) -> Estimate:
    """Mean W1 of the projections on random directions, in the points' units: 0 or more, lower is better.

    Shapes: points (n, d), reference (r, d), any float or integer type. Of the larger set min(n, r) points are drawn
    with the seed, and so are the directions, uniform on the sphere. At most the W1 of the same points; a shift s in d
    dimensions gives |s| Gamma(d / 2) / (sqrt(pi) Gamma((d + 1) / 2)), where W1 gives |s|. Time: projections x points.
    Errors: InputError for points that are empty, of different width, or hold NaN or infinities.
    """
    if projections < 1:
        raise InputError(f"transport: {projections} projections; give at least 1.")
    points, reference = _equal_numbers(points, reference, None, seed)
    n, d = points.shape
    normals = Draws([seed], ahead=False).normal("transport directions", 0, projections, d)[0]
    directions = torch.nn.functional.normalize(normals.to(torch.float64), dim=1)
    value, potentials = 0.0, points.new_zeros(n)
    together = max(1, _SORTED_TOGETHER // (2 * n))
    for first in range(0, projections, together):
        some = directions[first : first + together]
        distances, own = _on_lines(some @ points.T, some @ reference.T)
        value += distances.sum().item() / projections
        potentials += own.sum(0) / projections
    return Estimate(value, _error(potentials), ERROR)


def wasserstein_1(points: Array, reference: Array, *, limit: int = 2000, seed: int = 0) -> Estimate:
    """Exact W1 between as many points of each, in their units: 0 or more, lower is better.

    Shapes: points (n, d), reference (r, d), any float or integer type. Of each set min(n, r, limit) points are used,
    drawn with the seed. In one dimension they are sorted, in more they are assigned, in time of the order of
    limit^3: some seconds at 2,000 points.
    Errors: InputError for points that are empty, of different width, or hold NaN or infinities.
    """
    if limit < 1:
        raise InputError(f"transport: a limit of {limit} points; give at least 1.")
    points, reference = _equal_numbers(points, reference, limit, seed)
    if points.shape[1] == 1:
        distances, potentials = _on_lines(points.T, reference.T)
        return Estimate(distances.item(), _error(potentials[0]), ERROR)
    value, potential = _assigned(points, reference)
    return Estimate(value, _error(potential), ERROR)


def _on_lines(points: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """W1 on each of some lines (l,), and the points' potentials (l, n), from places (l, n) and the reference's."""
    n = points.shape[1]
    together = torch.cat([points, reference], dim=1)
    # numpy sorts three times as fast as torch; which of equal places comes first changes nothing.
    order = torch.from_numpy(np.argsort(together.numpy(), axis=1))
    places = together.gather(1, order)
    # Of the points' distribution function over the reference's, times n, between neighbouring places.
    excess = torch.where(order < n, 1, -1).cumsum(1)[:, :-1]
    gaps = places.diff(dim=1)
    # A point at x adds its weight to the distribution function everywhere from x on.
    slopes = torch.nn.functional.pad(excess.sign() * gaps, (0, 1))
    potentials = torch.empty_like(places).scatter_(1, order, slopes.flip(1).cumsum(1).flip(1))
    return (excess.abs() * gaps).sum(1) / n, potentials[:, :n]


def _assigned(points: Tensor, reference: Tensor) -> tuple[float, Tensor]:
    """W1 by the cheapest assignment of the points (n, d) to the reference's, and the points' potential (n,)."""
    from scipy.optimize import linear_sum_assignment

    costs = torch.cdist(points, reference, compute_mode="donot_use_mm_for_euclid_dist")
    _, partners = linear_sum_assignment(costs.numpy())
    paid = costs.gather(1, torch.from_numpy(partners)[:, None])
    # What point i may exceed point k by, if i takes k's partner at no loss. The potential is the length of the
    # shortest path to each point, found by relaxing all paths at once; the cheapest assignment leaves no path shorter
    # than zero around.
    excess = costs[:, partners].sub_(paid.T)
    potential = points.new_zeros(len(points))
    tolerance = 1e-9 * paid.mean()
    work = torch.empty_like(excess)
    for _ in range(len(points)):
        shorter = torch.add(excess, potential, out=work).amin(1)
        change = (potential - shorter).amax()
        potential = shorter
        if change <= tolerance:
            break
    return paid.mean().item(), potential


def _error(potential: Tensor) -> float:
    return potential.std(correction=0).item() / math.sqrt(len(potential))


def _equal_numbers(points: Array, reference: Array, limit: int | None, seed: int) -> tuple[Tensor, Tensor]:
    """As many of the points as of the reference: float64 (n, d) on the CPU."""
    first = checked("transport: points", points).to("cpu", torch.float64)
    second = checked("transport: reference", reference).to("cpu", torch.float64)
    if first.shape[1] != second.shape[1]:
        raise InputError(
            f"transport: points have {first.shape[1]} values each, the reference {second.shape[1]}; they must agree."
        )
    n = min(len(first), len(second), *([] if limit is None else [limit]))
    return _drawn(first, n, seed), _drawn(second, n, seed)


def _drawn(points: Tensor, n: int, seed: int) -> Tensor:
    """n of the points, none twice: the same places from sets of equal length, so that equal sets stay equal."""
    if n == len(points):
        return points
    return points[Draws([seed]).orders("transport points", 0, 1, len(points))[0, 0, :n]]
