"""Dropout with the harness's draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from harness.draws import Draws
from harness.layers.network import Context, Parameters


@dataclass(frozen=True)
class Dropout:
    """Keeps each component with probability 1 - rate and scales it by 1 / (1 - rate); identity outside training.

    (m, n, ...) to the same (Srivastava et al. 2014, inverted form).
    """

    name: str
    rate: float

    @property
    def buffers(self) -> tuple[str, ...]:
        return ()

    def init(self, draws: Draws, purpose: str) -> Parameters:
        return {}

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        if not context.training or self.rate == 0:
            return x
        factors = context.draws.dropout(
            f"{context.purpose}/{self.name}",
            context.step,
            context.rows,
            math.prod(x.shape[2:]),
            keep=1 - self.rate,
            batches=context.batches,
        )
        return x * factors.view(x.shape)
