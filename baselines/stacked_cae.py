"""`stacked-cae`: contractive autoencoders, trained greedily, layer by layer, and sampled by a walk along the data.

Each layer is an autoencoder with tied weights, h = sigmoid(x W + b) and r = sigmoid(h W^T + a). It learns to give x
back while its code moves little with x: it minimises the cross-entropy between x and r, summed over units, and
`contraction` times the squared Frobenius norm of dh/dx, both averaged over the batch. A layer learns from the codes of
the one below. Sources: Rifai et al., Contractive auto-encoders: explicit invariance during feature extraction (2011);
Rifai et al., A generative process for sampling contractive auto-encoders (2012). Sizes, Adam and the steps of the walk
are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from baselines.baseline import Chain, Descent, Task, Walk, check_phases, phase
from baselines.layered import LayerSettings, OfLayers, WholeNumber
from harness.experiment import OptimizerSettings, Positive
from harness.training.feed import Batch
from harness.training.loop import State

NotNegative = Annotated[float, Field(ge=0)]
_NAMES = ("weight", "hidden_bias", "visible_bias")


class StackedCaeSettings(LayerSettings):
    """One value a layer, from the images up, where there are lists.

    The learning rate falls linearly to zero in each phase, unless the optimizer's `lr_zero_at` says otherwise, which
    counts a phase's updates.
    """

    by_layer = ("phases", "contraction")

    phases: tuple[Positive, ...] = (1.0, 1.0)
    """Each layer's share of the iterations."""
    contraction: tuple[NotNegative, ...] = (1.0, 1.0)
    """The weight of the penalty; with none the walk leaves the data."""
    noise: Positive = 2.0
    """The deviation of the walk's steps before the Jacobian bends them."""
    burn_in: WholeNumber = 100


class StackedCae(OfLayers):
    """A stack of stacked contractive autoencoders.

    History, of the layer that learns: its loss, an image; the mean squared error of its reconstruction, a unit; and the
    squared norm of its Jacobian, an image.
    """

    settings_class = StackedCaeSettings
    optimizer = OptimizerSettings(name="Adam", lr=1e-3)
    columns = ("loss", "reconstruction_error", "contraction")
    parts = ("model", "optimizer")
    bernoulli_means = True
    stack_sizes = {"cpu": 2, "cuda": 16}

    def __init__(self, settings: StackedCaeSettings, task: Task) -> None:
        super().__init__(settings, task)
        check_phases(settings.phases, task.iterations)
        self.settings = settings

    def init(self) -> State:
        """Even weights on +-sqrt(6 / (inputs + outputs)); biases of zero, or such that they give the mean image."""
        model: dict[str, Tensor] = {}
        for layer, below, above in self.layers():
            model[f"layer{layer}.weight"] = self.even_weight(f"init/layer{layer}", below, above)
            model[f"layer{layer}.hidden_bias"] = self.zeros(above)
            model[f"layer{layer}.visible_bias"] = self.zeros(below) if layer else self.mean_bias()
        return {"model": model, "optimizer": Descent(self.task).init(model)}

    def step(self, state: State, batch: Batch, iteration: int) -> Tensor:
        """One update of the layer whose phase it is."""
        now = phase(self.settings.phases, self.task.iterations, iteration)
        place = f"layer{now.number}."
        parameters = {
            name: tensor.detach().requires_grad_() for name, tensor in state["model"].items() if name.startswith(place)
        }
        with self.processes.autocast():
            with torch.no_grad():
                x = self.encode(state, self.vectors(batch), layers=now.number)[-1].to(self.draws.dtype)
            weight, hidden_bias, visible_bias = (parameters[place + name] for name in _NAMES)
            h = torch.baddbmm(hidden_bias[:, None], x, weight).to(x.dtype).sigmoid()
            logits = torch.baddbmm(visible_bias[:, None], h, weight.mT).to(x.dtype)
        reconstruction = functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
        contraction = squared_jacobian(h, weight)
        loss = reconstruction + self.settings.contraction[now.number] * contraction
        slots = {key: slot for key, slot in state["optimizer"].items() if key.partition("/")[2].startswith(place)}
        descent = Descent(self.task, updates=now.length)
        descent.descend(loss.sum(1) / self.task.batch_size, parameters, slots, now.place)
        state["optimizer"].update(slots)
        error = (logits.detach().sigmoid() - x).square().mean(-1)
        return torch.stack([self.batch_mean(values) for values in (loss, error, contraction)])

    def chain(self, state: State) -> Chain:
        """Steps along the data, from even noise in every pixel; shown are reconstructions, which are means."""

        def start(walk: Walk) -> Tensor:
            return walk.uniform("start", self.task.width)

        def advance(x: Tensor, walk: Walk) -> Tensor:
            codes = self.encode(state, x)
            noise = self.settings.noise * walk.normal("noise", self.widths[-1])
            return self.decode(state, codes[-1] + self.along(state, codes, noise))

        return Chain(start, advance, output=lambda x: x)

    def encode(self, state: State, x: Tensor, *, layers: int | None = None) -> list[Tensor]:
        """Images (m, n, c h w) and their codes in the lowest layers, or in all: (m, n, hidden) each."""
        codes = [x]
        for layer in range(len(self.settings.hidden) if layers is None else layers):
            weight, bias, _ = self._layer(state, layer)
            codes.append(torch.baddbmm(bias[:, None], codes[-1], weight).sigmoid())
        return codes

    def decode(self, state: State, h: Tensor) -> Tensor:
        """Top codes (m, n, hidden) as images (m, n, c h w)."""
        for layer in reversed(range(len(self.settings.hidden))):
            weight, _, bias = self._layer(state, layer)
            h = torch.baddbmm(bias[:, None], h, weight.mT).sigmoid()
        return h

    def along(self, state: State, codes: Sequence[Tensor], noise: Tensor) -> Tensor:
        """J J^T noise, where J is the Jacobian of the top code by the image: (m, n, hidden).

        J is a product of each layer's diag(h (1 - h)) W^T, so vectors pass through the layers, down and up again.
        """
        slopes = [h * (1 - h) for h in codes[1:]]
        weights = [self._layer(state, layer)[0] for layer in range(len(slopes))]
        for slope, weight in zip(reversed(slopes), reversed(weights), strict=True):
            noise = (noise * slope) @ weight.mT
        for slope, weight in zip(slopes, weights, strict=True):
            noise = (noise @ weight) * slope
        return noise

    def _layer(self, state: State, layer: int) -> list[Tensor]:
        """Weight, hidden and visible bias."""
        return [state["model"][f"layer{layer}.{name}"] for name in _NAMES]


def squared_jacobian(h: Tensor, weight: Tensor) -> Tensor:
    """||dh/dx||^2, by Frobenius, of sigmoid codes h (m, n, hidden) of x by weights (m, inputs, hidden): (m, n).

    Row j of dh/dx is h_j (1 - h_j) W_j. Source: Rifai et al. 2011.
    """
    squares = weight.square().sum(1, keepdim=True)
    return ((h * (1 - h)).square() @ squares.mT).squeeze(-1)
