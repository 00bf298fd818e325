"""Carries out a grid: stack after stack, each isolated from the others' failures."""

from __future__ import annotations

import os
import socket
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from harness import manifest, records, runs, winners
from harness.errors import HarnessError, InputError, Preempted, RunFailed, Stranded
from harness.methods import method
from harness.placement import PlacementName, described, placement
from harness.plan import Plan, Stack, StackSize
from harness.runs import GridFolder
from harness.training import feed, trackers
from harness.training.feed import Order, TrainingImages, statistics
from harness.training.inner_loop import InnerLoop
from harness.training.loop import Schedule, train
from harness.training.processes import Processes, check_launcher
from harness.training.tally import Tally
from harness.training.threads import set_threads

_PROGRESS_SECONDS = 2.0
_PATIENCE_SECONDS = 10.0
_LOOK_SECONDS = 0.2
_LOCK_SECONDS = 60.0


class Watcher(Protocol):
    """Who looks on while a grid runs."""

    def begin(self, stacks: Sequence[Stack], tally: Tally, *, note: str, process: int | None) -> None:
        """These stacks will be trained, placed as `note` says; `process`, where each process has stacks of its own."""

    def start(self, stack: Stack, iteration: int) -> None:
        """A stack begins, or goes on behind an iteration."""

    def advance(self, stack: Stack, iteration: int) -> None:
        """A stack has done this many iterations."""

    def finish(self, stack: Stack, outcome: str) -> None:
        """A stack has ended: complete, failed, or skipped because it had ended before."""


@dataclass(frozen=True)
class Options:
    """How to carry out a grid; nothing here changes a result by more than rounding."""

    out: Path
    images_on: feed.Placement = "auto"
    placement: PlacementName = "auto"
    threads: int | None = None
    trackers: tuple[str, ...] = ()
    stack: int | None = None
    """Train this stack of grid.json alone, and leave the folder to others too."""


def run_grid(plan: Plan, options: Options, *, stop: Callable[[], bool], watcher: Watcher) -> GridFolder:
    """Train what of a grid is not yet trained.

    Errors: InputError for a folder that cannot be used; Preempted; RunFailed at the end, if runs failed.
    """
    trackers.check(options.trackers)
    for precision in {run.experiment.precision for run in plan.runs}:
        check_launcher(precision)
    processes = Processes()
    set_threads(processes, options.threads)
    folder = GridFolder(options.out / plan.grid.name)
    divides = all(run.experiment.batch_size % processes.count == 0 for run in plan.runs)
    placed = placement(
        options.placement,
        stack_size=plan.grid.file.run.stack_size,
        device=processes.device.type,
        processes=processes.count,
        divides=divides,
    )
    try:
        if options.placement == "data-parallel" and not divides:
            raise InputError(_indivisible(plan, processes))
        with ExitStack() as held:
            plan, stacks = _reconciled(folder, plan, placed.stack_size, processes, held, number=options.stack)
            is_shared = placed.is_shared(len(stacks))
            if options.trackers and not is_shared:
                raise InputError("--tracker hears the main process alone; add --placement data-parallel.")
            tally = Tally.of(processes)
            trained = {run.id for stack in stacks for run in stack.members}
            head = described(len(stacks), len(trained), processes=processes.count, is_shared=is_shared)
            watcher.begin(stacks, tally, note=head, process=None if is_shared else processes.rank)

            def train_stacks(chosen: Iterable[Stack]) -> None:
                for stack in chosen:
                    _run_stack(stack, folder, plan, options, alone=not is_shared, stop=stop, watcher=watcher)

            if is_shared:
                train_stacks(stacks)
            else:
                with _ending_together(tally, processes, stop):
                    train_stacks(_taken(stacks, tally))
    except Stranded:
        raise  # the process group cannot be left in order
    except BaseException:
        processes.close()
        raise
    processes.close()
    failures = {run.id: run.failure() for run in GridFolder(folder.path).runs() if run.id in trained}
    reasons = [f"  {run_id}  {failure['reason']}" for run_id, failure in failures.items() if failure]
    if reasons:
        head = f"{len(reasons)} of {len(trained)} runs failed; the same command tries them again:"
        raise RunFailed("\n".join([head, *reasons]))
    return folder


