"""`gaussian`: the normal distribution of the training images' mean and full covariance.

The floor: a model that is no better has learnt two moments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.moments import OfMoments, eigh
from harness.experiment import Settings
from harness.training.loop import State


class GaussianSettings(Settings):
    """There is nothing to choose."""


class Gaussian(OfMoments):
    """A stack of normal distributions."""

    settings_class = GaussianSettings

    def fitted(self, mean: Tensor, covariance: Tensor) -> dict[str, Tensor]:
        """The mean, and the covariance's symmetric root, which unlike others depends on no order or sign of vectors."""
        values, vectors = eigh(covariance)
        return {"mean": mean, "root": (vectors * values.sqrt()[:, None]) @ vectors.mT}

    @torch.no_grad()
    def sample(self, state: State, n: int, *, purpose: str = "sample", first: int = 0) -> Tensor:
        """Draws; what falls outside [0, 1] is moved to its ends."""
        mean, root = state["model"]["mean"], state["model"]["root"]
        normal = self.draws.whole(offset=first).normal(purpose, 0, n, self.task.width)
        return self.images(torch.baddbmm(mean[:, None], normal, root).clamp(0, 1))
