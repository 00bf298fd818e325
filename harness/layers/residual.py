"""A layer that holds layers: a residual block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from harness.draws import Draws
from harness.layers.network import Context, Layer, Network, Parameters


@dataclass(frozen=True)
class Residual:
    """main(x) + shortcut(x), two paths of layers in order; a path without layers is x itself.

    (m, n, ...) to (m, n, ...). Source: He et al. 2016.
    """

    main: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] = ()

    @property
    def buffers(self) -> tuple[str, ...]:
        return tuple(name for layer in (*self.main, *self.shortcut) for name in layer.buffers)

    def init(self, draws: Draws, purpose: str) -> Parameters:
        return Network((*self.main, *self.shortcut)).init(draws, purpose)

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        return Network(self.main)(parameters, x, context) + Network(self.shortcut)(parameters, x, context)
