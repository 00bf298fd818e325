"""Frechet distance between two sets of features: that of the Gaussians with their means and covariances.

    FID = ||mu - mu_r||^2 + tr Sigma + tr Sigma_r - 2 tr (F' Sigma F)^(1/2),    F F' = Sigma_r

The form under the root is symmetric, so its eigenvalues are real and cheap, and F belongs to the reference alone.
Everything is float64, whose products TF32 never touches. Lower is better; the unit is that of squared features.
Source: Dowson and Landau (1982); Heusel et al. (2017), section 2, equation 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.errors import InputError
from harness.metrics.estimate import Estimate
from harness.metrics.points import ALONE, Array, Processes, checked

FEWEST_FOR_INFINITY = 5000
"""Chong and Forsyth's fit is straight from about so many samples on."""

ROWS_PER_BLOCK = 4096  # 64 MiB of float64 at 2,048 features


@dataclass(frozen=True)
class Moments:
    """Mean (d,) and covariance (d, d), ddof 1, float64, of `count` points."""

    mean: Tensor
    covariance: Tensor
    count: int


@dataclass(frozen=True)
class Reference:
    """Moments of a reference and a root (d, rank) of their covariance: root root' = covariance."""

    moments: Moments
    root: Tensor


def moments(features: Array, *, processes: Processes = ALONE) -> Moments:
    """Mean and covariance of features (n, d), any float or integer type, on their device.

    The covariance is a sum of products that are centred first, so nothing cancels. With several processes, each passes
    all features and sums over its share; all get the same bits. Working memory: some (d, d) matrices and a block.
    Errors: InputError for fewer than two points, or for NaN, infinite or huge values.
    """
    return _moments(checked("fid: features", features, at_least=2), processes)


def reference(moments: Moments) -> Reference:
    """The reference with its root, to be made once and kept: one eigendecomposition.

    Directions without variance are left out of the root, so that no rounding is taken for variance.
    """
    values, vectors = torch.linalg.eigh(moments.covariance)
    kept = _beyond_rounding(values)
    return Reference(moments, vectors[:, kept] * values[kept].sqrt())


def frechet_distance(moments: Moments, reference: Reference) -> float:
    """The Frechet distance of two Gaussians, from 0 (the same) upwards, on the device of `moments`.

    Accurate to about 1e-12 of the traces, and to 1e-8 for each direction in which the reference alone has variance
    though the points outnumber the dimensions. Rounding below zero is given as zero.
    Errors: InputError where they differ in dimension.
    """
    reference = _alike(reference, moments)
    return _distance(moments, reference, torch.linalg.eigvalsh(_product(moments, reference)))


def fid(features: Array, reference: Reference, *, processes: Processes = ALONE) -> Estimate:
    """Frechet distance of features (n, d) from a reference, lower is better, with its error over samples.

    The error is that of the infinitesimal jackknife: the distance's derivative by the weight of a sample x is

        psi(x) = 2 (x - mu)' (mu - mu_r) + (x - mu)' (I - T) (x - mu) - its mean,    T = F (F' Sigma F)^(-1/2) F',

    T being the optimal transport map between the Gaussians, with the inverse on the range of the product, where all
    samples lie; the error is std(psi) / sqrt(n). Where the two distributions are nearly one psi vanishes, and the error
    is too large, by up to sqrt(2); by a tenth with only five samples a dimension, by more with fewer than d. It knows
    nothing of the reference's own sampling, of the bias, which falls with n (see `fid_infinity`), nor of training
    seeds. Types, processes and errors as for `moments`.
    """
    points = checked("fid: features", features, at_least=2)
    of_points = _moments(points, processes)
    reference = _alike(reference, of_points)
    values, vectors = torch.linalg.eigh(_product(of_points, reference))
    kept = _beyond_rounding(values)
    half_map = reference.root @ vectors[:, kept] * values[kept] ** -0.25  # its square is T
    shift = 2 * (of_points.mean - reference.moments.mean)
    influences = torch.cat(
        [
            block @ shift + block.square().sum(1) - (block @ half_map).square().sum(1)
            for block in _centred_blocks(points, of_points.mean, processes)
        ]
    )
    mean = processes.total(influences.sum()) / len(points)
    variance = processes.total((influences - mean).square().sum()) / (len(points) - 1)
    return Estimate(
        _distance(of_points, reference, values),
        float((variance / len(points)).sqrt()),
        "over samples, by infinitesimal jackknife, the reference fixed",
    )


