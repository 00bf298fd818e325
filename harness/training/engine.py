"""How iterations are carried out: one after the other by the host, or recorded once as a graph and replayed.

A replayed graph repeats the very kernels it recorded, so all that differs between iterations lies on the device, in
tables of several iterations: random numbers, which images, learning rates, counts of updates. The graph finds its row
by a position that it advances itself. The host refills the tables between replays; only then does it wait for the
device, and when the loop fetches a block of history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from harness.draws import Draws, Table
from harness.training.checkpoint import Nested as State
from harness.training.clock import Clock, Count, Moment
from harness.training.feed import Batch, Feed, ResidentFeed
from harness.training.processes import Processes

BLOCK = 50  # iterations whose rows and numbers are kept on the device; the loop folds its history as often
_TABLE_BYTES = 2**27  # of one table of random numbers, unless one iteration has more: drawing takes ten times that
_PERIODS = (50, 25, 10, 5, 2, 1)  # iterations between refills of a table: divisors of BLOCK

Replay = Callable[[], object]
Record = Callable[[Callable[[], None]], Replay]


class Stepped(Protocol):
    """What an engine needs of a method."""

    @property
    def draws(self) -> Draws: ...

    def step(self, state: State, batch: Batch, iteration: int) -> Tensor: ...


@runtime_checkable
class Recordable(Stepped, Protocol):
    """A method whose iterations may be recorded, where `capturable` says that they are a fixed sequence of kernels."""

    @property
    def capturable(self) -> bool: ...

    def reading(self, draws: Draws, clock: Clock) -> Recordable: ...


class Engine(Protocol):
    """Carries out a stack's iterations, in place."""

    @property
    def name(self) -> str:
        """What the record calls it."""

    def step(self, iteration: int) -> Tensor:
        """One iteration; a row of history, (columns, m), which lasts until the next multiple of BLOCK."""


def engine(method: Stepped, state: State, feed: Feed, processes: Processes) -> Engine:
    """The fastest engine that can carry out a method here."""
    on_one_gpu = processes.device.type == "cuda" and processes.count == 1
    # Kernels read a learning rate on the device in float32, which is not enough for float64.
    is_exact = processes.dtype == torch.float32
    if (
        on_one_gpu
        and is_exact
        and isinstance(method, Recordable)
        and method.capturable
        and isinstance(feed, ResidentFeed)
    ):
        return Captured(method, state, feed, record=cuda_graph)
    return Eager(method, state, feed)


@dataclass(frozen=True)
class Eager:
    """The host starts every operation of every iteration."""

    method: Stepped
    state: State
    feed: Feed
    name: str = "eager"

    def step(self, iteration: int) -> Tensor:
        return self.method.step(self.state, self.feed.batch(iteration), iteration)


class Captured:
    """One iteration recorded and replayed; `record` turns a function into its replay."""

    name = "captured"

    def __init__(self, method: Recordable, state: State, feed: ResidentFeed, *, record: Record) -> None:
        self.method = method
        self.state = state
        self.feed = feed
        self.record = record
        learner = _Learner(method.draws)
        row = method.reading(method.draws.read_from(learner.draw), learner).step(copied(state), feed.batch(0), 0)
        self._tables = Tables(method.draws, learner)
        self._indices = torch.stack([feed.indices(0)] * BLOCK)
        self._rows = row.new_empty(BLOCK, *row.shape)
        self._replay: Replay | None = None
        self._constants: list[float] = []
        self._next: int | None = None

    def step(self, iteration: int) -> Tensor:
        moved = iteration != self._next
        self._tables.refill(iteration, moved=moved)
        if moved or iteration % BLOCK == 0:
            first = iteration - iteration % BLOCK
            torch.stack([self.feed.indices(i) for i in range(first, first + BLOCK)], out=self._indices)
        constants = [constant(iteration) for constant in self._tables.constants]
        if self._replay is None or constants != self._constants:
            self._constants = constants
            self._replay = None  # frees the memory of the graph before
            self._replay = self.record(lambda: self._iteration(iteration))
        self._replay()
        self._next = iteration + 1
        return self._rows[iteration % BLOCK]

    def _iteration(self, iteration: int) -> None:
        """An iteration that finds all that changes by the tables' position."""
        reader = _Reader(self._tables, iteration)
        method = self.method.reading(self.method.draws.read_from(reader.draw), reader)
        batch = self.feed.gather(self._indices.index_select(0, self._tables.position)[0])
        row = method.step(self.state, batch, iteration)
        self._rows.index_copy_(0, self._tables.position, row.unsqueeze(0))
        self._tables.advance()


