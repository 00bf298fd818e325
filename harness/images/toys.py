"""Toys: mixtures of Gaussians whose density is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.images.image_set import Affine, ImageSet, Split, content_hash
from harness.images.places import refuse_path

SAMPLE_SEED = 2014
SIZES = (50_000, 10_000, 10_000)
MARGIN = 8  # standard deviations between the outermost means and the edge of the unit cube


@dataclass(frozen=True)
class Mixture:
    """Gaussians of equal weight and one isotropic standard deviation `sigma`, around `means` (modes, d)."""

    means: tuple[tuple[float, ...], ...]
    sigma: float

    def log_density(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """log p in nats, float64 (n,), at points (n, d) in original units."""
        means = np.asarray(self.means)
        squares = ((points[:, None] - means) ** 2).sum(-1)
        modes, d = means.shape
        normaliser = math.log(modes) + d * math.log(self.sigma * math.sqrt(2 * math.pi))
        log_densities: NDArray[np.float64] = np.logaddexp.reduce(-squares / (2 * self.sigma**2), axis=1) - normaliser
        return log_densities

    def sample(self, n: int, generator: np.random.Generator) -> NDArray[np.float64]:
        """Independent points (n, d), float64, in original units."""
        means = np.asarray(self.means)
        chosen = means[generator.integers(len(means), size=n)]
        return chosen + self.sigma * generator.standard_normal(chosen.shape)

    def affine(self) -> Affine:
        """The map from the unit cube to a cube around the origin that holds all means with MARGIN * sigma to spare."""
        means = np.asarray(self.means)
        edge = float(np.abs(means).max()) + MARGIN * self.sigma
        d = means.shape[1]
        return Affine(offset=(-edge,) * d, scale=(2 * edge,) * d)


MIXTURES = {
    # The standard normal distribution.
    "gaussian-1d": Mixture(means=((0.0,),), sigma=1.0),
    # Metz et al., Unrolled generative adversarial networks (2017): 8 modes on a circle of radius 2.
    "ring-8": Mixture(
        means=tuple((2 * math.cos(math.tau * i / 8), 2 * math.sin(math.tau * i / 8)) for i in range(8)), sigma=0.02
    ),
    # Lin et al., PacGAN (2018), 2D-grid: means (-4 + 2i, -4 + 2j), variance 0.0025.
    "grid-25": Mixture(means=tuple((-4.0 + 2 * i, -4.0 + 2 * j) for i in range(5) for j in range(5)), sigma=0.05),
}


def load(name: str, path: str | None, folders: Sequence[Path]) -> ImageSet:
    """One of MIXTURES as float32 (n, d, 1, 1) in [0, 1]: train 50,000 points, validation 10,000, test 10,000.

    The points are the same at every call; `affine.original` maps them, and a model's samples, to original units.
    """
    refuse_path(name, path)
    mixture = MIXTURES[name]
    affine = mixture.affine()
    points = mixture.sample(sum(SIZES), np.random.Generator(np.random.Philox(key=SAMPLE_SEED)))
    images = affine.images(points)
    # No point is ever clipped: an edge is MARGIN standard deviations away.
    assert images.min() > 0 and images.max() < 1
    train, validation, test = (Split(part) for part in np.split(images, np.cumsum(SIZES)[:-1]))
    return ImageSet(
        name=name,
        shape=(images.shape[1], 1, 1),
        train=train,
        validation=validation,
        test=test,
        content_hash=content_hash([train, validation, test]),
        affine=affine,
    )
