"""Carries out a grid: stack after stack, each isolated from the others' failures."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from harness import claims, manifest, records, runs, winners
from harness.claims import Claim, Claimant
from harness.errors import HarnessError, InputError, Preempted, RunFailed, StorageError, Stranded, storage_error
from harness.methods import method
from harness.placement import PlacementName, described, needs_no_group, placement
from harness.plan import Plan, Stack, StackSize
from harness.remaining import FAILED, Remaining
from harness.runs import GridFolder
from harness.training import checkpoint, feed, trackers
from harness.training.feed import Order, TrainingImages, statistics
from harness.training.inner_loop import InnerLoop
from harness.training.loop import Schedule, State, train
from harness.training.processes import Processes, check_launcher
from harness.training.threads import set_threads

_PROGRESS_SECONDS = 2.0
_PATIENCE_SECONDS = 10.0
_LOOK_SECONDS = 0.2
_LONGEST_LOOK_SECONDS = 2.0

Refusal = tuple[type[HarnessError], str]


class Watcher(Protocol):
    """Who looks on while a grid runs."""

    def begin(self, stacks: Sequence[Stack], *, note: str, process: int | None) -> None:
        """These stacks will be trained, placed as `note` says; `process`, where each of several takes its own."""

    def start(self, stack: Stack, iteration: int) -> None:
        """A stack begins, or goes on behind an iteration."""

    def advance(self, stack: Stack, iteration: int) -> None:
        """A stack has done this many iterations."""

    def finish(self, stack: Stack, outcome: str) -> None:
        """A stack has ended: complete, failed, skipped because it had ended before, or elsewhere."""

    def lose(self, stack: Stack, reason: str) -> None:
        """A stack that had begun goes on in another process."""

    def tell(self, line: str) -> None:
        """What a person should know."""


@dataclass(frozen=True)
class Options:
    """How to carry out a grid; nothing here changes a result by more than rounding."""

    out: Path
    images_on: feed.Placement = "auto"
    placement: PlacementName = "auto"
    threads: int | None = None
    trackers: tuple[str, ...] = ()
    stacks: tuple[int, ...] = ()
    """Places in grid.json, from 0, of the only stacks to train; empty: all."""


def run_grid(plan: Plan, options: Options, *, stop: Callable[[], bool], watcher: Watcher) -> GridFolder:
    """Train what of a grid is not yet trained, beside other processes that do the same; return when all has ended.

    Errors: InputError or StorageError for a folder that cannot be used; Preempted; RunFailed at the end, if runs
    failed.
    """
    trackers.check(options.trackers)
    for precision in {run.experiment.precision for run in plan.runs}:
        check_launcher(precision)
    processes = Processes(alone=needs_no_group(options.placement))
    set_threads(processes, options.threads)
    try:
        folder = _run_grid(plan, options, processes, stop=stop, watcher=watcher)
    except Stranded:
        raise  # the process group cannot be left in order
    except OSError as error:
        processes.close()
        raise storage_error(error, error.filename or options.out / plan.grid.name, verb="use") from error
    except BaseException:
        processes.close()
        raise
    processes.close()
    return folder


def _run_grid(
    plan: Plan, options: Options, processes: Processes, *, stop: Callable[[], bool], watcher: Watcher
) -> GridFolder:
    folder = GridFolder(options.out / plan.grid.name)
    count = processes.launched if processes.alone else processes.count
    divides = all(run.experiment.batch_size % count == 0 for run in plan.runs)
    settings = plan.grid.file.run
    placed = placement(
        options.placement,
        stack_size=settings.stack_size,
        device=processes.device.type,
        processes=count,
        divides=divides,
    )
    if options.placement == "data-parallel" and not divides:
        raise InputError(_indivisible(plan, processes))
    claimant = Claimant(settings.lapse_seconds)
    plan, stacks = _reconciled(folder, plan, placed.stack_size, processes, claimant=claimant, stop=stop)
    stacks = _asked(stacks, options.stacks, folder)
    is_shared = placed.is_shared(len(stacks))
    if options.trackers and not is_shared:
        raise InputError("--tracker hears the main process alone; add --placement data-parallel.")
    members = sum(len(stack.members) for stack in stacks)
    note = described(options.placement, len(stacks), members, processes=count, is_shared=is_shared, divides=divides)
    watcher.begin(stacks, note=note, process=None if is_shared else processes.job_rank)
    if not is_shared and processes.count > 1:
        processes = processes.part()
    remaining = Remaining(
        _in_order(stacks, folder, longest_first=count > 1) if processes.is_main else [],
        folder,
        claimant,
        ended=watcher.finish,
        tell=watcher.tell,
    )
    for stack, claim in _taken(remaining, stacks, folder, processes, stop=stop, watcher=watcher):
        outcome = _run_stack(stack, folder, plan, options, claim, alone=not is_shared, stop=stop, watcher=watcher)
        if outcome is not None:
            remaining.strike(stack)  # first, so that of all processes the last one to finish counts all
            watcher.finish(stack, outcome)
    _check_failures(stacks, folder)
    return folder


def _check_failures(stacks: Sequence[Stack], folder: GridFolder) -> None:
    """Errors: RunFailed with the reasons, if runs failed."""
    members = [folder.run(run.id) for stack in stacks for run in stack.members]
    reasons = [f"  {run.id}  {failure['reason']}" for run in members if (failure := run.failure())]
    if reasons:
        head = f"{len(reasons)} of {len(members)} runs failed; the same command tries them again:"
        raise RunFailed("\n".join([head, *reasons]))


def _indivisible(plan: Plan, processes: Processes) -> str:
    sizes = {run.experiment.batch_size for run in plan.runs}
    size = next(size for size in sorted(sizes) if size % processes.count)
    return (
        f"{plan.grid.path}: batch_size = {size} does not divide by the {processes.count} processes; change one of them."
    )


def _asked(stacks: list[Stack], places: Sequence[int], folder: GridFolder) -> list[Stack]:
    """The stacks at some places, or all.

    Errors: InputError where there is no such place.
    """
    if absent := [place for place in places if place not in range(len(stacks))]:
        raise InputError(
            f"{folder.path}/grid.json has {len(stacks)} stacks, 0 to {len(stacks) - 1}: there is no --stack "
            f"{', '.join(map(str, absent))}."
        )
    return [stacks[place] for place in dict.fromkeys(places)] if places else stacks


def _in_order(stacks: Sequence[Stack], folder: GridFolder, *, longest_first: bool) -> list[Stack]:
    """Stacks as they are taken: those that failed before last; the longest first where processes take turns at them.

    So all processes end at about the same time.
    """

    def updates(stack: Stack) -> int:
        shared = stack.experiment
        return len(stack.members) * (InnerLoop.of(shared).before(shared.iterations) + shared.iterations)

    def place(stack: Stack) -> tuple[bool, int]:
        return any(folder.run(run.id).failure() for run in stack.members), -updates(stack) if longest_first else 0

    return sorted(stacks, key=place)


def _taken(
    remaining: Remaining,
    stacks: Sequence[Stack],
    folder: GridFolder,
    processes: Processes,
    *,
    stop: Callable[[], bool],
    watcher: Watcher,
) -> Iterator[tuple[Stack, Claim | None]]:
    """The stacks that these processes train, until all have ended, whoever trained them; the main one claims them.

    Errors: InputError or StorageError where the folder cannot be written; Preempted at a signal.
    """
    by_id = {stack.id: stack for stack in stacks}
    waited = 0
    while processes.from_main(len(remaining)):
        if processes.any(stop()):
            raise Preempted("stopped between two stacks; run the same command to go on.")
        refusal: Refusal | None = None
        taken = None
        try:
            taken = remaining.take() if processes.is_main else None
        except (HarnessError, OSError) as error:
            refusal = _refused(error, folder)
        refusal, stack_id = processes.from_main((refusal, taken and taken[0].id))
        if refusal is not None:
            kind, message = refusal
            raise kind(message)
        if stack_id is not None:
            waited = 0
            yield by_id[stack_id], taken and taken[1]
        elif len(remaining) or not processes.is_main:
            if waited == 1:
                watcher.tell(f"waiting for {len(remaining)} stacks that other processes train")
            time.sleep(min(_LOOK_SECONDS * 1.5**waited, _LONGEST_LOOK_SECONDS))
            waited += 1


def _refused(error: HarnessError | OSError, folder: GridFolder) -> Refusal:
    """What the main process tells the others of an error: a class that they know, and the message."""
    if isinstance(error, OSError):
        error = storage_error(error, error.filename or folder.path, another="--out")
    kind = next((kind for kind in (StorageError, Preempted) if isinstance(error, kind)), InputError)
    return kind, str(error)


def _reconciled(
    folder: GridFolder,
    plan: Plan,
    size: StackSize,
    processes: Processes,
    *,
    claimant: Claimant,
    stop: Callable[[], bool],
) -> tuple[Plan, list[Stack]]:
    """The plan with the best of its search, and the folder's stacks as grid.json has them, on every process.

    The main process alone holds the manifest, chooses the best and writes; all hear if it refuses.
    """
    choices: list[winners.Choice] = []
    found: list[Stack] = []
    refusal: Refusal | None = None
    if processes.is_main:
        try:
            with manifest.lock(folder, claimant, stop=stop):
                choices = winners.settle(folder, plan)
                found = manifest.reconcile(folder, winners.grown(plan, choices), size)
        except (HarnessError, OSError) as error:
            refusal = _refused(error, folder)
    refusal = processes.from_main(refusal)
    if refusal is not None:
        kind, message = refusal
        raise kind(message)
    plan = winners.grown(plan, processes.from_main(choices))
    members = {run.id: run for run in plan.runs}
    ids = processes.from_main([[run.id for run in stack.members] for stack in found])
    return plan, [Stack(tuple(members[run_id] for run_id in stack)) for stack in ids]


def _run_stack(
    stack: Stack,
    folder: GridFolder,
    plan: Plan,
    options: Options,
    claim: Claim | None,
    *,
    alone: bool,
    stop: Callable[[], bool],
    watcher: Watcher,
) -> str | None:
    """Train one stack under a claim, which the main process has; how it ended, None where another took it over.

    A failure is recorded in its members' folders and goes no further.
    """
    precision = stack.experiment.precision
    processes = Processes(precision, trackers=options.trackers, folder=str(folder.path), alone=alone)
    heart = Heart(stack, folder, processes, watcher, claim)
    outcome: str | None = "interrupted"
    try:
        _train_stack(stack, folder, plan, options, processes, heart=heart, stop=stop)
    except Preempted:
        if not processes.from_main(heart.is_lost):
            outcome = "preempted"
            heart.write("preempted")
            raise
        outcome = None
        watcher.lose(stack, heart.lost_line)
    except Exception as error:
        outcome = FAILED if heart.holds() else None
        if outcome is None:
            watcher.lose(stack, heart.lost_line)
        else:
            _record_failure(stack, folder, error)
            heart.write("failed")
        if not processes.all_come(within_seconds=_PATIENCE_SECONDS):
            # The others wait in an exchange that this process has left: only the job's end frees them.
            raise Stranded(
                f"stack {stack.id} failed on process {processes.rank} alone ({type(error).__name__}: {error}), which "
                "ends the job; the same command goes on, with the other stacks first."
            ) from error
    else:
        outcome = "complete"
        heart.write("complete")
    finally:
        trackers.end(processes)
        if claim is not None:
            claim.release(outcome or "lost", saved=checkpoint.saved(folder.stack(stack.id)))
    return outcome


def _record_failure(stack: Stack, folder: GridFolder, error: Exception) -> None:
    """Write the reason into the members' folders.

    Errors: as `storage_error`, where even that cannot be written.
    """
    failure = {"reason": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    try:
        for run in stack.members:
            runs.write_json(folder.run(run.id).path / "failure.json", failure, inside=folder.path)
    except OSError as refused:
        raise storage_error(refused, refused.filename) from error


def _train_stack(
    stack: Stack,
    folder: GridFolder,
    plan: Plan,
    options: Options,
    processes: Processes,
    *,
    heart: Heart,
    stop: Callable[[], bool],
) -> None:
    shared = stack.experiment
    data = plan.data[shared.dataset]
    experiments = [run.experiment for run in stack.members]
    built = method(shared.method).build(
        experiments, statistics(data), training_images=len(data.train), processes=processes
    )
    order = Order(built.draws, size=len(data.train), batch_size=shared.batch_size, inner_loop=InnerLoop.of(shared))
    images = TrainingImages.of(shared, data.train, processes, placement=options.images_on)
    if processes.is_main:
        for run in stack.members:
            (folder.run(run.id).path / "failure.json").unlink(missing_ok=True)
    settings = plan.grid.file.run
    schedule = Schedule(
        shared.iterations,
        folder.stack(stack.id),
        epoch=heart.epoch,
        may_write=heart.holds,
        checkpoint_every=settings.checkpoint_every,
        checkpoint_seconds=settings.checkpoint_seconds,
        snapshot_every=settings.snapshot_every,
        convolution=settings.convolution,
    )
    trackers.start(processes, plan.grid.name, {"grid": plan.grid.name})

    def report(iteration: int, rows: Tensor) -> None:
        heart.beat(iteration)
        values = rows[-1].T.tolist()
        for run, row in zip(stack.members, values, strict=True):
            trackers.track(
                processes, {f"{run.id}/{key}": x for key, x in zip(built.columns, row, strict=True)}, iteration
            )

    keep = records.snapshots(built, stack, folder, processes)

    def snapshot(iteration: int, state: State, alive: Sequence[bool]) -> None:
        if heart.holds():
            keep(iteration, state, alive)

    trained = train(
        built,
        lambda first: images.feed(order, first=first, steps=shared.iterations),
        processes,
        schedule,
        stop=lambda: stop() or heart.is_lost,
        snapshot=snapshot,
        begin=heart.start,
        report=report,
    )
    if not processes.from_main(heart.holds()):
        raise Preempted(heart.lost_line)
    if processes.is_main:
        records.write(trained, built, stack, folder, data, processes)
    processes.wait()


class Heart:
    """Tells the stack's progress to its folder, to its claim and to whoever watches."""

    def __init__(
        self, stack: Stack, folder: GridFolder, processes: Processes, watcher: Watcher, claim: Claim | None
    ) -> None:
        self.stack = stack
        self.path = folder.stack(stack.id) / "progress.json"
        self._grid = folder.path
        self.is_main = processes.is_main
        self.watcher = watcher
        self.epoch: int = processes.from_main(claim and claim.epoch)
        """That of the claim."""
        self._claim = claim
        self._iteration = self._first = 0
        self._began = self._written = time.monotonic()

    @property
    def is_lost(self) -> bool:
        """Whether the main process, which is this one, knows that the stack is another's by now."""
        return self._claim is not None and self._claim.is_lost

    def holds(self) -> bool:
        """Look whether the stack is still this job's."""
        return self._claim.holds() if self._claim else claims.newest(self.path.parent) <= self.epoch

    @property
    def lost_line(self) -> str:
        """What a person reads when the stack is another's."""
        return (
            f"stack {self.stack.id}: stopped at iteration {self._iteration}, because another process has taken it over "
            "while this one gave no sign of life; what was not saved by then is dropped"
        )

    def start(self, iteration: int) -> None:
        """Training begins behind this iteration."""
        self._iteration = self._first = iteration
        self._began = time.monotonic()
        self.watcher.start(self.stack, iteration)
        if self._claim is not None:
            self._claim.begin(iteration)
        self.write("running")

    def beat(self, iteration: int) -> None:
        """This many iterations are done."""
        self._iteration = iteration
        self.watcher.advance(self.stack, iteration)
        if self._claim is not None:
            self._claim.reach(iteration)
        if time.monotonic() - self._written > _PROGRESS_SECONDS:
            self.write("running")

    def write(self, state: str) -> None:
        """Write progress.json."""
        if not self.is_main or not self.holds():
            return
        self._written = time.monotonic()
        seconds = self._written - self._began
        progress: dict[str, Any] = {
            "state": state,
            "iteration": self._iteration,
            "iterations": self.stack.experiment.iterations,
            "iterations_per_second": (self._iteration - self._first) / seconds if seconds > 0 else None,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "updated": time.time(),
        }
        runs.write_json(self.path, progress, inside=self._grid)