def _indivisible(plan: Plan, processes: Processes) -> str:
    sizes = {run.experiment.batch_size for run in plan.runs}
    size = next(size for size in sorted(sizes) if size % processes.count)
    return (
        f"{plan.grid.path}: batch_size = {size} does not divide by the {processes.count} processes; change one of them."
    )


def _taken(stacks: Sequence[Stack], tally: Tally) -> Iterator[Stack]:
    """The stacks that this process takes from those of the job, until none is left.

    Errors: Preempted where the main process has gone, which keeps the tally.
    """
    while (number := tally.add("taken", 1)) <= len(stacks):
        if tally.is_lost:
            raise Preempted("the job's main process has ended; run the same command to go on.")
        yield stacks[number - 1]


@contextmanager
def _ending_together(tally: Tally, processes: Processes, stop: Callable[[], bool]) -> Iterator[None]:
    """Leave when all processes of the job have ended their stacks, or at a signal; the main one, which keeps the tally,
    gives the others some seconds to be the first.

    Errors: Preempted at a signal.
    """
    try:
        yield
    except BaseException:
        _leave("ended", tally, processes)
        raise
    tally.add("ended", 1)
    while tally.add("ended", 0) < processes.count and not tally.is_lost:
        if stop():
            raise Preempted("stopped while other processes still train; run the same command to go on.")
        time.sleep(_LOOK_SECONDS)
    _leave("seen", tally, processes)


def _leave(name: str, tally: Tally, processes: Processes) -> None:
    """Count this process under a name; the main one waits some seconds until all are counted, and so goes last."""
    tally.add(name, 1)
    deadline = time.monotonic() + (_PATIENCE_SECONDS if processes.is_main else 0)
    while time.monotonic() < deadline and tally.add(name, 0) < processes.count:
        time.sleep(_LOOK_SECONDS)


def _updates(stack: Stack) -> int:
    shared = stack.experiment
    return len(stack.members) * (InnerLoop.of(shared).before(shared.iterations) + shared.iterations)


def _reconciled(
    folder: GridFolder, plan: Plan, size: StackSize, processes: Processes, held: ExitStack, *, number: int | None
) -> tuple[Plan, list[Stack]]:
    """The plan with the best of its search, and the folder's stacks, on every process, those that failed before last.

    The main process alone locks the folder (until `held` closes), chooses the best and writes the manifest; all hear if
    it refuses. With a `number` that stack alone, and the folder is not locked.
    """
    choices: list[winners.Choice] = []
    found: list[Stack] = []
    refusal = ""
    if processes.is_main:
        try:
            if number is None:
                held.enter_context(manifest.lock(folder))
                choices, found = _settled(folder, plan, size)
            else:
                choices, found = _among_others(folder, plan, size)
                found = [_numbered(found, number, folder)]
            # The longest first where processes take them in turns, so that all end at about the same time.
            length = _updates if processes.count > 1 else lambda stack: 0
            found.sort(key=lambda stack: (any(folder.run(run.id).failure() for run in stack.members), -length(stack)))
        except HarnessError as error:
            refusal = str(error)
        except OSError as error:
            refusal = f"cannot write to {folder.path}: {error.strerror}; choose another --out."
    refusal = processes.from_main(refusal)
    if refusal:
        raise InputError(refusal)
    plan = winners.grown(plan, processes.from_main(choices))
    members = {run.id: run for run in plan.runs}
    ids = processes.from_main([[run.id for run in stack.members] for stack in found])
    return plan, [Stack(tuple(members[run_id] for run_id in stack)) for stack in ids]


def _settled(folder: GridFolder, plan: Plan, size: StackSize) -> tuple[list[winners.Choice], list[Stack]]:
    choices = winners.settle(folder, plan)
    return choices, manifest.reconcile(folder, winners.grown(plan, choices), size)


