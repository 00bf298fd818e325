"""Batch normalisation, per member and per batch, over all processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from harness.draws import Draws
from harness.layers.network import Context, Parameters


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation (Ioffe and Szegedy 2015) of each member on its own.

    (m, n, features) to the same; or images (m, n, features, h, w) to the same, whose moments are those of a channel,
    over pixels too. Each of the context's batches has its own moments; the running ones, used outside training, move
    by `momentum` for each batch. Running variances are unbiased, as in torch.
    """

    name: str
    features: int
    eps: float = 1e-5
    momentum: float = 0.1

    @property
    def buffers(self) -> tuple[str, ...]:
        return (f"{self.name}.running_mean", f"{self.name}.running_var")

    def init(self, draws: Draws, purpose: str) -> Parameters:
        shape = (len(draws.seeds), self.features)
        ones, zeros = (make(shape, dtype=draws.dtype, device=draws.device) for make in (torch.ones, torch.zeros))
        return {
            f"{self.name}.weight": ones,
            f"{self.name}.bias": zeros,
            f"{self.name}.running_mean": zeros.clone(),
            f"{self.name}.running_var": ones.clone(),
        }

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        weight, bias, mean, var = (
            parameters[f"{self.name}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")
        )
        if context.training and context.sum_over_processes is not None:
            normalised = [self._over_processes(batch, mean, var, context) for batch in x.chunk(context.batches, 1)]
            return torch.cat(normalised, 1) * _beside(weight, x) + _beside(bias, x)
        side_by_side = x.transpose(0, 1).flatten(1, 2)  # members as features: one kernel for the stack
        normalised = [
            functional.batch_norm(
                batch,
                mean.view(-1),
                var.view(-1),
                weight.view(-1),
                bias.view(-1),
                context.training,
                self.momentum,
                self.eps,
            )
            for batch in side_by_side.chunk(context.batches)
        ]
        y = normalised[0] if len(normalised) == 1 else torch.cat(normalised)
        return y.view(-1, len(x), *x.shape[2:]).transpose(0, 1)

    def _over_processes(self, x: Tensor, running_mean: Tensor, running_var: Tensor, context: Context) -> Tensor:
        assert context.sum_over_processes is not None
        x = x.to(running_mean.dtype)  # moments are summed in full precision
        count = context.rows * math.prod(x.shape[3:])
        mean = context.sum_over_processes(_summed(x)) / count
        centred = x - _beside(mean, x)
        var = context.sum_over_processes(_summed(centred.square())) / count
        with torch.no_grad():
            running_mean.lerp_(mean, self.momentum)
            running_var.lerp_(var * (count / (count - 1)), self.momentum)
        return centred * _beside((var + self.eps).rsqrt(), x)


def _summed(x: Tensor) -> Tensor:
    """(m, n, features, ...) summed over all but members and features: (m, features)."""
    return x.flatten(3).sum((1, 3)) if x.ndim > 3 else x.sum(1)


def _beside(moments: Tensor, x: Tensor) -> Tensor:
    """(m, features) in a shape that broadcasts with x, (m, n, features, ...)."""
    return moments.view(len(x), 1, -1, *[1] * (x.ndim - 3))
