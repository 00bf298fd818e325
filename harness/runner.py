"""Carries out a grid: stack after stack, each isolated from the others' failures."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from harness import manifest, records, runs, winners
from harness.claims import Claim, Claimant
from harness.errors import HarnessError, InputError, Preempted, RunFailed, StorageError, Stranded, storage_error
from harness.methods import method
from harness.placement import PlacementName, described, needs_no_group, pays, placement
from harness.plan import Plan, Stack, StackSize
from harness.progress import StackProgress, Watcher
from harness.remaining import FAILED, Remaining
from harness.runs import GridFolder
from harness.training import checkpoint, feed, trackers
from harness.training.feed import Order, TrainingImages, statistics
from harness.training.gan import Gan
from harness.training.inner_loop import InnerLoop
from harness.training.loop import Method, Schedule, State, train
from harness.training.processes import Processes, check_launcher
from harness.training.threads import set_threads
from harness.training.trials import step_operations

_PATIENCE_SECONDS = 10.0
_LOOK_SECONDS = 0.2
_LONGEST_LOOK_SECONDS = 2.0
_TRAINED = ("generator", "discriminator", "model")
"""The parts of a state that hold what is trained."""

Refusal = tuple[type[HarnessError], str]


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
    settings = plan.grid.file.run
    divides = plan.divides_by(count)
    placed = placement(
        options.placement,
        stack_size=settings.stack_size,
        device=processes.device.type,
        processes=count,
        divides=divides,
    )
    if options.placement == "data-parallel":
        plan.check_divides_by(count)
    claimant = Claimant(settings.lapse_seconds)
    plan, stacks = _reconciled(folder, plan, placed.stack_size, processes, claimant=claimant, stop=stop)
    stacks = _asked(stacks, options.stacks, folder)
    is_asked = options.placement == "auto" and divides and len(stacks) < count
    is_worth_it = bool(is_asked and processes.from_main(processes.is_main and _pays(plan, stacks, options)))
    is_shared = placed.is_shared(len(stacks), is_worth_it)
    if options.trackers and not is_shared:
        raise InputError("--tracker hears the main process alone; add --placement data-parallel.")
    members = sum(len(stack.members) for stack in stacks)
    note = described(
        options.placement,
        len(stacks),
        members,
        processes=count,
        is_shared=is_shared,
        divides=divides,
    )
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


def _pays(plan: Plan, stacks: Sequence[Stack], options: Options) -> bool:
    """Whether the longest stack's iterations pay for exchanges; not of one that cannot be built, which will tell."""

    def cost(stack: Stack) -> tuple[int, int]:
        built, feed_from = _made(stack, plan, Processes(stack.experiment.precision, alone=True), options)
        state = built.init()
        operations = step_operations(built, state, feed_from(0))
        return operations, sum(tensor.numel() for part in _TRAINED for tensor in state.get(part, {}).values())

    try:
        return pays(*max(map(cost, stacks), default=(0, 0)))
    except (RuntimeError, HarnessError):
        return False


def _check_failures(stacks: Sequence[Stack], folder: GridFolder) -> None:
    """Errors: RunFailed with the reasons, if runs failed."""
    members = [folder.run(run.id) for stack in stacks for run in stack.members]
    reasons = [f"  {run.id}  {failure['reason']}" for run in members if (failure := run.failure())]
    if reasons:
        head = f"{len(reasons)} of {len(members)} runs failed; the same command tries them again:"
        raise RunFailed("\n".join([head, *reasons]))


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
    progress = StackProgress(stack, folder, processes, watcher, claim)
    outcome: str | None = "interrupted"
    try:
        _train_stack(stack, folder, plan, options, processes, progress=progress, stop=stop)
    except Preempted:
        if not processes.from_main(progress.is_lost):
            outcome = "preempted"
            progress.write("preempted")
            raise
        outcome = None
        watcher.lose(stack, progress.lost_line)
    except Exception as error:
        outcome = FAILED if progress.holds() else None
        if outcome is None:
            watcher.lose(stack, progress.lost_line)
        else:
            _record_failure(stack, folder, error)
            progress.write("failed")
        if not processes.all_come(within_seconds=_PATIENCE_SECONDS):
            # The others wait in an exchange that this process has left: only the job's end frees them.
            raise Stranded(
                f"stack {stack.id} failed on process {processes.rank} alone ({type(error).__name__}: {error}), which "
                "ends the job; the same command goes on, with the other stacks first."
            ) from error
    else:
        outcome = "complete"
        progress.write("complete")
    finally:
        trackers.end(processes)
        if claim is not None:
            claim.release(outcome or "lost", saved=_saved(folder, stack))
    return outcome


def _saved(folder: GridFolder, stack: Stack) -> int | None:
    """The iteration up to which a stack is saved; None where its folder cannot be read any more."""
    try:
        return checkpoint.saved(folder.stack(stack.id))
    except OSError:
        return None


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


def _made(
    stack: Stack, plan: Plan, processes: Processes, options: Options
) -> tuple[Method, Callable[[int], feed.Feed]]:
    """The method of a stack, and its images from an iteration on."""
    shared, data = stack.experiment, plan.data[stack.experiment.dataset]
    members = [run.experiment for run in stack.members]
    built = method(shared.method).build(members, statistics(data), training_images=len(data.train), processes=processes)
    order = Order(built.draws, size=len(data.train), batch_size=shared.batch_size, inner_loop=InnerLoop.of(shared))
    images = TrainingImages.of(shared, data.train, processes, placement=options.images_on)
    return built, lambda first: images.feed(order, first=first, steps=shared.iterations)


def _train_stack(
    stack: Stack,
    folder: GridFolder,
    plan: Plan,
    options: Options,
    processes: Processes,
    *,
    progress: StackProgress,
    stop: Callable[[], bool],
) -> None:
    shared = stack.experiment
    built, feed_from = _made(stack, plan, processes, options)
    if plan.pieces > 1:
        assert isinstance(built, Gan), "the plan refuses others"
        built = built.accumulating(plan.pieces)
    if processes.is_main:
        for run in stack.members:
            (folder.run(run.id).path / "failure.json").unlink(missing_ok=True)
    settings = plan.grid.file.run
    schedule = Schedule(
        shared.iterations,
        folder.stack(stack.id),
        epoch=progress.epoch,
        may_write=progress.holds,
        checkpoint_every=settings.checkpoint_every,
        checkpoint_seconds=settings.checkpoint_seconds,
        snapshot_every=settings.snapshot_every,
        convolution=settings.convolution,
    )
    trackers.start(processes, plan.grid.name, {"grid": plan.grid.name})

    def report(iteration: int, rows: Tensor) -> None:
        progress.reach(iteration)
        values = rows[-1].T.tolist()
        for run, row in zip(stack.members, values, strict=True):
            trackers.track(
                processes, {f"{run.id}/{key}": x for key, x in zip(built.columns, row, strict=True)}, iteration
            )

    keep = records.snapshots(built, stack, folder, processes)

    def snapshot(iteration: int, state: State, alive: Sequence[bool]) -> None:
        if progress.holds():
            keep(iteration, state, alive)

    trained = train(
        built,
        feed_from,
        processes,
        schedule,
        stop=lambda: stop() or progress.is_lost,
        snapshot=snapshot,
        begin=progress.start,
        report=report,
    )
    if not processes.from_main(progress.holds()):
        raise Preempted(progress.lost_line)
    if processes.is_main:
        records.write(trained, built, stack, folder, plan.data[shared.dataset], processes, pieces=plan.pieces)
    processes.wait()