def _among_others(folder: GridFolder, plan: Plan, size: StackSize) -> tuple[list[winners.Choice], list[Stack]]:
    """The choices and stacks of a folder in which others train; its manifest is written only if it lacks runs."""
    choices = winners.choose(folder, plan)
    grown = winners.grown(plan, choices)
    if manifest.holds(folder, grown):
        return choices, manifest.foreseen(folder, grown, size)
    with manifest.lock(folder, wait_seconds=_LOCK_SECONDS):
        return _settled(folder, plan, size)


def _numbered(stacks: Sequence[Stack], number: int, folder: GridFolder) -> Stack:
    if number >= len(stacks):
        raise InputError(f"--stack {number}: {folder.path} has the stacks 0 to {len(stacks) - 1}.")
    return stacks[number]


def _run_stack(
    stack: Stack,
    folder: GridFolder,
    plan: Plan,
    options: Options,
    *,
    alone: bool,
    stop: Callable[[], bool],
    watcher: Watcher,
) -> None:
    """Train one stack unless it has ended; a failure is recorded in its members' folders and goes no further."""
    precision = stack.experiment.precision
    processes = Processes(precision, trackers=options.trackers, folder=str(folder.path), alone=alone)
    members = [folder.run(run.id) for run in stack.members]
    if processes.from_main(all(run.provenance() and not run.failure() for run in members)):
        watcher.finish(stack, "skipped")
        return
    heart = Heart(stack, folder, processes, watcher)
    try:
        _train_stack(stack, folder, plan, options, processes, heart=heart, stop=stop)
    except Preempted:
        heart.write("preempted")
        raise
    except Exception as error:
        _record_failure(stack, folder, error)
        heart.write("failed")
        watcher.finish(stack, "failed")
        if not processes.all_come(within_seconds=_PATIENCE_SECONDS):
            # The others wait in an exchange that this process has left: only the job's end frees them.
            raise Stranded(
                f"stack {stack.id} failed on process {processes.rank} alone ({type(error).__name__}: {error}), which "
                "ends the job; the same command goes on, with the other stacks first."
            ) from error
    else:
        heart.write("complete")
        watcher.finish(stack, "complete")
    finally:
        trackers.end(processes)


def _record_failure(stack: Stack, folder: GridFolder, error: Exception) -> None:
    """Write the reason into the members' folders.

    Errors: InputError where even that cannot be written.
    """
    failure = {"reason": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    try:
        for run in stack.members:
            folder.run(run.id).write("failure.json", failure)
        folder.stack(stack.id).mkdir(parents=True, exist_ok=True)
    except OSError as refused:
        reason = refused.strerror or refused
        raise InputError(f"cannot write to {folder.path}: {reason}; what is saved stays. First: {error}") from error


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

    trained = train(
        built,
        lambda first: images.feed(order, first=first, steps=shared.iterations),
        processes,
        schedule,
        stop=stop,
        snapshot=records.snapshots(built, stack, folder, processes),
        begin=heart.start,
        report=report,
    )
    if processes.is_main:
        records.write(trained, built, stack, folder, data, processes)
    processes.wait()


class Heart:
    """Tells the stack's progress to its folder and to whoever watches."""

    def __init__(self, stack: Stack, folder: GridFolder, processes: Processes, watcher: Watcher) -> None:
        self.stack = stack
        self.path = folder.stack(stack.id) / "progress.json"
        self.is_main = processes.is_main
        self.watcher = watcher
        self._iteration = self._first = 0
        self._began = self._written = time.monotonic()

    def start(self, iteration: int) -> None:
        """Training begins behind this iteration."""
        self._iteration = self._first = iteration
        self._began = time.monotonic()
        self.watcher.start(self.stack, iteration)
        self.write("running")

    def beat(self, iteration: int) -> None:
        """This many iterations are done."""
        self._iteration = iteration
        self.watcher.advance(self.stack, iteration)
        if time.monotonic() - self._written > _PROGRESS_SECONDS:
            self.write("running")

    def write(self, state: str) -> None:
        """Write progress.json."""
        if not self.is_main:
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
        runs.write_json(self.path, progress)
