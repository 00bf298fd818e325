"""What surrounds a method's steps: history, divergence, checkpoints, snapshots, a stop in good order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from harness.draws import Draws
from harness.errors import InputError, Preempted
from harness.experiment import LatentSettings
from harness.layers import ConvolutionWay
from harness.training import checkpoint
from harness.training.checkpoint import Checkpoint
from harness.training.engine import BLOCK, engine
from harness.training.feed import Batch, Feed
from harness.training.processes import Processes
from harness.training.trials import quickest_way, step_operations

State = checkpoint.Nested


class Method(Protocol):
    """A way to train a stack of generative models. Images are (m, n, c, h, w) in [0, 1]."""

    @property
    def draws(self) -> Draws:
        """The members' random numbers."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What a row of history holds."""

    def columns_of(self, position: int) -> tuple[str, ...]:
        """Those that mean something for a member."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The keys of the state that are always there."""

    @property
    def bernoulli_means(self) -> bool:
        """Whether samples are means of Bernoulli pixels, so that there are binary images to draw from them."""

    @property
    def ways(self) -> tuple[ConvolutionWay, ...]:
        """The ways of computing an iteration that differ in speed and rounding alone; the first is safe."""

    def by(self, way: ConvolutionWay) -> Method:
        """The same method, computed in one of the ways."""

    def init(self) -> State:
        """The state before the first iteration: tensors with the members axis, by part."""

    def step(self, state: State, batch: Batch, iteration: int) -> Tensor:
        """One iteration, in place; a row of history, (columns, m)."""

    def sample(self, state: State, n: int, *, purpose: str = "sample", first: int = 0) -> Tensor:
        """Samples first..first+n-1: (m, n, c, h, w)."""

    def labels(self, state: State, n: int, *, purpose: str = "sample", first: int = 0) -> Tensor | None:
        """The classes that those samples are of: int64 (m, n); None where there are no conditions."""

    def sampler(self, state: State) -> State:
        """The parts of the state that `sample` needs: what a snapshot holds."""


@runtime_checkable
class OfLatents(Protocol):
    """A method whose samples are images of latents, one each: `sample` is `images_at` of `latents` and `labels`."""

    @property
    def prior(self) -> LatentSettings:
        """The size and distribution of latents."""

    def latents(self, n: int, *, purpose: str = "sample", first: int = 0) -> Tensor:
        """Latents first..first+n-1 of each member's endless list: (m, n, size)."""

    def images_at(
        self, state: State, z: Tensor, y: Tensor | None, *, purpose: str = "sample", first: int = 0
    ) -> Tensor:
        """The images of latents (m, n, size), which stand in the places first..first+n-1: (m, n, c, h, w).

        Of classes y, int64 (m, n), where there are conditions.
        """


@runtime_checkable
class OfChains(Protocol):
    """A method whose samples are stops of Markov chains: the first of them, one a chain, after a burn-in."""

    @property
    def burn_in(self) -> int:
        """The steps before a chain's first sample."""

    def chain_states(self, state: State, n: int, times: Sequence[int], *, purpose: str = "sample") -> Tensor:
        """The images of the first n chains after so many steps each, from 1 on and rising: (m, n, times, c, h, w).

        Errors: InputError where there are fewer chains.
        """


@runtime_checkable
class OfLandscape(Protocol):
    """A method that scores points, finds its negatives where scores are high, in rounds, and its samples likewise."""

    @property
    def round_length(self) -> int:
        """The iterations from one renewal of the negatives to the next."""

    def landscape(self, state: State, points: Tensor) -> Tensor:
        """The scores, as logits, of points (n, c h w) in [0, 1]: (m, n)."""


@runtime_checkable
class OfBound(Protocol):
    """A method that bounds the likelihood of images from below."""

    def bound(self, state: State, images: Tensor, k: int, *, purpose: str = "bound", first: int = 0) -> Tensor:
        """Bounds on log p(x), in nats, by k importance-weighted draws each: (m, n), float64.

        Of images (m, n, c, h, w), which stand in the places first..first+n-1 of a list. Safe to call from several
        threads at once.
        """


