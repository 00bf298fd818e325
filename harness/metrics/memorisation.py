"""Memorisation: whether samples lie nearer to the training images than held-out images do.

The idea is that of Meehan, Chaudhuri and Dasgupta (2020), "A non-parametric test to detect data-copying", which
compares the same two sets of distances. Theirs is a test's z-score, which grows with the numbers of points, within
each cell of a partition of a feature space; ours is the probability behind it, over all points and in pixels. So it
compares across sizes, but copies in one region and samples far from the data in another can cancel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.errors import InputError
from harness.metrics.estimate import Estimate
from harness.metrics.neighbours import POINTS_PER_TILE, nearest_squared_distances
from harness.metrics.points import Array, checked

OVER_BOTH = "over samples and held-out images, the training set fixed, by DeLong's method"


@dataclass(frozen=True)
class Memorisation:
    """How near samples lie to the training images, against held-out images.

    `value` estimates the probability in [0, 1] that a sample lies nearer than a held-out image, ties counted half:
    0.5 is ideal, near 1 are copies, near 0 is far from the data. Smooth, blurred samples lie near everything in
    pixels, so a high value alone does not prove copying: `exact_copies` counts samples at distance zero. The medians
    are of the distances, in their units.
    """

    value: Estimate
    exact_copies: int
    median_sample: float
    median_held_out: float


def nearest(points: Array, training: Array) -> Tensor:
    """Euclidean distance of each point (n, d) to the nearest training point (t, d), float64 (n,), in their units.

    Any real type, uint8 pixels too; zero for an exact copy and for nothing else. Summed from differences in float64,
    so exact squares for whole numbers. Working memory as for `neighbours.neighbourhoods`.
    Errors: InputError for no points, widths that differ, NaN, infinite or huge values.
    """
    targets = checked("memorisation: training", training)
    return nearest_squared_distances(
        checked("memorisation: points", points, dimension=targets.shape[1]), targets
    ).sqrt_()


def nearest_with_places(points: Array, training: Array) -> tuple[Tensor, Tensor]:
    """The place of the training point (t, d) nearest to each point (n, d), int64 (n,), and its distance, as `nearest`.

    The first of those equally near. Pair by pair in float64, so for the few points of a picture. Errors: as `nearest`.
    """
    targets = checked("memorisation: training", training)
    sources = checked("memorisation: points", points, dimension=targets.shape[1]).to(targets.device).double()
    least = sources.new_full((len(sources),), torch.inf)
    places = torch.zeros(len(sources), dtype=torch.int64, device=targets.device)
    for first in range(0, len(targets), POINTS_PER_TILE):
        tile = targets[first : first + POINTS_PER_TILE].double()
        # Of differences: products of matrices would tell copies from near copies up to rounding alone.
        distances, found = torch.cdist(sources, tile, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        places = torch.where(distances < least, first + found, places)
        least = torch.minimum(distances, least)
    return places, least


def memorisation(sample_distances: Tensor, held_out_distances: Tensor) -> Memorisation:
    """Compares samples' distances (n,) to the nearest training image with those of held-out images (h,).

    `value` is the Mann-Whitney estimate, its standard error that of DeLong, DeLong and Clarke-Pearson (1988).
    Errors: InputError for fewer than two distances of a kind, for NaN, infinite or negative ones.
    """
    samples = _checked("sample distances", sample_distances)
    held_out = _checked("held-out distances", held_out_distances).to(samples.device)
    of_samples = _share_beyond(samples, held_out)
    of_held_out = 1 - _share_beyond(held_out, samples)
    variance = of_samples.var() / len(samples) + of_held_out.var() / len(held_out)
    return Memorisation(
        value=Estimate(float(of_samples.mean()), math.sqrt(float(variance)), OVER_BOTH),
        exact_copies=int((samples == 0).sum()),
        median_sample=float(samples.quantile(0.5)),
        median_held_out=float(held_out.quantile(0.5)),
    )


def _share_beyond(values: Tensor, others: Tensor) -> Tensor:
    """For each value the share of others that are larger, and half of those that equal it."""
    ascending = others.sort().values
    not_below = torch.searchsorted(ascending, values)
    not_above = torch.searchsorted(ascending, values, right=True)
    return 1 - (not_below + not_above).double() / (2 * len(others))


def _checked(name: str, distances: Tensor) -> Tensor:
    checked = distances.detach().double()
    if checked.ndim != 1 or len(checked) < 2:
        raise InputError(f"memorisation: {name} have shape {tuple(checked.shape)}; give two or more in one dimension.")
    if not bool((checked.isfinite() & (checked >= 0)).all()):
        raise InputError(f"memorisation: {name} hold NaN, infinite or negative values; mend the points behind them.")
    return checked
