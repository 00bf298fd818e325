"""`dbn`: a deep belief network of Bernoulli RBMs, trained greedily, layer by layer.

Each RBM learns by contrastive divergence from what the one below makes of the images: the lowest from the images, whose
grey levels stand for probabilities, the others from draws of the hidden units below. Samples come from Gibbs chains in
the top RBM, passed down as means. Source: Hinton, Osindero and Teh, A fast learning algorithm for deep belief nets
(2006), without its fine-tuning; Tieleman, Training RBMs using approximations to the likelihood gradient (2008). The
sizes behind the published 138 nats (Bengio et al. 2013) are in no source that states them: these are chosen.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from baselines.baseline import Chain, Task, Walk, check_phases, phase
from baselines.layered import LayerSettings, OfLayers, WholeNumber
from baselines.rbm import Rbm, bernoulli, log_partition, log_partition_without_weights
from harness.experiment import Fraction, Positive
from harness.training.feed import Batch
from harness.training.loop import State

_NAMES = ("weight", "visible_bias", "hidden_bias")


class DbnSettings(LayerSettings):
    """One value a layer, from the images up, where there are lists; learning rates fall linearly to zero in a phase."""

    by_layer = ("phases", "lr", "persistent", "momentum")

    phases: tuple[Positive, ...] = (3.0, 5.0)
    """Each layer's share of the iterations."""
    lr: tuple[Positive, ...] = (0.1, 0.05)
    persistent: tuple[bool, ...] = (False, True)
    """Whether negative statistics come from particles that walk on from update to update (PCD), or from the data."""
    particles: WholeNumber = 100
    k: WholeNumber = 1
    """Gibbs steps an update."""
    momentum: tuple[Fraction, ...] = (0.5, 0.0)
    """The part of a step that the next one keeps: rates grow to lr / (1 - momentum), and chosen here are slow ones."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    weight_std: Positive = 0.01
    burn_in: WholeNumber = 200
    ais_chains: WholeNumber = 100
    ais_temperatures: WholeNumber = 300
    """Of the top RBM's log partition function, estimated when its training ends."""


