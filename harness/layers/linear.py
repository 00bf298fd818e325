"""Fully connected layers: affine, and maxout."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.draws import Draws
from harness.layers.network import Context, Parameters


@dataclass(frozen=True)
class Linear:
    """x W + b. (m, n, inputs) to (m, n, outputs).

    Weights start uniform on +-weight_range with zero bias; where that is None, weights and bias start uniform on
    +-1/sqrt(inputs), as torch.nn.Linear does. `output_bias` (outputs,) replaces the initial bias. Before a
    normalisation, which takes any bias away again, `bias` is False.
    """

    name: str
    inputs: int
    outputs: int
    weight_range: float | None = None
    output_bias: Tensor | None = None
    bias: bool = True

    @property
    def buffers(self) -> tuple[str, ...]:
        return ()

    def init(self, draws: Draws, purpose: str) -> Parameters:
        members, dtype, device = len(draws.seeds), draws.dtype, draws.device
        bound = self.weight_range if self.weight_range is not None else 1 / math.sqrt(self.inputs)
        weight = draws.uniform(f"{purpose}/{self.name}.weight", 0, self.inputs, self.outputs)
        weights = {f"{self.name}.weight": (2 * weight - 1) * bound}
        if not self.bias:
            return weights
        if self.output_bias is not None:
            bias = self.output_bias.to(device=device, dtype=dtype).expand(members, self.outputs).clone()
        elif self.weight_range is not None:
            bias = torch.zeros(members, self.outputs, dtype=dtype, device=device)
        else:
            drawn = draws.uniform(f"{purpose}/{self.name}.bias", 0, 1, self.outputs)[:, 0]
            bias = (2 * drawn - 1) * bound
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
        return affine.view(*affine.shape[:2], self.pieces, self.units).amax(2)
