"""`autoencoder`: a deterministic autoencoder whose decoder is fed from a Gaussian fitted to its codes.

Encoder and decoder are fully connected and trained on the cross-entropy of grey levels alone; then the weights rest,
and a last phase sums the codes' first and second moments, from which the Gaussian with a full covariance is fitted.
Until then the decoder is fed from N(0, I): samples of earlier snapshots do not know where the codes lie.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from baselines.baseline import Descent, OfPrior, Phase, Task, check_phases, phase
from baselines.perceptron import ActivationName, Perceptron, Width
from harness.experiment import LatentSettings, OptimizerSettings, Positive, Settings
from harness.layers import Parameters
from harness.training.feed import Batch
from harness.training.loop import State

_RIDGE = 1e-6  # of the codes' mean variance, added to each: a covariance of few codes, or of dead units, is singular


class AutoencoderSettings(Settings):
    """`hidden` lists the widths from the images to the codes; the decoder has them in reverse."""

    code: Width = 20
    hidden: tuple[Width, ...] = (500,)
    activation: ActivationName = "relu"
    phases: tuple[Positive, Positive] = (9.0, 1.0)
    """The shares of the iterations in which weights are trained and codes are counted."""


class Autoencoder(OfPrior):
    """A stack of autoencoders. History: the cross-entropy of images and their reconstructions, in nats an image."""

    settings_class = AutoencoderSettings
    optimizer = OptimizerSettings(name="Adam", lr=1e-3)
    columns = ("cross_entropy",)
    parts = ("model", "optimizer", "moments")
    bernoulli_means = True
    stack_sizes = {"cpu": 2, "cuda": 16}

    def __init__(self, settings: AutoencoderSettings, task: Task) -> None:
        super().__init__(settings, task)
        check_phases(settings.phases, task.iterations)
        self.settings = settings
        self.prior = LatentSettings(size=settings.code, distribution="normal")
        self.descent = Descent(task)
        widths = (task.width, *settings.hidden, settings.code)
        mean = torch.logit(task.mean_image.flatten(), eps=1e-3)
        self.encoder = Perceptron("encoder", widths, settings.activation, of=self)
        self.decoder = Perceptron("decoder", widths[::-1], settings.activation, of=self, output_bias=mean)

    def init(self) -> State:
        """Layers start as torch's, the last bias gives the mean image; the codes' Gaussian is N(0, I)."""
        trained = self.encoder.init() | self.decoder.init()
        like = self.mean_vector()
        size = self.settings.code
        fitted = {
            "codes.mean": like.new_zeros(self.members, size),
            "codes.factor": torch.eye(size, dtype=like.dtype, device=like.device).repeat(self.members, 1, 1),
        }
        moments = {
            "sums": torch.zeros(self.members, size, dtype=torch.float64, device=like.device),
            "products": torch.zeros(self.members, size, size, dtype=torch.float64, device=like.device),
        }
        return {"model": trained | fitted, "optimizer": self.descent.init(trained), "moments": moments}

    def step(self, state: State, batch: Batch, iteration: int) -> Tensor:
        """One update of the weights, or the moments of one more batch of codes."""
        now = phase(self.settings.phases, self.task.iterations, iteration)
        model = state["model"]
        trained = {name: tensor for name, tensor in model.items() if not name.startswith("codes.")}
        for tensor in trained.values():
            tensor.requires_grad_()
        x = self.vectors(batch)
        with torch.set_grad_enabled(now.number == 0):
            codes = self.encoder(trained, x)
            logits = self.decoder(trained, codes)
            loss = functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
        if now.number == 0:
            self.descent.descend(loss.sum(1) / self.task.batch_size, trained, state["optimizer"], iteration)
        else:
            self._count(state["moments"], codes.double())
            if now.ends:
                self._fit(model, state["moments"], now)
        return self.batch_mean(loss)[None]

    @torch.no_grad()
    def images_at(
        self, state: State, z: Tensor, y: Tensor | None, *, purpose: str = "sample", first: int = 0
    ) -> Tensor:
        """The decoded images of latents (m, n, code): (m, n, c, h, w)."""
        model = state["model"]
        codes = torch.baddbmm(model["codes.mean"][:, None], z, model["codes.factor"].mT)
        return self.images(self.decoder(model, codes).sigmoid())

    def _count(self, moments: Parameters, codes: Tensor) -> None:
        """Add the moments of a batch of codes, (m, local n, code) on each process."""
        moments["sums"] += self.processes.total(codes.sum(1))
        moments["products"] += self.processes.total(codes.mT @ codes)

    def _fit(self, model: Parameters, moments: Parameters, now: Phase) -> None:
        """Set the Gaussian's mean and the lower triangular factor of its covariance."""
        mean, factor = gaussian(moments["sums"], moments["products"], now.length * self.task.batch_size)
        model["codes.mean"].copy_(mean)
        model["codes.factor"].copy_(factor)


def gaussian(sums: Tensor, products: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The Gaussian of n codes by the sums of them (m, size) and of their outer products (m, size, size), in float64.

    The mean (m, size), and a lower triangular factor L (m, size, size) of the covariance L L^T.
    """
    mean = sums / n
    covariance = products / n - mean[:, :, None] * mean[:, None, :]
    variance = covariance.diagonal(dim1=1, dim2=2)
    # Codes that are all the same leave rounding alone.
    least = _RIDGE * variance.mean(1, keepdim=True) + 1e-12 * (1 + mean.square().mean(1, keepdim=True))
    # Unchecked: a member that has diverged must not stop the others.
    factor, _ = torch.linalg.cholesky_ex(covariance + torch.diag_embed(least.expand_as(variance)))
    return mean, factor
