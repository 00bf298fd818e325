"""Bernoulli restricted Boltzmann machines, one a member: p(v, h) = exp(v W h + a v + b h) / Z.

Shapes: W (m, visible, hidden), a (m, visible), b (m, hidden), units (m, n, visible) and (m, n, hidden).
Source: Hinton, Training products of experts by minimizing contrastive divergence (2002); Hinton, A practical guide to
training restricted Boltzmann machines (2010); Salakhutdinov and Murray, On the quantitative analysis of deep belief
networks (2008).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Uniform = Callable[[str, int], Tensor]
"""Random numbers on [0, 1) by name and width: (m, n, width)."""


@dataclass(frozen=True)
class Rbm:
    """The parameters of a stack of RBMs."""

    weight: Tensor
    visible_bias: Tensor
    hidden_bias: Tensor

    def hidden(self, v: Tensor) -> Tensor:
        """p(h = 1 | v): (m, n, hidden)."""
        return torch.baddbmm(self.hidden_bias[:, None], v, self.weight).sigmoid()

    def visible(self, h: Tensor) -> Tensor:
        """p(v = 1 | h): (m, n, visible)."""
        return torch.baddbmm(self.visible_bias[:, None], h, self.weight.mT).sigmoid()

    def free_energy(self, v: Tensor, *, inverse_temperature: float = 1.0, base: Tensor | None = None) -> Tensor:
        """-log sum over h of exp(v W h + a v + b h), so p(v) = exp(-F(v)) / Z: (m, n).

        At inverse temperature t between an RBM of visible biases `base` (m, visible) alone, at 0, and this one, at 1.
        """
        t = inverse_temperature
        bias = self.visible_bias if base is None else torch.lerp(base, self.visible_bias, t)
        inputs = torch.baddbmm(self.hidden_bias[:, None], v, self.weight)
        return -torch.einsum("mnv,mv->mn", v, bias) - functional.softplus(t * inputs).sum(-1)

    def statistics(self, v: Tensor, h: Tensor) -> list[Tensor]:
        """Sums over n of the negative energy's gradients by weight and biases, at v and (the means of) h."""
        return [v.mT @ h, v.sum(1), h.sum(1)]


def bernoulli(p: Tensor, uniform: Tensor) -> Tensor:
    """Binary draws with these probabilities."""
    return (uniform < p).to(p.dtype)


def log_partition(rbm: Rbm, base: Tensor, uniform: Callable[[int, str, int], Tensor], *, temperatures: int) -> Tensor:
    """log Z by annealed importance sampling from the RBM without weights whose visible biases are `base`: (m,).

    `uniform(step, name, width)` gives each step's random numbers, (m, chains, width). Unbiased for Z, so on average at
    most log Z; computed in float64. Source: Salakhutdinov and Murray 2008, section 4.
    """
    rbm = Rbm(rbm.weight.double(), rbm.visible_bias.double(), rbm.hidden_bias.double())
    base = base.double()
    v = bernoulli(base.sigmoid()[:, None], uniform(0, "base", base.shape[1]).double())
    log_weight = torch.zeros_like(v[..., 0])
    for step in range(1, temperatures + 1):
        before, now = (step - 1) / temperatures, step / temperatures
        log_weight += rbm.free_energy(v, inverse_temperature=before, base=base)
        log_weight -= rbm.free_energy(v, inverse_temperature=now, base=base)
        inputs = torch.baddbmm(rbm.hidden_bias[:, None], v, rbm.weight)
        h = bernoulli((now * inputs).sigmoid(), uniform(step, "hidden", inputs.shape[2]).double())
        outputs = now * (h @ rbm.weight.mT) + torch.lerp(base, rbm.visible_bias, now)[:, None]
        v = bernoulli(outputs.sigmoid(), uniform(step, "visible", outputs.shape[2]).double())
    return log_weight.logsumexp(1) - math.log(log_weight.shape[1]) + log_partition_without_weights(rbm, base)


def log_partition_without_weights(rbm: Rbm, base: Tensor) -> Tensor:
    """log Z of an RBM with visible biases `base` (m, visible), no weights and no hidden biases: (m,)."""
    return functional.softplus(base).sum(1) + rbm.hidden_bias.shape[1] * math.log(2)
