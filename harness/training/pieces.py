"""Minibatches that go through the networks piece by piece: gradient accumulation, for losses of the whole minibatch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from harness.draws import Draws

Pass = Callable[..., tuple[Tensor, ...]]
"""Of draws and parts (m, local n, ...), None where there is none: the networks' outputs, (m, local n, ...) each."""


@dataclass(frozen=True)
class Pieces:
    """The pieces of this process's part of each minibatch, by their random numbers.

    Memory holds the activations of one piece: those of each are computed once for the outputs, from which comes the
    loss of the whole minibatch, and again when the gradient reaches it. Gradients add up over the pieces. So every loss
    and penalty stays what it was, and trained parameters are the same but for rounding.
    """

    draws: tuple[Draws, ...]

    @classmethod
    def of(cls, draws: Draws, count: int = 1) -> Pieces:
        """So many pieces of what these draws are for."""
        return cls((draws,) if count == 1 else tuple(draws.piece(place, count) for place in range(count)))

    def through(self, forward: Pass, *parts: Tensor | None) -> tuple[Tensor, ...]:
        """The outputs of `forward` for the whole of the parts (m, local n, ...), which each piece passes by itself."""
        if len(self.draws) == 1:
            return forward(self.draws[0], *parts)
        cut = [[None] * len(self.draws) if part is None else part.chunk(len(self.draws), 1) for part in parts]
        found = [
            # Random numbers are the draws', so torch's generators need not be put back.
            checkpoint(forward, draws, *piece, use_reentrant=False, preserve_rng_state=False)
            for draws, *piece in zip(self.draws, *cut, strict=True)
        ]
        return tuple(torch.cat(outputs, 1) for outputs in zip(*found, strict=True))
