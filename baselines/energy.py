"""`energy`: generation by a discriminator alone.

A scorer learns to tell images from negatives by logistic loss. In rounds, gradient ascent of its logit from uniform
noise finds what it takes for images: the next negatives. The best scorer's logit is log p(image) - log p(negative), so
an ascent leads to where negatives are still too few. Samples are the ends of fresh ascents. Sources: Tu, Learning
generative models via discriminative approaches (2007); Lazarow, Jin and Tu, Introspective neural networks for
generative modeling (2017); for ascents that are short and all begin from noise, Nijkamp et al., Learning non-convergent
non-persistent short-run MCMC toward energy-based model (2019). Here they have no noise but their starts.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from baselines.baseline import Baseline, Descent, Task
from baselines.perceptron import ActivationName, Perceptron, Width
from harness.experiment import Fraction, OptimizerSettings, Positive, Settings
from harness.layers import Parameters
from harness.training.feed import Batch
from harness.training.loop import State

Count = Annotated[int, Field(ge=1)]


class EnergySettings(Settings):
    """What scores, and how negatives are found.

    For long rounds take more negatives and smaller steps: the scorer has time to run away from them.
    """

    hidden: tuple[Width, ...] = (256, 256)
    activation: ActivationName = "leaky_relu"
    round_length: Count = 1
    """In iterations. The negatives of the first round are noise."""
    negatives: Count = 64
    """How many are held, all of which each process finds."""
    kept: Fraction = 0.0
    """The share of them, drawn at random, that stays when a round begins: so some are of rounds long past."""
    steps: Count = 10
    """Of an ascent, which stays in [0, 1]; their size falls linearly to zero."""
    step_size: Positive = 0.5
    momentum: Fraction = 0.5

    @model_validator(mode="after")
    def _renews(self) -> EnergySettings:
        if self.renewed < 1:
            raise ValueError(f"should have a smaller `kept` or more `negatives`: of {self.negatives} none is renewed")
        return self

    @property
    def renewed(self) -> int:
        """How many negatives a round finds."""
        return round(self.negatives * (1 - self.kept))


class Energy(Baseline):
    """A stack of scorers. History: the logistic loss in nats, and the mean logits of images and of negatives."""

    settings_class = EnergySettings
    optimizer = OptimizerSettings(name="Adam", lr=1e-3)
    columns = ("loss", "score_real", "score_fake")
    parts = ("model", "optimizer", "negatives")
    stack_sizes = {"cpu": 2, "cuda": 16}

    def __init__(self, settings: EnergySettings, task: Task) -> None:
        super().__init__(settings, task)
        self.settings = settings
        self.descent = Descent(task)
        self.scorer = Perceptron("scorer", (task.width, *settings.hidden, 1), settings.activation, of=self)

    def init(self) -> State:
        """Layers start as torch's, negatives as noise."""
        model = self.scorer.init()
        noise = self.draws.whole().uniform("init/negatives", 0, self.settings.negatives, self.task.width)
        return {"model": model, "optimizer": self.descent.init(model), "negatives": {"images": noise}}

    def step(self, state: State, batch: Batch, iteration: int) -> Tensor:
        """One update of the scorer, before which negatives are renewed where a round begins."""
        model, negatives = state["model"], state["negatives"]["images"]
        for tensor in model.values():
            tensor.requires_grad_()
        if iteration and iteration % self.settings.round_length == 0:
            self._renew(model, negatives, iteration // self.settings.round_length)
        x = torch.cat([self.vectors(batch), self._chosen(negatives, iteration)], 1)
        real, fake = self.scorer(model, x).squeeze(2).chunk(2, 1)
        loss = functional.softplus(-real) + functional.softplus(fake)
        self.descent.descend(loss.sum(1) / self.task.batch_size, model, state["optimizer"], iteration)
        return torch.stack([self.batch_mean(values) for values in (loss, real, fake)])

    def sample(self, state: State, n: int, *, purpose: str = "sample", first: int = 0) -> Tensor:
        """Where ascents from noise of their own end."""
        noise = self.draws.whole(offset=first).uniform(f"{purpose}/noise", 0, n, self.task.width)
        return self.images(self.ascend(state["model"], noise))

    def ascend(self, model: Parameters, x: Tensor) -> Tensor:
        """The ends of gradient ascents of the logit from x (m, n, c h w), with momentum: the same shape, in [0, 1]."""
        velocity = torch.zeros_like(x)
        for step in range(self.settings.steps):
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(self.scorer(model, x).sum(), x)
            velocity = self.settings.momentum * velocity + slope
            x = (x.detach() + self.settings.step_size * (1 - step / self.settings.steps) * velocity).clamp(0, 1)
        return x.detach()

    @property
    def round_length(self) -> int:
        """The iterations from one renewal of the negatives to the next."""
        return self.settings.round_length

    @torch.no_grad()
    def landscape(self, state: State, points: Tensor) -> Tensor:
        """The logits of points (n, c h w) in [0, 1]: (m, n)."""
        x = points.to(device=self.processes.device, dtype=self.processes.dtype)
        return self.scorer(state["model"], x.expand(self.members, *x.shape)).squeeze(2)

    def _renew(self, model: Parameters, negatives: Tensor, round_number: int) -> None:
        """Put the ends of new ascents in the places of some negatives, drawn at random; the same on all processes."""
        draws, count = self.draws.whole(), self.settings.renewed
        noise = draws.uniform("negatives/noise", round_number, count, negatives.shape[2])
        places = draws.orders("negatives/places", round_number, 1, negatives.shape[1])[:, 0, :count]
        found = self.ascend(model, noise)
        negatives.scatter_(1, places[:, :, None].expand_as(found), found)

    def _chosen(self, negatives: Tensor, iteration: int) -> Tensor:
        """This process's part of a batch of negatives, drawn with replacement: (m, local n, c h w)."""
        uniform = self.draws.uniform("negatives/chosen", iteration, self.task.batch_size, 1)
        places = (uniform * negatives.shape[1]).long()
        return negatives.gather(1, places.expand(-1, -1, negatives.shape[2]))
