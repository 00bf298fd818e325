"""`ppca`: probabilistic principal component analysis, a normal distribution with few directions of its own.

x = W z + mean + noise, with z standard normal and noise of one variance in all directions. The most likely W and noise
follow from the covariance's eigenvectors: Tipping and Bishop, Probabilistic principal component analysis (1999),
section 3.2, equations 7 and 8, with the covariance over n - 1, as scikit-learn's PCA has it.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from baselines.baseline import Task
from baselines.moments import OfMoments, eigh
from harness.errors import InputError
from harness.experiment import Settings
from harness.training.loop import State


class PpcaSettings(Settings):
    """How many directions, and what a sample is."""

    components: Annotated[int, Field(ge=1)] = 50
    noise: bool = True
    """Whether samples are draws from the density; else they are its means given latents, W z + mean."""


class Ppca(OfMoments):
    """A stack of PPCA models."""

    settings_class = PpcaSettings

    def __init__(self, settings: PpcaSettings, task: Task) -> None:
        super().__init__(settings, task)
        self.settings = settings
        if settings.components >= task.width:
            raise InputError(
                f"components = {settings.components}: images have {task.width} numbers; take at most {task.width - 1}."
            )

    def fitted(self, mean: Tensor, covariance: Tensor) -> dict[str, Tensor]:
        """The mean, W by falling variance, and the noise's standard deviation."""
        values, vectors = (part.flip(-1) for part in eigh(covariance))
        components = self.settings.components
        noise = values[:, components:].mean(1)
        vectors = vectors[..., :components]
        # A vector's sign means nothing: its largest number is positive, on every machine.
        largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
        scales = (values[:, :components] - noise[:, None]).clamp(min=0).sqrt()
        return {"mean": mean, "weight": vectors * largest.sign() * scales[:, None], "noise_std": noise.sqrt()}

    @torch.no_grad()
    def sample(self, state: State, n: int, *, purpose: str = "sample", first: int = 0) -> Tensor:
        """Draws, or means given latents; what falls outside [0, 1] is moved to its ends."""
        model, draws = state["model"], self.draws.whole(offset=first)
        latents = draws.normal(f"{purpose}/latent", 0, n, self.settings.components)
        images = torch.baddbmm(model["mean"][:, None], latents, model["weight"].mT)
        if self.settings.noise:
            images += model["noise_std"][:, None, None] * draws.normal(f"{purpose}/noise", 0, n, self.task.width)
        return self.images(images.clamp(0, 1))
