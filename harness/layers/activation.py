"""Layers without parameters: activations and changes of shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.draws import Draws
from harness.layers.network import Context, Parameters


@dataclass(frozen=True)
class Function:
    """A layer that is nothing but a function of its input, member by member and image by image."""

    function: Callable[[Tensor], Tensor]

    @property
    def buffers(self) -> tuple[str, ...]:
        return ()

    def init(self, draws: Draws, purpose: str) -> Parameters:
        return {}

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        return self.function(x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": lambda x: torch.nn.functional.leaky_relu(x, 0.2),  # the slope is the field's habit since DCGAN
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "unit_tanh": lambda x: torch.tanh(x) * 0.5 + 0.5,  # tanh moved to [0, 1]
    "signed": lambda x: x * 2 - 1,  # [0, 1] to [-1, 1]
    "linear": lambda x: x,
}


def activation(name: str) -> Function:
    """An elementwise function by name."""
    return Function(ACTIVATIONS[name])


def flatten() -> Function:
    """(m, n, c, h, w) to (m, n, c h w)."""
    return Function(lambda x: x.flatten(2))


def unflatten(shape: tuple[int, int, int]) -> Function:
    """(m, n, c h w) to (m, n, c, h, w)."""
    return Function(lambda x: x.view(*x.shape[:2], *shape))


def scalar() -> Function:
    """(m, n, 1) to (m, n): one score an image."""
    return Function(lambda x: x.squeeze(2))