def fid_infinity(
    features: Array, reference: Reference, *, sizes: int = 15, seed: int = 0, replicates: int = 20
) -> Estimate:
    """Frechet distance that infinitely many samples would have, as a line in 1/N foretells it; lower is better.

    The distance at `sizes` numbers N of samples, evenly from n/2 to n, each drawn without replacement with the seed;
    the value is the least-squares line's at 1/N = 0, and may fall below zero by chance. The error is the standard
    deviation over `replicates` bootstrap resamples of the images, each with draws of its own: it covers the sampling of
    images and the draws, not the reference (whose own bias stays in the value), nor a bend of the line, nor training
    seeds; from 20 replicates it is itself known to a sixth. Cost: sizes (replicates + 1) times moments and distance.
    Features (n, d) as for `moments`. Source: Chong and Forsyth (2020), section 4.
    Errors: InputError for fewer than 5,000 samples, two sizes or two replicates.
    """
    points = checked("fid_infinity: features", features, at_least=2)
    if len(points) < FEWEST_FOR_INFINITY:
        raise InputError(
            f"fid_infinity: {len(points)} samples are too few for the fit; "
            f"give {FEWEST_FOR_INFINITY} or more, or use fid."
        )
    if sizes < 2 or replicates < 2:
        raise InputError(f"fid_infinity: sizes ({sizes}) and replicates ({replicates}) must each be 2 or more.")
    random = np.random.RandomState(seed)  # its stream is frozen, default_rng's is not
    value = _intercept(points, reference, sizes, random)
    resamples = (points[_rows(random.randint(len(points), size=len(points)), points)] for _ in range(replicates))
    resampled = [_intercept(resample, reference, sizes, random) for resample in resamples]
    return Estimate(value, float(np.std(resampled, ddof=1)), "over samples, by bootstrap, the reference fixed")


def _moments(points: Tensor, processes: Processes) -> Moments:
    dimension = points.shape[1]
    sums = points.new_zeros(dimension, dtype=torch.float64)
    for block in _centred_blocks(points, sums.clone(), processes):
        sums += block.sum(0)
    mean = processes.total(sums) / len(points)
    products = mean.new_zeros(dimension, dimension)
    for block in _centred_blocks(points, mean, processes):
        products.addmm_(block.T, block)
    return Moments(mean, processes.total(products) / (len(points) - 1), len(points))


def _centred_blocks(points: Tensor, centre: Tensor, processes: Processes) -> Iterator[Tensor]:
    """This process's share of the points less the centre, float64."""
    for block in torch.split(points[processes.rank :: processes.count], ROWS_PER_BLOCK):
        yield block - centre


def _alike(reference: Reference, moments: Moments) -> Reference:
    """The reference on the device of the moments."""
    dimensions = len(moments.mean), len(reference.moments.mean)
    if dimensions[0] != dimensions[1]:
        raise InputError(
            f"fid: features have {dimensions[0]} values a point, the reference {dimensions[1]}; they must agree."
        )
    device, own = moments.mean.device, reference.moments
    return Reference(Moments(own.mean.to(device), own.covariance.to(device), own.count), reference.root.to(device))


def _product(moments: Moments, reference: Reference) -> Tensor:
    """F' Sigma F."""
    return reference.root.T @ moments.covariance @ reference.root


def _distance(moments: Moments, reference: Reference, eigenvalues: Tensor) -> float:
    """The distance, given the product's eigenvalues in ascending order."""
    eigenvalues = eigenvalues[1 - moments.count :]  # the others are zero, but for rounding that a root would magnify
    difference = moments.mean - reference.moments.mean
    traces = moments.covariance.trace() + reference.moments.covariance.trace()
    distance = difference.square().sum() + traces - 2 * eigenvalues.clamp(min=0).sqrt().sum()
    return max(0.0, float(distance))


def _beyond_rounding(eigenvalues: Tensor) -> Tensor:
    """Which of a matrix's eigenvalues, ascending, its rounding cannot have made."""
    return eigenvalues > len(eigenvalues) * torch.finfo(torch.float64).eps * eigenvalues[-1:]


def _intercept(points: Tensor, reference: Reference, sizes: int, random: np.random.RandomState) -> float:
    """The least-squares line of distances in 1/N, at zero."""
    counts = np.linspace(len(points) // 2, len(points), sizes).round().astype(int)
    subsets = (points[_rows(random.permutation(len(points))[:count], points)] for count in counts)
    distances = [frechet_distance(_moments(subset, ALONE), reference) for subset in subsets]
    return float(np.polynomial.Polynomial.fit(1 / counts, distances, 1)(0))


def _rows(indices: np.ndarray[tuple[int, ...], np.dtype[np.int64]], points: Tensor) -> Tensor:
    return torch.from_numpy(indices).to(points.device)
