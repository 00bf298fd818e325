"""`vae`: a variational autoencoder with a Gaussian encoder and a Bernoulli decoder, both fully connected.

z ~ N(0, I), x given z independent Bernoulli variables; grey levels stand for probabilities. Source: Kingma and Welling,
Auto-encoding variational Bayes (2014), appendices B and C; the bound by several draws: Burda, Grosse and Salakhutdinov,
Importance weighted autoencoders (2016).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from baselines.baseline import Descent, OfPrior, Task
from baselines.perceptron import ActivationName, Perceptron, Width
from harness.experiment import LatentSettings, OptimizerSettings, Settings
from harness.training.feed import Batch
from harness.training.loop import State


class VaeSettings(Settings):
    """`hidden` lists the widths from the images to the latents; the decoder has them in reverse."""

    latent: Width = 20
    hidden: tuple[Width, ...] = (500,)
    activation: ActivationName = "relu"


class Vae(OfPrior):
    """A stack of variational autoencoders.

    History, in nats an image: the evidence lower bound, elbo = reconstruction - kl; the log-probability of the image
    given one draw of its latent; and the divergence of q(z | x) from the prior.
    """

    settings_class = VaeSettings
    optimizer = OptimizerSettings(name="Adam", lr=1e-3)
    columns = ("elbo", "reconstruction", "kl")
    parts = ("model", "optimizer")
    bernoulli_means = True
    stack_sizes = {"cpu": 2, "cuda": 16}

    def __init__(self, settings: VaeSettings, task: Task) -> None:
        super().__init__(settings, task)
        self.prior = LatentSettings(size=settings.latent, distribution="normal")
        self.descent = Descent(task)
        widths = (task.width, *settings.hidden)
        back = (settings.latent, *reversed(widths))
        mean = torch.logit(task.mean_image.flatten(), eps=1e-3)
        self.encoder = Perceptron("encoder", (*widths, 2 * settings.latent), settings.activation, of=self)
        self.decoder = Perceptron("decoder", back, settings.activation, of=self, output_bias=mean)

    def init(self) -> State:
        """Layers start as torch's; the last bias gives the mean image."""
        model = self.encoder.init() | self.decoder.init()
        return {"model": model, "optimizer": self.descent.init(model)}

    def step(self, state: State, batch: Batch, iteration: int) -> Tensor:
        """One update up the bound, by one draw of each image's latent."""
        model = state["model"]
        for tensor in model.values():
            tensor.requires_grad_()
        x = self.vectors(batch)
        mean, log_std = self.posterior(model, x)
        noise = self.draws.normal("latent", iteration, self.task.batch_size, self.prior.size)
        reconstruction = log_likelihood(self.decoder(model, mean + log_std.exp() * noise), x)
        kl = divergence(mean, log_std)
        elbo = reconstruction - kl
        self.descent.descend(-elbo.sum(1) / self.task.batch_size, model, state["optimizer"], iteration)
        return torch.stack([self.batch_mean(values) for values in (elbo, reconstruction, kl)])

    @torch.no_grad()
    def images_at(
        self, state: State, z: Tensor, y: Tensor | None, *, purpose: str = "sample", first: int = 0
    ) -> Tensor:
        """The means of the images of latents (m, n, latent): (m, n, c, h, w)."""
        return self.images(self.decoder(state["model"], z).sigmoid())

    @torch.no_grad()
    def bound(self, state: State, images: Tensor, k: int, *, purpose: str = "bound", first: int = 0) -> Tensor:
        """Lower bounds on log p(x), in nats, by k importance-weighted draws each: (m, n), float64.

        Of images (m, n, c, h, w), which stand in the places first..first+n-1 of a list. In expectation it is the
        evidence lower bound at k = 1, never falls with k, and tends to log p(x). Of grey images it bounds the mean of
        log p over their binary draws from below. Source: Burda et al. 2016, equation 8.
        """
        model = {name: tensor.detach().double() for name, tensor in state["model"].items()}
        x = images.flatten(2).double()
        draws = self.draws.whole(offset=first)
        mean, log_std = self.posterior(model, x)
        total = torch.full(x.shape[:2], -math.inf, dtype=x.dtype, device=x.device)
        for draw in range(k):
            noise = draws.normal(purpose, draw, x.shape[1], self.prior.size).double()
            z = mean + log_std.exp() * noise
            log_weight = log_likelihood(self.decoder(model, z), x)
            log_weight += (log_std + (noise.square() - z.square()) / 2).sum(-1)  # log p(z) - log q(z | x)
            total = torch.logaddexp(total, log_weight)
        return total - math.log(k)

    def posterior(self, model: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the deviation of q(z | x), x (m, n, c h w): (m, n, latent) each."""
        mean, log_std = self.encoder(model, x).chunk(2, -1)
        return mean, log_std


def log_likelihood(logits: Tensor, x: Tensor) -> Tensor:
    """log p of x in [0, 1] under independent Bernoulli variables: (m, n, width) both to (m, n)."""
    return -functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


def divergence(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(mean, diag exp(2 log_std)) || N(0, I)) in nats: (m, n, latent) both to (m, n). Source: appendix B."""
    return ((mean.square() + (2 * log_std).exp() - 1) / 2 - log_std).sum(-1)
