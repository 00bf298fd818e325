"""Where runs train: how many share a stack, and which processes train a stack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from harness import models
from harness.experiment import Experiment

PlacementName = Literal["auto", "packed", "one-per-process", "data-parallel"]
PLACEMENTS: tuple[PlacementName, ...] = ("auto", "packed", "one-per-process", "data-parallel")


@dataclass(frozen=True)
class Placement:
    """`stack_size` says how many runs like an experiment may share a stack; `is_shared`, whether all processes of the
    job train each stack together, or each process stacks of its own; `reason`, why.
    """

    stack_size: Callable[[Experiment], int]
    is_shared: Callable[[int], bool]
    """Given the number of stacks."""
    reason: str


def placement(name: PlacementName, *, stack_size: int | None, device: str, processes: int) -> Placement:
    """How a grid is placed on `processes` processes with a device of a type ("cpu", "cuda") each.

    `stack_size` is the grid's own; without it each model family has its own for the device.
    """

    def size(experiment: Experiment) -> int:
        return stack_size or models.family(experiment.model).stack_size(device)

    if name == "one-per-process":
        return Placement(lambda experiment: 1, lambda stacks: processes == 1, "single runs, each on one process")
    if name == "data-parallel":
        return Placement(size, lambda stacks: True, "every stack on all processes")
    if name == "packed":
        return Placement(size, lambda stacks: processes == 1, "every stack on one process")
    return Placement(
        size,
        lambda stacks: stacks < processes or processes == 1,
        "every stack on one process where there are enough of them, else on all",
    )
