"""Batch normalisation, per member and per batch, over all processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from harness.draws import Draws
from harness.layers.network import Context, Parameters


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation (Ioffe and Szegedy 2015) of each member on its own. (m, n, features) to the same.

    Each of the context's batches has its own moments; the running ones, used outside training, move by `momentum`
    for each batch. Running variances are unbiased, as in torch.
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
            return torch.cat(normalised, 1) * weight.unsqueeze(1) + bias.unsqueeze(1)
        batches = [self._here(batch, weight, bias, mean, var, context) for batch in x.chunk(context.batches, 1)]
        return batches[0] if len(batches) == 1 else torch.cat(batches, 1)

    def _here(self, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, context: Context) -> Tensor:
        members = len(x)
        merged = functional.batch_norm(
            x.transpose(0, 1).flatten(1),  # members side by side as features: one kernel for the stack
            mean.view(-1),
            var.view(-1),
            weight.view(-1),
            bias.view(-1),
            context.training,
            self.momentum,
            self.eps,
        )
        return merged.view(-1, members, self.features).transpose(0, 1)

    def _over_processes(self, x: Tensor, running_mean: Tensor, running_var: Tensor, context: Context) -> Tensor:
        assert context.sum_over_processes is not None
        x = x.to(running_mean.dtype)  # moments are summed in full precision
        mean = context.sum_over_processes(x.sum(1)) / context.rows
        centred = x - mean.unsqueeze(1)
        var = context.sum_over_processes(centred.square().sum(1)) / context.rows
        with torch.no_grad():
            running_mean.lerp_(mean, self.momentum)
            running_var.lerp_(var * (context.rows / (context.rows - 1)), self.momentum)
        return centred * (var + self.eps).rsqrt().unsqueeze(1)
