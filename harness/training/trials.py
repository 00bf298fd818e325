"""What a few steps on a copy of a stack's state tell: its operations, and the quickest way to compute it."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.layers import ConvolutionWay
from harness.training.checkpoint import Nested as State
from harness.training.engine import Stepped, copied, engine
from harness.training.feed import Batch, Feed, ResidentFeed
from harness.training.processes import Processes

_STEPS = 3  # timed for each way, after one that is not


class Tried(Stepped, Protocol):
    """What a trial needs of a method."""

    @property
    def ways(self) -> tuple[ConvolutionWay, ...]: ...

    def by(self, way: ConvolutionWay) -> Tried: ...


@dataclass(frozen=True)
class _Same:
    """A feed of one batch, again and again: one that streams could not go back to its beginning."""

    same: Batch

    def batch(self, step: int) -> Batch:
        return self.same


def step_operations(method: Tried, state: State, feed: Feed) -> int:
    """Floating-point operations of one step of the stack, counted on a copy of its state."""
    with FlopCounterMode(display=False) as counter:
        # The counter counts too many for the gradient of a grouped convolution.
        method.by("in_turn").step(copied(state), feed.batch(0), 0)
    return int(counter.get_total_flops())


def quickest_way(method: Tried, state: State, feed: Feed, processes: Processes) -> ConvolutionWay:
    """The quickest of a method's ways, by a few steps on a copy of the state; all processes take the main one's."""
    if len(method.ways) == 1:
        return method.ways[0]
    is_resident = isinstance(feed, ResidentFeed)
    source = feed if is_resident else _Same(feed.batch(0))
    # The same batch is of the same iteration: others may have more updates.
    iterations = range(_STEPS + 1) if is_resident else [0] * (_STEPS + 1)

    def seconds(way: ConvolutionWay) -> float:
        tried = engine(method.by(way), copied(state), source, processes)
        timed = []
        for iteration in iterations:
            _synchronize(processes.device)
            started = time.perf_counter()
            tried.step(iteration)
            _synchronize(processes.device)
            timed.append(time.perf_counter() - started)
        return statistics.median(timed[1:])

    took = {way: seconds(way) for way in method.ways}
    found: ConvolutionWay = processes.from_main(min(took, key=took.__getitem__))
    return found


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