class Tables:
    """What the iterations of a block read, on the device, and the position of the next one."""

    def __init__(self, draws: Draws, learner: _Learner) -> None:
        self.draws = draws
        self.position = torch.zeros(1, dtype=torch.int64, device=draws.device)
        self.steps = learner.steps
        self.numbers = learner.numbers
        self.constants = learner.constants
        self.blocks = {table: self._empty(table, steps) for table, steps in self.steps.items()}
        self.values = torch.empty(BLOCK, len(self.numbers), dtype=draws.dtype, device=draws.device)

    def refill(self, iteration: int, *, moved: bool) -> None:
        """Make the tables hold an iteration; `moved` if it does not follow the one before."""
        if moved:
            self.position.fill_(iteration % BLOCK)
        for table, block in self.blocks.items():
            period, steps = block.shape[:2]
            if moved or iteration % period == 0:
                first = iteration - iteration % period
                block.copy_(self.draws.values(table, first * steps, period * steps).view(block.shape))
        if self.numbers and (moved or iteration % BLOCK == 0):
            first = iteration - iteration % BLOCK
            rows = [[number(i) for number in self.numbers] for i in range(first, first + BLOCK)]
            self.values.copy_(torch.tensor(rows, dtype=self.values.dtype))

    def advance(self) -> None:
        """Move the position by one iteration."""
        self.position.add_(1).remainder_(BLOCK)

    def _empty(self, table: Table, steps: int) -> Tensor:
        example = self.draws.values(table, 0, 1)[0]
        fitting = _TABLE_BYTES // (steps * example.numel() * example.element_size())
        period = next(period for period in _PERIODS if period <= fitting or period == 1)
        return example.new_empty(period, steps, *example.shape)


class _Learner:
    """Notes what an iteration reads while it is carried out for the first time."""

    def __init__(self, draws: Draws) -> None:
        self._draws = draws
        self.steps: dict[Table, int] = {}
        self.numbers: list[Callable[[int], float]] = []
        self.constants: list[Callable[[int], float]] = []

    def draw(self, table: Table, step: int) -> Tensor:
        self.steps[table] = max(step + 1, self.steps.get(table, 0))
        return self._draws.values(table, step, 1)[0]

    def moment(self, count: Callable[[int], Count], iteration: int) -> Moment:
        return _Noted(self, count, iteration)


@dataclass(frozen=True)
class _Noted:
    learner: _Learner
    count: Callable[[int], Count]
    iteration: int

    def number(self, function: Callable[[Count], float]) -> float:
        self.learner.numbers.append(lambda iteration: function(self.count(iteration)))
        return function(self.count(self.iteration))

    def constant(self, function: Callable[[Count], float]) -> float:
        self.learner.constants.append(lambda iteration: function(self.count(iteration)))
        return function(self.count(self.iteration))


class _Reader:
    """Reads from the tables, at their position, what the first time was computed, in the same order."""

    def __init__(self, tables: Tables, iteration: int) -> None:
        self._tables = tables
        self._iteration = iteration
        self._numbers = iter(tables.values.index_select(0, tables.position)[0].unbind())

    def draw(self, table: Table, step: int) -> Tensor:
        block = self._tables.blocks[table]
        period, steps = block.shape[:2]
        row = self._tables.position.remainder(period)
        return block[:, step - self._iteration * steps].index_select(0, row)[0]

    def moment(self, count: Callable[[int], Count], iteration: int) -> Moment:
        return _Read(self._numbers, count, iteration)


@dataclass(frozen=True)
class _Read:
    numbers: Iterator[Tensor]
    count: Callable[[int], Count]
    iteration: int

    def number(self, function: Callable[[Count], float]) -> Tensor:
        return next(self.numbers)

    def constant(self, function: Callable[[Count], float]) -> float:
        return function(self.count(self.iteration))


def copied(state: State) -> State:
    """A state of its own with the same values."""
    return {part: {name: tensor.detach().clone() for name, tensor in ts.items()} for part, ts in state.items()}


def cuda_graph(function: Callable[[], None]) -> Replay:
    """The function's kernels as a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay
