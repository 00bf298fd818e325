"""Fully connected layers: affine, and maxout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.draws import Draws
from harness.layers.initial import initial_bias, initial_weight, thinned
from harness.layers.network import Context, Parameters


@dataclass(frozen=True)
class Linear:
    """x W + b. (m, n, inputs) to (m, n, outputs).

    Weights start normal with deviation `weight_std`, or uniform on +-weight_range, with zero bias; where both are None,
    weights and bias start uniform on +-1/sqrt(inputs), as torch.nn.Linear does. With `nonzero` all but so many of the
    weights into each unit start at zero. `output_bias` (outputs,) replaces the initial bias. Before a normalisation,
    which takes any bias away again, `bias` is False.
    """

    name: str
    inputs: int
    outputs: int
    weight_range: float | None = None
    output_bias: Tensor | None = None
    bias: bool = True
    weight_std: float | None = None
    nonzero: int | None = None

    @property
    def buffers(self) -> tuple[str, ...]:
        return ()

    def init(self, draws: Draws, purpose: str) -> Parameters:
        place, spread = f"{purpose}/{self.name}", {"weight_range": self.weight_range, "std": self.weight_std}
        weight = initial_weight(draws, f"{place}.weight", self.inputs, self.outputs, fan_in=self.inputs, **spread)
        if self.nonzero is not None:
            weight = thinned(weight, draws, f"{place}.weight/places", nonzero=self.nonzero)
        weights = {f"{self.name}.weight": weight}
        if not self.bias:
            return weights
        if self.output_bias is not None:
            bias = self.output_bias.to(device=draws.device, dtype=draws.dtype)
            bias = bias.expand(len(draws.seeds), self.outputs).clone()
        else:
            bias = initial_bias(draws, f"{place}.bias", self.outputs, fan_in=self.inputs, **spread)
        return weights | {f"{self.name}.bias": bias}

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        weight = parameters[f"{self.name}.weight"]
        if not self.bias:
            return torch.bmm(x, weight)
        return torch.baddbmm(parameters[f"{self.name}.bias"].unsqueeze(1), x, weight)


@dataclass(frozen=True)
class Maxout:
    """The largest of `pieces` affine functions, unit by unit. (m, n, inputs) to (m, n, units).

    Source: Goodfellow et al. 2013, "Maxout networks".
    """

    name: str
    inputs: int
    units: int
    pieces: int
    weight_range: float | None = None

    @property
    def buffers(self) -> tuple[str, ...]:
        return ()

    @property
    def linear(self) -> Linear:
        """The affine part, all pieces at once; piece p of unit u is column p * units + u."""
        return Linear(self.name, self.inputs, self.pieces * self.units, self.weight_range)

    def init(self, draws: Draws, purpose: str) -> Parameters:
        return self.linear.init(draws, purpose)

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        affine = self.linear(parameters, x, context)
        return largest_piece(affine.view(*affine.shape[:2], self.pieces, self.units))


class _LargestPiece(torch.autograd.Function):
    """`amax` over the third axis. Its own gradient, pieces that tie sharing it, in two thirds of the time on a CPU."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        y = x.amax(2)
        context.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        x, y = context.saved_tensors
        is_largest = torch.ge(x.detach(), y.detach().unsqueeze(2), out=torch.empty_like(x.detach()))
        return is_largest * (gradient / is_largest.sum(2)).unsqueeze(2)


def largest_piece(x: Tensor) -> Tensor:
    """The largest of the pieces: (m, n, pieces, units, ...) to (m, n, units, ...)."""
    largest: Tensor = _LargestPiece.apply(x)
    return largest
