"""`deep-gsn`: a generative stochastic network of two hidden layers, which learns one step of a Markov chain.

A step of the chain corrupts x by salt and pepper, updates h1 from x and h2, then x and h2 from h1:

    h1 = tanh(x~ W1 + h2 W2^T + b1)     p(x | h1) = sigmoid(h1 W1^T + a)     h2 = tanh(h1 W2 + b2)

with Gaussian noise before and after the tanh of h2. In training the chain walks on from each image for some steps, x
drawn from p(x | h1) in between without a gradient, and every p(x | h1) is asked for the image. Sources: Bengio et al.,
Deep generative stochastic networks trainable by backprop (2014), and its authors' code, which leaves h1 without noise;
Bengio et al., Generalized denoising auto-encoders as generative models (2013), for the walk back. Sizes, Adam and the
clip of the gradient, without which training has spikes, are chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from baselines.baseline import Chain, Descent, Task, Walk
from baselines.layered import LayerSettings, OfLayers, WholeNumber
from baselines.rbm import bernoulli
from harness.experiment import OptimizerSettings, Positive
from harness.training.feed import Batch
from harness.training.loop import State

NotNegative = Annotated[float, Field(ge=0)]


class DeepGsnSettings(LayerSettings):
    """The learning rate falls linearly to zero, unless the optimizer's `lr_zero_at` says when."""

    hidden: tuple[WholeNumber, WholeNumber] = (500, 500)
    walk_back: Annotated[int, Field(ge=2)] = 4
    """Steps of the chain an update; with one alone, h2 would not learn."""
    corruption: Annotated[float, Field(ge=0, le=1)] = 0.4
    """The share of pixels that turn black or white, either as likely."""
    noise: tuple[NotNegative, NotNegative] = (0.0, 2.0)
    """Each hidden layer's deviation of the Gaussian noise, added before and after its nonlinearity."""
    clip: Positive = 100.0
    """The largest norm of a gradient."""
    burn_in: WholeNumber = 500
    gap: WholeNumber = 10


class DeepGsn(OfLayers):
    """A stack of deep generative stochastic networks.

    History: the loss, an image, summed over steps and pixels; and the mean squared error, a unit, of p(x | h1) after
    the first step.
    """

    settings_class = DeepGsnSettings
    optimizer = OptimizerSettings(name="Adam", lr=6e-3)
    columns = ("loss", "reconstruction_error")
    parts = ("model", "optimizer")
    bernoulli_means = True
    stack_sizes = {"cpu": 2, "cuda": 16}

    def __init__(self, settings: DeepGsnSettings, task: Task) -> None:
        super().__init__(settings, task)
        self.settings = settings
        self.descent = Descent(task, clip=settings.clip, updates=task.iterations)

    def init(self) -> State:
        """Even weights on +-sqrt(6 / (inputs + outputs)); biases of zero, or such that they give the mean image."""
        model = {"visible.bias": self.mean_bias()}
        for layer, below, above in self.layers():
            model[f"hidden{layer + 1}.weight"] = self.even_weight(f"init/hidden{layer + 1}", below, above)
            model[f"hidden{layer + 1}.bias"] = self.zeros(above)
        return {"model": model | {"mean_image": self.mean_vector()}, "optimizer": self.descent.init(model)}

    def step(self, state: State, batch: Batch, iteration: int) -> Tensor:
        """One update."""
        x = self.vectors(batch)
        model = {name: tensor.detach().requires_grad_() for name, tensor in state["model"].items()}
        model.pop("mean_image")
        v, h2 = x, None
        found: list[Tensor] = []
        for back in range(self.settings.walk_back):
            walk = Walk(self.draws, f"walk-back{back}", iteration, self.task.batch_size)
            with self.processes.autocast():
                h1, logits = self._down(model, v, h2, walk)
                if back + 1 < self.settings.walk_back:
                    v, h2 = self._visible(logits, walk), self._up(model, h1, walk)
            found.append(logits)
        losses = [functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1) for logits in found]
        loss = torch.stack(losses).sum(0)
        self.descent.descend(loss.sum(1) / self.task.batch_size, model, state["optimizer"], iteration)
        error = (found[0].detach().sigmoid() - x).square().mean(-1)
        return torch.stack([self.batch_mean(loss), self.batch_mean(error)])

    def chain(self, state: State) -> Chain:
        """Steps from binary draws of the mean training image; shown are the means p(x | h1)."""
        model, width = state["model"], self.task.width

        def start(walk: Walk) -> Tensor:
            p = model["mean_image"][:, None].expand(-1, walk.chains, -1)
            v = bernoulli(p, walk.uniform("visible", width))
            return torch.cat([p, v, p.new_zeros(*p.shape[:2], self.widths[2])], -1)

        def advance(units: Tensor, walk: Walk) -> Tensor:
            h1, logits = self._down(model, units[..., width : 2 * width], units[..., 2 * width :], walk)
            return torch.cat([logits.sigmoid(), self._visible(logits, walk), self._up(model, h1, walk)], -1)

        return Chain(start, advance, output=lambda units: units[..., :width])

    def _down(self, model: Mapping[str, Tensor], v: Tensor, h2: Tensor | None, walk: Walk) -> tuple[Tensor, Tensor]:
        """The next h1, and the logits of p(x | h1); without h2 as with zeros, and without their products."""
        share = self.settings.corruption
        uniform = walk.uniform("corruption", self.task.width)
        v = torch.where(uniform < share, (uniform < share / 2).to(v.dtype), v)
        weight = model["hidden1.weight"]
        inputs = torch.baddbmm(model["hidden1.bias"][:, None], v, weight)
        if h2 is not None:
            inputs = torch.baddbmm(inputs, h2, model["hidden2.weight"].mT)
        h1 = self._noisy_tanh(inputs, 1, walk)
        return h1, torch.baddbmm(model["visible.bias"][:, None], h1, weight.mT).to(self.draws.dtype)

    def _up(self, model: Mapping[str, Tensor], h1: Tensor, walk: Walk) -> Tensor:
        """The next h2."""
        return self._noisy_tanh(torch.baddbmm(model["hidden2.bias"][:, None], h1, model["hidden2.weight"]), 2, walk)

    def _noisy_tanh(self, inputs: Tensor, layer: int, walk: Walk) -> Tensor:
        sigma, width = self.settings.noise[layer - 1], self.widths[layer]
        if sigma == 0:
            return inputs.tanh()
        before, after = (walk.normal(f"hidden{layer}/{when}", width) for when in ("before", "after"))
        return (inputs + sigma * before).tanh() + sigma * after

    def _visible(self, logits: Tensor, walk: Walk) -> Tensor:
        """Binary draws of x, without a gradient."""
        return bernoulli(logits.detach().sigmoid(), walk.uniform("visible", self.task.width))
