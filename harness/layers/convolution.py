"""Convolutions of stacked images, their transposes, and maxout of convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from harness.draws import Draws
from harness.layers.initial import initial_bias, initial_weight
from harness.layers.linear import largest_piece
from harness.layers.network import Context, ConvolutionWay, Parameters

Plain = Callable[[Tensor, Tensor, Tensor | None, int], Tensor]
"""A plain convolution of (n, c, h, w) by input, weight, bias and number of groups."""

HALVING: dict[str, Any] = {"kernel": 4, "stride": 2, "padding": 1}
"""What halves both sides of an image, or doubles them when transposed."""


@dataclass(frozen=True)
class Convolution:
    """Cross-correlation with square kernels and a bias. (m, n, inputs, h, w) to (m, n, outputs, h', w').

    Sizes are torch.nn.Conv2d's: h' = (h + 2 padding - kernel) // stride + 1, with one padding for both sides or one for
    each. The weight is (m, outputs, inputs, kernel, kernel), the bias (m, outputs). Weights start normal with deviation
    `weight_std`, or uniform on +-weight_range, with zero bias; where both are None, weights and bias start as
    torch.nn.Conv2d's. Before a normalisation, which takes any bias away again, `bias` is False.
    """

    name: str
    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    padding: int | tuple[int, int] = 0
    weight_range: float | None = None
    weight_std: float | None = None
    bias: bool = True

    @property
    def buffers(self) -> tuple[str, ...]:
        return ()

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """One member's weight."""
        return (self.outputs, self.inputs, self.kernel, self.kernel)

    def init(self, draws: Draws, purpose: str) -> Parameters:
        fan_in = math.prod(self.weight_shape[1:])  # torch's measure, which for a transpose counts the outputs
        place = f"{purpose}/{self.name}"
        spread = {"weight_range": self.weight_range, "std": self.weight_std}
        weight = initial_weight(draws, f"{place}.weight", self.weight_shape[0], fan_in, fan_in=fan_in, **spread)
        weights = {f"{self.name}.weight": weight.view(-1, *self.weight_shape)}
        if not self.bias:
            return weights
        return weights | {
            f"{self.name}.bias": initial_bias(draws, f"{place}.bias", self.outputs, fan_in=fan_in, **spread)
        }

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        weight, bias = parameters[f"{self.name}.weight"], parameters.get(f"{self.name}.bias")
        return _by_member(self._plain, x, weight, bias, context.convolution)

    def _plain(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        return functional.conv2d(x, weight, bias, self.stride, self.padding, groups=groups)


@dataclass(frozen=True)
class TransposedConvolution(Convolution):
    """The transpose of a convolution, plus a bias. (m, n, inputs, h, w) to (m, n, outputs, h', w').

    Sizes are torch.nn.ConvTranspose2d's: h' = (h - 1) stride - 2 padding + kernel. The weight is (m, inputs, outputs,
    kernel, kernel), the bias (m, outputs). All starts as in `Convolution`, by default as torch.nn.ConvTranspose2d's.
    """

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        return (self.inputs, self.outputs, self.kernel, self.kernel)

    def _plain(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        return functional.conv_transpose2d(x, weight, bias, self.stride, self.padding, groups=groups)


@dataclass(frozen=True)
class MaxoutConvolution:
    """The largest of `pieces` convolutions, unit by unit and pixel by pixel.

    (m, n, inputs, h, w) to (m, n, units, h', w'); sizes and initial values are those of `Convolution`. Source:
    Goodfellow et al. 2013, "Maxout networks".
    """

    name: str
    inputs: int
    units: int
    pieces: int
    kernel: int
    padding: int = 0
    weight_range: float | None = None

    @property
    def buffers(self) -> tuple[str, ...]:
        return ()

    @property
    def convolution(self) -> Convolution:
        """The affine part, all pieces at once; piece p of unit u is channel p * units + u."""
        outputs = self.pieces * self.units
        return Convolution(
            self.name, self.inputs, outputs, self.kernel, padding=self.padding, weight_range=self.weight_range
        )

    def init(self, draws: Draws, purpose: str) -> Parameters:
        return self.convolution.init(draws, purpose)

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        affine = self.convolution(parameters, x, context)
        return largest_piece(affine.view(*affine.shape[:2], self.pieces, self.units, *affine.shape[3:]))


@dataclass(frozen=True)
class PixelBias:
    """A bias for each pixel of each channel, "untied" over an image: (m, n, c, h, w) to the same. It starts at zero."""

    name: str
    shape: tuple[int, int, int]

    @property
    def buffers(self) -> tuple[str, ...]:
        return ()

    def init(self, draws: Draws, purpose: str) -> Parameters:
        zeros = torch.zeros(len(draws.seeds), *self.shape, dtype=draws.dtype, device=draws.device)
        return {f"{self.name}.bias": zeros}

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        return x + parameters[f"{self.name}.bias"].unsqueeze(1)


def _by_member(convolve: Plain, x: Tensor, weight: Tensor, bias: Tensor | None, way: ConvolutionWay) -> Tensor:
    """A plain convolution of each member's images (m, n, c, h, w) with its own weight (m, ...) and bias (m, outputs).

    All ways compute the same up to rounding. Which is fastest depends on sizes: on a CPU, for forward and backward of
    a `dcgan` pair, members in turn took 0.9 to 1.3 of the time of groups, and groups with channels last 0.7 to 0.8 at
    16 channels but 1.0 to 1.1 at 64. Batched products of unfolded patches never were the fastest.
    """
    members = len(x)
    if members == 1:
        return convolve(x[0], weight[0], None if bias is None else bias[0], 1).unsqueeze(0)
    if way == "in_turn":
        biases = [None] * members if bias is None else list(bias)
        return torch.stack([convolve(*member, 1) for member in zip(x, weight, biases, strict=True)])
    side_by_side = x.transpose(0, 1).flatten(1, 2)
    if way == "channels_last":
        side_by_side = side_by_side.contiguous(memory_format=torch.channels_last)
    y = convolve(side_by_side, weight.flatten(0, 1), None if bias is None else bias.flatten(), members)
    return y.view(len(y), members, -1, *y.shape[2:]).transpose(0, 1)