@dataclass(frozen=True)
class Schedule:
    """How long a stack trains and what it leaves on the way; nothing here changes a trained parameter."""

    iterations: int
    folder: Path
    """Where the stack's checkpoints lie."""
    checkpoint_every: int | None = None
    checkpoint_seconds: float = 60.0
    snapshot_every: int | None = None
    convolution: ConvolutionWay | None = None
    """How stacked convolutions are computed; None: the quickest way, found by a few steps."""
    epoch: int = 0
    """What checkpoints are written under: the newest epoch's are read."""
    may_write: Callable[[], bool] = lambda: True
    """Whether the folder is still this process's; asked before each checkpoint."""


@dataclass(frozen=True)
class Trained:
    """A stack that has ended: its state, its history (iterations, columns, m) and where members diverged."""

    state: State
    history: Tensor
    diverged_at: tuple[int | None, ...]
    """For each member the first iteration, counted from 1, with a loss or a parameter that is not finite."""
    seconds: float
    flops_per_step: int
    convolution: ConvolutionWay
    """How stacked convolutions were computed."""
    engine: str
    """How the iterations were carried out: eager or captured."""


Snapshot = Callable[[int, State, Sequence[bool]], None]
Report = Callable[[int, Tensor], None]


def train(
    method: Method,
    feed_from: Callable[[int], Feed],
    processes: Processes,
    schedule: Schedule,
    *,
    stop: Callable[[], bool],
    snapshot: Snapshot,
    begin: Callable[[int], None],
    report: Report,
) -> Trained:
    """Train a stack to its end, from its newest checkpoint if there is one.

    `feed_from(iteration)` gives the feed from there on; `stop()` says whether a signal asked for an end;
    `snapshot(iteration, state, alive)` keeps the samplers; `begin(iteration)` hears where training starts, and
    `report(iteration, rows)` each block of history.
    Errors: Preempted after saving, when asked to stop.
    """
    begun = _begin(method, feed_from, processes, schedule)
    method = method.by(begun.facts["convolution"])
    state, history, iteration = begun.state, History(begun.history), begun.iteration
    iterations = engine(method, state, feed_from(iteration), processes)
    begin(iteration)
    saver = Saver(schedule, begun, is_main=processes.is_main)

    # Divergence ends a stack between two blocks alone, so that it ends at the same place whenever it was interrupted.
    while iteration < schedule.iterations and not (iteration % BLOCK == 0 and history.all_diverged):
        history.add(iterations.step(iteration))
        iteration += 1
        is_block = iteration % BLOCK == 0 or iteration == schedule.iterations
        # Asking the others is an exchange of its own, so several processes do it at every tenth iteration alone.
        is_asked = (processes.count == 1 or iteration % 10 == 0) and processes.any(stop())
        if is_asked and iteration < schedule.iterations:
            rows = history.fold()
            saver.save(iteration, state, history)  # before anything that could go wrong
            report(iteration, rows)
            raise Preempted(
                f"stopped after iteration {iteration} of {schedule.iterations}; run the same command to go on."
            )
        is_snapshot = bool(schedule.snapshot_every) and iteration % (schedule.snapshot_every or 1) == 0
        if is_block or is_snapshot:
            report(iteration, history.fold())
        if is_snapshot and iteration < schedule.iterations:
            snapshot(iteration, state, [at is None for at in history.diverged_at])
        if saver.is_due(iteration, is_block=is_block):
            saver.save(iteration, state, history)
    saver.save(iteration, state, history)
    diverged_at = history.diverged_with(method.sampler(state))
    facts = {key: begun.facts[key] for key in ("flops_per_step", "convolution")}
    return Trained(state, history.rows(), diverged_at, saver.seconds, engine=iterations.name, **facts)


