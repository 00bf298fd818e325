"""The numbers of an update that the host computes: learning rates, momenta, counts of updates.

Eagerly they are plain floats. A captured iteration reads them from the device instead: see engine.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Count:
    """Which update of a player this is, and in which epoch; both from 0."""

    update: int
    epoch: int = 0


class Moment(Protocol):
    """An update, as its optimizer sees it."""

    def number(self, function: Callable[[Count], float]) -> float | Tensor:
        """What may change with every update: a float, or a tensor () on the device."""

    def constant(self, function: Callable[[Count], float]) -> float:
        """What changes rarely, and what kernels take as a float alone."""


class Clock(Protocol):
    """Gives the moments of an iteration."""

    def moment(self, count: Callable[[int], Count], iteration: int) -> Moment:
        """The update that `count` maps an iteration to."""


@dataclass(frozen=True, slots=True)
class Now:
    """A moment whose numbers are computed at once."""

    count: Count

    def number(self, function: Callable[[Count], float]) -> float:
        return function(self.count)

    def constant(self, function: Callable[[Count], float]) -> float:
        return function(self.count)


class HostClock:
    """The clock of eager iterations."""

    def moment(self, count: Callable[[int], Count], iteration: int) -> Now:
        return Now(count(iteration))
