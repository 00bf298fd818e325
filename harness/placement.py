"""Where runs train: how many share a stack, and which processes train a stack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from harness.experiment import Experiment
from harness.methods import method

PlacementName = Literal["auto", "packed", "one-per-process", "data-parallel"]

_LEAST_OPERATIONS = 1_400_000_000
_OPERATIONS_A_PARAMETER = 1900


@dataclass(frozen=True)
class Placement:
    """`stack_size` says how many runs like an experiment may share a stack; `is_shared`, given the number of stacks and
    whether an exchange pays, whether all processes of the job train each stack together, or stacks of their own.
    """

    stack_size: Callable[[Experiment], int]
    is_shared: Callable[[int, bool], bool]


def placement(name: PlacementName, *, stack_size: int | None, device: str, processes: int, divides: bool) -> Placement:
    """How a grid is placed on `processes` processes with a device of a type ("cpu", "cuda") each.

    `stack_size` is the grid's own; without it each method and model has its own for the device. `divides` says whether
    every batch can be divided by the processes, and by the pieces that each makes of its part.
    """

    def size(experiment: Experiment) -> int:
        return stack_size or method(experiment.method).stack_size(experiment, device)

    if name == "one-per-process":
        return Placement(lambda experiment: 1, lambda stacks, pays: processes == 1)
    if name == "packed":
        return Placement(size, lambda stacks, pays: processes == 1)
    if name == "data-parallel":
        return Placement(size, lambda stacks, pays: True)
    return Placement(
        size,
        lambda stacks, pays: processes == 1 or (stacks < processes and divides and pays),
    )


def pays(operations: int, parameters: int) -> bool:
    """Whether processes that share an iteration of so many operations save more than their exchanges take.

    They exchange scores and the gradients of all parameters. Measured on two processes of a CPU with gloo, where an
    iteration's exchanges took 7 ms and 10 ns a parameter, and a core did 10^11 operations/s; a GPU and its links are
    quicker by about the same factor.
    """
    return operations >= _LEAST_OPERATIONS + _OPERATIONS_A_PARAMETER * parameters


def needs_no_group(name: PlacementName) -> bool:
    """Whether the processes of a job never exchange a tensor, whatever the grid."""
    return name in ("packed", "one-per-process")


def described(name: PlacementName, stacks: int, runs: int, *, processes: int, is_shared: bool, divides: bool) -> str:
    """What a person reads of it where there are several processes, and why it was chosen if it was; else nothing."""
    if processes == 1:
        return ""
    placed = f"{runs} runs in {stacks} stacks, each on {'all' if is_shared else 'one'} of {processes} processes"
    if name != "auto":
        return placed
    if is_shared:
        return f"{placed} (auto: data-parallel, since there are fewer stacks than processes, with long iterations)"
    if stacks < processes and not divides:
        return f"{placed} (auto: packed, since they cannot divide every minibatch among them)"
    if stacks < processes:
        return f"{placed} (auto: packed, since iterations are too short for an exchange)"
    return f"{placed} (auto: packed, since there is a stack for every process)"