class Saver:
    """Writes a stack's checkpoints when they are due, and knows for how long it has trained."""

    def __init__(self, schedule: Schedule, begun: Checkpoint, *, is_main: bool) -> None:
        self._schedule = schedule
        self._facts = begun.facts
        self._is_main = is_main
        self._begun = self._saved = begun.iteration
        self._started = self._saved_at = time.monotonic()
        if is_main:
            schedule.folder.mkdir(parents=True, exist_ok=True)

    @property
    def seconds(self) -> float:
        """Seconds of training, those before an interruption included."""
        return float(self._facts["seconds"]) + time.monotonic() - self._started

    def is_due(self, iteration: int, *, is_block: bool) -> bool:
        """Whether to save after an iteration: by their number, or by time where a block ends."""
        every = self._schedule.checkpoint_every
        is_late = time.monotonic() - self._saved_at > self._schedule.checkpoint_seconds
        return bool(every and iteration % every == 0) or (is_block and is_late)

    def save(self, iteration: int, state: State, history: History) -> None:
        """Write a checkpoint, on the main process, of what is not yet saved, if the folder is still its own."""
        schedule = self._schedule
        if self._is_main and iteration > self._saved and schedule.may_write():
            facts = self._facts | {"seconds": self.seconds}
            found = Checkpoint(iteration, state, history.rows(), facts)
            checkpoint.write(schedule.folder, found, epoch=schedule.epoch, begun=self._begun)
        self._saved, self._saved_at = iteration, time.monotonic()


class History:
    """Rows (columns, m) of a stack's iterations, folded into blocks, and where each member stopped being finite."""

    def __init__(self, rows: Tensor) -> None:
        self._blocks: list[Tensor] = []
        self._rows: list[Tensor] = []
        self._count = 0
        self.diverged_at: list[int | None] = []
        if len(rows):
            self._append(rows)

    def add(self, row: Tensor) -> None:
        """One iteration's row; it stays on the device until the next fold."""
        self._rows.append(row)

    def fold(self) -> Tensor:
        """Fetch the rows since the last fold: (rows, columns, m) on the CPU."""
        if not self._rows:
            return torch.empty(0)
        block = torch.stack(self._rows).cpu()
        self._rows = []
        self._append(block)
        return block

    def rows(self) -> Tensor:
        """All rows: (iterations, columns, m) on the CPU."""
        self.fold()
        self._blocks = [torch.cat(self._blocks)]
        return self._blocks[0]

    @property
    def all_diverged(self) -> bool:
        """Whether no member is left that trains."""
        return bool(self.diverged_at) and all(at is not None for at in self.diverged_at)

    def diverged_with(self, sampler: State) -> tuple[int | None, ...]:
        """`diverged_at`, where a member whose sampler is not finite counts as diverged at the last iteration."""
        sound = torch.ones(len(self.diverged_at), dtype=torch.bool)
        for tensors in sampler.values():
            for tensor in tensors.values():
                sound &= tensor.detach().reshape(len(tensor), -1).isfinite().all(1).cpu()
        return tuple(at or (None if ok else self._count) for at, ok in zip(self.diverged_at, sound, strict=True))

    def _append(self, block: Tensor) -> None:
        finite = block.isfinite().all(1)
        first = [None if column.all() else self._count + int(column.int().argmin()) + 1 for column in finite.T]
        known = self.diverged_at or [None] * len(first)
        self.diverged_at = [old or new for old, new in zip(known, first, strict=True)]
        self._blocks.append(block)
        self._count += len(block)


def _begin(method: Method, feed_from: Callable[[int], Feed], processes: Processes, schedule: Schedule) -> Checkpoint:
    """The newest checkpoint on this device, or the state before the first iteration."""
    found = checkpoint.latest(schedule.folder)
    seen = processes.gather_objects(found and found.iteration)
    if len(set(seen)) > 1:
        raise InputError(
            f"the processes of this job read different checkpoints in {schedule.folder} (after iterations {seen}); see "
            "that all machines share that folder, and run the same command again."
        )
    if found is None:
        state = checkpoint.in_order(method.init())
        way = schedule.convolution or quickest_way(method, state, feed_from(0), processes)
        facts = {
            "seconds": 0.0,
            "flops_per_step": step_operations(method, state, feed_from(0)),
            "convolution": way,
        }
        return Checkpoint(0, state, torch.empty(0), facts)
    loaded: State = dict.fromkeys(method.parts, {}) | found.state  # a part without tensors is not in the file
    # Copied, because tensors inside a file's bytes are not aligned, and matrix kernels round by alignment.
    state = {part: {k: t.to(processes.device, copy=True) for k, t in ts.items()} for part, ts in loaded.items()}
    state = checkpoint.in_order(state)
    # A checkpoint may be older than the choice.
    return Checkpoint(found.iteration, state, found.history, {"convolution": method.ways[0]} | found.facts)
