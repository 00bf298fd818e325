"""Spectral normalisation, per member."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from harness.draws import Draws
from harness.layers.convolution import Convolution, MaxoutConvolution, TransposedConvolution
from harness.layers.labels import Embedding
from harness.layers.linear import Linear, Maxout
from harness.layers.network import Context, Layer, Parameters
from harness.layers.residual import Residual


@dataclass(frozen=True)
class SpectralNorm:
    """A layer whose weight is divided by an estimate of its largest singular value, each member's by its own.

    A member's weight counts as the matrix (first axis, all others), for a transposed convolution as (outputs, all
    others), like torch.nn.utils.parametrizations.spectral_norm. The left singular vector is kept and moves by one
    power iteration with every pass in training; the estimate is differentiable by the weight, the vectors are held
    fixed. Biases stay as they are. Source: Miyato et al. 2018, algorithm 1.
    """

    layer: Linear | Maxout | Convolution | MaxoutConvolution | Embedding

    @property
    def _weight(self) -> str:
        return f"{self.layer.name}.weight"

    @property
    def _vector(self) -> str:
        return f"{self._weight}_u"

    def _matrix(self, weight: Tensor) -> Tensor:
        return (weight.transpose(1, 2) if isinstance(self.layer, TransposedConvolution) else weight).flatten(2)

    @property
    def buffers(self) -> tuple[str, ...]:
        return (*self.layer.buffers, self._vector)

    def init(self, draws: Draws, purpose: str) -> Parameters:
        parameters = self.layer.init(draws, purpose)
        rows = self._matrix(parameters[self._weight]).shape[1]
        vector = normalize(draws.normal(f"{purpose}/{self._vector}", 0, 1, rows)[:, 0], dim=1)
        return parameters | {self._vector: vector}

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        weight, left = parameters[self._weight], parameters[self._vector]
        matrix = self._matrix(weight)
        with torch.autocast(weight.device.type, enabled=False):  # a norm of few digits would be no norm
            with torch.no_grad():
                right = normalize(_times(left, matrix), dim=1)
                if context.training:
                    left.copy_(normalize(_times(right, matrix.transpose(1, 2)), dim=1))
                left = left.clone()  # the next pass moves it before this one's gradient is taken
            largest = (_times(left, matrix) * right).sum(1)
        shaped = largest.view(-1, *[1] * (weight.ndim - 1))
        return self.layer({**parameters, self._weight: weight / shaped}, x, context)


def _times(vector: Tensor, matrix: Tensor) -> Tensor:
    """Each member's vector (m, rows) times its matrix (m, rows, columns): (m, columns)."""
    return torch.bmm(vector.unsqueeze(1), matrix).squeeze(1)


def spectrally_normalised(layers: Iterable[Layer]) -> list[Layer]:
    """The same layers, those with a weight matrix spectrally normalised, inside residual blocks too."""
    return [_normalised(layer) for layer in layers]


def _normalised(layer: Layer) -> Layer:
    if isinstance(layer, Residual):
        return Residual(tuple(map(_normalised, layer.main)), tuple(map(_normalised, layer.shortcut)))
    return SpectralNorm(layer) if isinstance(layer, Linear | Maxout | Convolution | MaxoutConvolution) else layer
