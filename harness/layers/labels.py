"""How the classes of images, which the context holds, enter a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from harness.draws import Draws
from harness.layers.initial import initial_weight
from harness.layers.network import Context, Layer, Parameters


@dataclass(frozen=True)
class Embedding:
    """A vector for each class: (m, n, width) for the context's labels, whatever x is.

    The weight is (m, classes, width) and starts normal with deviation `weight_std`.
    """

    name: str
    classes: int
    width: int
    weight_std: float = 1.0

    @property
    def buffers(self) -> tuple[str, ...]:
        return ()

    def init(self, draws: Draws, purpose: str) -> Parameters:
        name = f"{self.name}.weight"
        shape = {"rows": self.classes, "width": self.width, "fan_in": self.classes}
        return {name: initial_weight(draws, f"{purpose}/{name}", **shape, weight_range=None, std=self.weight_std)}

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        assert context.labels is not None, "a conditional network is given classes"
        weight = parameters[f"{self.name}.weight"]
        # A product, whose gradient is the same bits every time; that of an indexed tensor is not on a GPU.
        return torch.bmm(one_hot(context.labels, self.classes).to(weight.dtype), weight)


@dataclass(frozen=True)
class Concatenation:
    """x followed by a vector of its class in the given shape: (m, n, a, ...) to (m, n, a + shape[0], ...)."""

    embedding: Layer
    shape: tuple[int, ...]

    @property
    def buffers(self) -> tuple[str, ...]:
        return tuple(self.embedding.buffers)

    def init(self, draws: Draws, purpose: str) -> Parameters:
        return self.embedding.init(draws, purpose)

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        vectors = self.embedding(parameters, x, context)
        return torch.cat([x, vectors.to(x.dtype).view(*x.shape[:2], *self.shape)], 2)


@dataclass(frozen=True)
class Projection:
    """A score plus the inner product of x with a vector of its class: (m, n, width) to (m, n, 1).

    Source: Miyato and Koyama 2018, equation 5.
    """

    score: Layer
    embedding: Layer

    @property
    def buffers(self) -> tuple[str, ...]:
        return (*self.score.buffers, *self.embedding.buffers)

    def init(self, draws: Draws, purpose: str) -> Parameters:
        return self.score.init(draws, purpose) | self.embedding.init(draws, purpose)

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        vectors = self.embedding(parameters, x, context)
        return self.score(parameters, x, context) + (x * vectors).sum(2, keepdim=True)
