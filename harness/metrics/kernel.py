"""Kernel distance (KID): the squared maximum mean discrepancy between features under a cubic polynomial kernel.

    k(x, y) = (x'y / d + 1)^3,    KID = mean over subsets of  mean k(x, x') + mean k(y, y') - 2 mean k(x, y),  x != x'

Unbiased for independent sets at every number of samples, so it may fall below zero by chance, as it does for a set
against itself. Lower is better. Everything is float64, whose products TF32 never touches.
Source: Binkowski et al. (2018), section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.errors import InputError
from harness.metrics.estimate import Estimate
from harness.metrics.points import Array, checked

USUAL_SUBSET_SIZE = 1000


@dataclass(frozen=True)
class KernelDistance:
    """The distance, and the standard deviation (ddof 0) between subsets, which papers print as its error.

    That is the error of one subset: it does not fall as samples are added.
    """

    estimate: Estimate
    subset_std: float


def subset_size_for(n: int, n_reference: int) -> int:
    """The usual 1,000, or all of the smaller set where it has fewer."""
    return min(USUAL_SUBSET_SIZE, n, n_reference)


def kid(features: Array, reference: Array, *, subset_size: int, subsets: int = 100, seed: int = 2020) -> KernelDistance:
    """Kernel distance of features (n, d) from a reference's (n_r, d), any float or integer type, on their device.

    The subsets are those that torch-fidelity draws with the seed, so the values agree. The error is over samples, with
    the reference and the choice of subsets fixed, by the infinitesimal jackknife: in a subset of s, sample x moves the
    distance by 2/s (mean k(x, x') - mean k(x, y)) about its mean; what it does in all the subsets that hold it adds up,
    and the error is the root of the sum of squares over samples. So it holds for sets taken whole too, where subsets do
    not differ. Where both sets have one distribution the first derivative vanishes, and the error is too large, by at
    most a factor of sqrt(2). Working memory: some (s, s) matrices.
    Errors: InputError for subsets of fewer than two or of more than a set has, for no subsets, and for bad features.
    """
    points = checked("kid: features", features, at_least=2)
    reference_points = checked("kid: reference features", reference, at_least=2, dimension=points.shape[1])
    smaller = min(len(points), len(reference_points))
    if not 2 <= subset_size <= smaller or subsets < 1:
        raise InputError(
            f"kid: {subsets} subsets of {subset_size} cannot be drawn from {len(points)} samples and "
            f"{len(reference_points)} reference images; give 1 or more subsets of 2 to {smaller}."
        )
    reference_points = reference_points.to(points.device)
    random = np.random.RandomState(seed)
    distances, influences = [], points.new_zeros(len(points), dtype=torch.float64)
    for _ in range(subsets):
        rows, reference_rows = (
            torch.from_numpy(random.choice(len(each), subset_size, replace=False)).to(points.device)
            for each in (points, reference_points)
        )
        distance, of_samples = _squared_discrepancy(points[rows].double(), reference_points[reference_rows].double())
        distances.append(distance)
        influences[rows] += of_samples / subsets
    error = "over samples, by infinitesimal jackknife, the reference fixed"
    estimate = Estimate(float(np.mean(distances)), float(torch.linalg.vector_norm(influences)), error)
    return KernelDistance(estimate, float(np.std(distances)))


def _squared_discrepancy(x: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """The unbiased estimate from s points of each (s, d), and how much each of x moves it (s,), zero in sum."""
    others = len(x) - 1
    within = _kernel(x, x).fill_diagonal_(0).sum(1) / others
    within_reference = _kernel(y, y).fill_diagonal_(0).sum(1) / others
    across = _kernel(x, y).mean(1)
    witness = within - across
    distance = within.mean() + within_reference.mean() - 2 * across.mean()
    return float(distance), 2 * (witness - witness.mean()) / len(x)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T).div_(x.shape[1]).add_(1).pow_(3)