class Dbn(OfLayers):
    """A stack of deep belief networks.

    History: the mean squared error of one up-and-down pass of the layer that learns, a unit; and the top RBM's log
    partition function, before its estimate that of an RBM without weights.
    """

    settings_class = DbnSettings
    columns = ("reconstruction_error", "log_partition")
    parts = ("model", "velocity", "particles", "estimates")
    bernoulli_means = True
    stack_sizes = {"cpu": 2, "cuda": 16}

    def __init__(self, settings: DbnSettings, task: Task) -> None:
        super().__init__(settings, task)
        check_phases(settings.phases, task.iterations)
        self.settings = settings

    def init(self) -> State:
        """Small normal weights; visible biases that give the mean image, or one half above."""
        draws = self.draws.whole()
        model: dict[str, Tensor] = {}
        for layer, below, above in self.layers():
            noise = draws.normal(f"init/rbm{layer}", 0, below, above)
            model[f"rbm{layer}.weight"] = self.settings.weight_std * noise
            model[f"rbm{layer}.visible_bias"] = self.zeros(below) if layer else self.mean_bias()
            model[f"rbm{layer}.hidden_bias"] = self.zeros(above)
        particles = {
            f"rbm{layer}": bernoulli(
                torch.full((), 0.5, dtype=self.draws.dtype, device=self.draws.device),
                draws.uniform(f"init/particles{layer}", 0, self.settings.particles, width),
            )
            for layer, width in enumerate(self.widths[:-1])
            if self.settings.persistent[layer]
        }
        top = self._rbm({"model": model}, len(self.settings.hidden) - 1)
        return {
            "model": model,
            "velocity": {name: torch.zeros_like(tensor) for name, tensor in model.items()},
            "particles": particles,
            "estimates": {"log_partition": log_partition_without_weights(top, top.visible_bias)},
        }

    @torch.no_grad()
    def step(self, state: State, batch: Batch, iteration: int) -> Tensor:
        """One update of the layer whose phase it is."""
        now = phase(self.settings.phases, self.task.iterations, iteration)
        layer = now.number
        v = self._up(state, self.vectors(batch), layer, iteration)
        rbm = self._rbm(state, layer)
        h = rbm.hidden(v)
        positive = rbm.statistics(v, h)
        positive = self.processes.sum_gradients([part / self.task.batch_size for part in positive])
        negative = self._negative(state, rbm, v, h, layer, iteration)
        lr = self.settings.lr[layer] * (1 - now.done)
        for name, up, down in zip(_NAMES, positive, negative, strict=True):
            parameter, velocity = (state[part][f"rbm{layer}.{name}"] for part in ("model", "velocity"))
            slope = up - down - (self.settings.weight_decay * parameter if name == "weight" else 0.0)
            parameter += velocity.mul_(self.settings.momentum[layer]).add_(slope, alpha=lr)
        if now.ends and layer == len(self.settings.hidden) - 1:
            state["estimates"]["log_partition"].copy_(self._log_partition(state, layer))
        error = self.batch_mean((rbm.visible(h) - v).square().mean(-1))
        return torch.stack([error, state["estimates"]["log_partition"]])

    def chain(self, state: State) -> Chain:
        """Gibbs steps in the top RBM, from even noise in its hidden units.

        Shown are means of the images, given the means of the hidden units under the top RBM's draws.
        """
        top = len(self.settings.hidden) - 1
        rbm = self._rbm(state, top)

        def start(walk: Walk) -> Tensor:
            uniform = walk.uniform("start", self.widths[-1])
            return bernoulli(torch.full_like(uniform, 0.5), uniform)

        def advance(h: Tensor, walk: Walk) -> Tensor:
            v = bernoulli(rbm.visible(h), walk.uniform("visible", self.widths[-2]))
            return bernoulli(rbm.hidden(v), walk.uniform("hidden", self.widths[-1]))

        def down(h: Tensor) -> Tensor:
            for layer in reversed(range(top + 1)):
                h = self._rbm(state, layer).visible(h)
            return h

        return Chain(start, advance, down)

    def _rbm(self, state: State, layer: int) -> Rbm:
        return Rbm(*(state["model"][f"rbm{layer}.{name}"] for name in _NAMES))

    def _up(self, state: State, v: Tensor, layer: int, iteration: int) -> Tensor:
        """What a layer learns from: the images, or draws of the hidden units below it."""
        for below in range(layer):
            p = self._rbm(state, below).hidden(v)
            v = bernoulli(p, self.draws.uniform(f"up{below}", iteration, self.task.batch_size, p.shape[2]))
        return v

    def _negative(self, state: State, rbm: Rbm, v: Tensor, h: Tensor, layer: int, iteration: int) -> list[Tensor]:
        """Mean statistics under the model, by k Gibbs steps from the data or from the particles."""
        persistent = self.settings.persistent[layer]
        if persistent:
            # The particles are the same on all processes, and so are their random numbers.
            draws, rows = self.draws.whole(), self.settings.particles
            v = state["particles"][f"rbm{layer}"]
            h = rbm.hidden(v)
        else:
            draws, rows = self.draws, self.task.batch_size
        for k in range(self.settings.k):
            h = bernoulli(h, draws.uniform(f"rbm{layer}/hidden{k}", iteration, rows, h.shape[2]))
            v = rbm.visible(h)
            if persistent or k + 1 < self.settings.k:
                v = bernoulli(v, draws.uniform(f"rbm{layer}/visible{k}", iteration, rows, v.shape[2]))
            h = rbm.hidden(v)
        statistics = [part / rows for part in rbm.statistics(v, h)]
        if persistent:
            state["particles"][f"rbm{layer}"].copy_(v)
            return statistics
        return self.processes.sum_gradients(statistics)

    def _log_partition(self, state: State, layer: int) -> Tensor:
        rbm, draws = self._rbm(state, layer), self.draws.whole()

        def uniform(step: int, name: str, width: int) -> Tensor:
            return draws.uniform(f"ais/{name}", step, self.settings.ais_chains, width)

        base = rbm.visible_bias
        return log_partition(rbm, base, uniform, temperatures=self.settings.ais_temperatures).to(base.dtype)
