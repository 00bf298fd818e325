"""Layers without parameters: activations and shape changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.draws import Draws
from harness.layers.network import Context, Parameters


def _leaky_relu(x: Tensor) -> Tensor:
    return torch.nn.functional.leaky_relu(x, 0.2)


def _unit_tanh(x: Tensor) -> Tensor:
    return torch.tanh(x) * 0.5 + 0.5


def _signed(x: Tensor) -> Tensor:
    return x * 2 - 1


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": _leaky_relu,  # slope 0.2, the field's habit since DCGAN
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "unit_tanh": _unit_tanh,  # tanh moved to [0, 1]
    "signed": _signed,  # [0, 1] to [-1, 1]
}


@dataclass(frozen=True)
class Activation:
    """An elementwise function by name."""

    function: str

    @property
    def buffers(self) -> tuple[str, ...]:
        return ()

    def init(self, draws: Draws, purpose: str) -> Parameters:
        return {}

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        return ACTIVATIONS[self.function](x)


@dataclass(frozen=True)
class Flatten:
    """(m, n, c, h, w) to (m, n, c h w)."""

    @property
    def buffers(self) -> tuple[str, ...]:
        return ()

    def init(self, draws: Draws, purpose: str) -> Parameters:
        return {}

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        return x.flatten(2)


@dataclass(frozen=True)
class Unflatten:
    """(m, n, c h w) to (m, n, c, h, w)."""

    shape: tuple[int, int, int]

    @property
    def buffers(self) -> tuple[str, ...]:
        return ()

    def init(self, draws: Draws, purpose: str) -> Parameters:
        return {}

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        return x.view(*x.shape[:2], *self.shape)


@dataclass(frozen=True)
class Scalar:
    """(m, n, 1) to (m, n): one score an image."""

    @property
    def buffers(self) -> tuple[str, ...]:
        return ()

    def init(self, draws: Draws, purpose: str) -> Parameters:
        return {}

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        return x.squeeze(2)
