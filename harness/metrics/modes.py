"""Modes of a toy mixture that samples reach, and how many samples lie on one.

A mode is the ball of three standard deviations around its mean. A perfect model does not put all points there: of a
Gaussian in one dimension 99.7 % lie inside, in two 98.9 %, in three 97.1 %.
Source: Srivastava et al., VEEGAN (2017), and Lin et al., PacGAN (2018), whose modes need a single point; a share of the
points keeps the number of modes from growing with the number of samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from harness.errors import InputError
from harness.metrics.estimate import Estimate
from harness.metrics.points import Array, checked

RADIUS = 3
"""In standard deviations of a mode."""

SMALLEST_SHARE = 100
"""A mode is reached by one part of the points in so many."""


def mode_coverage(points: Array, means: Array, sigma: float) -> Estimate:
    """Number of modes reached, of which at least 1 % of the points lie within 3 sigma: higher is better.

    Shapes: points (n, d), means (modes, d), in original units, as sigma is. A point near several modes counts for
    each. Of more than 100 modes apart, not all can be reached.
    Errors: InputError for points or means that are empty, of different width, or hold NaN or infinities, and for a
    sigma that is not above 0.
    """
    inside = _inside(points, means, sigma)
    reached = SMALLEST_SHARE * inside.sum(0) >= len(inside)
    return Estimate(float(reached.sum()), None, "none: a count of modes past a threshold")


def high_quality(points: Array, means: Array, sigma: float) -> Estimate:
    """Share of the points within 3 sigma of any mode: in [0, 1], higher is better.

    Shapes and errors as for `mode_coverage`. The standard error is binomial over points. It counts two points more
    inside and two more outside (Agresti and Coull 1998), so it does not vanish where all or none are inside.
    """
    inside = _inside(points, means, sigma).any(1)
    n, count = len(inside), int(inside.sum())
    share = (count + 2) / (n + 4)
    error = math.sqrt(share * (1 - share) / (n + 4))
    return Estimate(count / n, error, "over samples, binomial")


def _inside(points: Array, means: Array, sigma: float) -> Tensor:
    """Whether each point lies within 3 sigma of each mode: bool (n, modes)."""
    if not (math.isfinite(sigma) and sigma > 0):
        raise InputError(f"modes: sigma is {sigma}; give the modes' standard deviation, a finite number above 0.")
    checked_points = checked("modes: points", points).to("cpu", torch.float64)
    checked_means = checked("modes: means", means).to("cpu", torch.float64)
    if checked_points.shape[1] != checked_means.shape[1]:
        raise InputError(
            f"modes: points have {checked_points.shape[1]} values each, means {checked_means.shape[1]}; "
            "give both in the toy's original units."
        )
    # By differences: a product would cancel far from the origin, where sigma is small.
    distances = torch.cdist(checked_points, checked_means, compute_mode="donot_use_mm_for_euclid_dist")
    return distances <= RADIUS * sigma
