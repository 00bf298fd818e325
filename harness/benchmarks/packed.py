"""`harness bench packed`: a grid's runs in stacks of several sizes, beside the same runs one after another.

The ways of training the members take turns, and in each turn every member trains for the same number of iterations:
one after the other in this process with all threads, in as many processes as there are cores with one thread each, in
stacks of each size with all threads, and in stacks of some sizes in the processes.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.progress import Progress

from harness.benchmarks.products import bare, record
from harness.benchmarks.roofline import Rates, measure_rates
from harness.benchmarks.timing import Timing, Turns, cores, machine, measure, measure_rounds, spread, threads
from harness.benchmarks.workers import Workers, workers
from harness.benchmarks.workload import TrainingSet, TrainingStack
from harness.errors import InputError
from harness.grid import load_grid
from harness.plan import Plan, PlannedRun, data_folders, plan, plan_beside_file, stacks
from harness.training.processes import Processes

SIZES = (1, 4, 12, 36, 64, 128, 256)
MEMBERS = 36
TOLERANCE = 0.03
_DRAWN_AHEAD = 64  # steps whose random numbers the engine draws in one call: turns hold whole blocks of them


@dataclass(frozen=True)
class Way:
    """A way of training the members, timed: by an engine, in stacks of at most so many, in one process or several."""

    engine: str
    timing: Timing
    stack_size: int
    processes: int = 1
    products: Timing | None = None
    """What a turn's matrix products take alone, at their shapes, in the same rounds."""

    @property
    def name(self) -> str:
        way = "packed" if self.stack_size > 1 else "one after the other"
        return f"{way}, in processes" if self.processes > 1 else way

    def times_faster(self, others: Sequence[Way]) -> list[float]:
        """The time of the fastest of the others over the own, by round."""
        fastest = map(min, zip(*(way.timing.seconds for way in others), strict=True))
        return [theirs / own for theirs, own in zip(fastest, self.timing.seconds, strict=True)]


@dataclass(frozen=True)
class Group:
    """Runs of a grid that can train as one stack."""

    name: str
    runs: tuple[PlannedRun, ...]
    plan: Plan


def bench(
    *,
    grid: str | None = None,
    data: Path | None = None,
    members: int = MEMBERS,
    repeats: int = 5,
    turn_seconds: float | None = None,
    rates: Rates | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Iterations a second, summed over all members, by each way of training them; and the stack size to recommend.

    `grid`: a grid file or a shipped grid's name, each group of whose runs is timed by up to `members` of them; if not
    given, the demo's `mlp` at k = 1, both losses, as many seeds as make `members`. `turn_seconds`: about how long the
    members take one after the other in a turn (2.5; 2 for a grid, which may have many groups). `rates` are measured if
    not given.
    Errors: InputError or UnknownName for a bad grid, or one without two runs of one shape; DataMissing.
    """
    if data is not None and grid is None:
        raise InputError("--data is where a grid's data sets are: give --grid with it.")
    groups = _demo(members) if grid is None else _groups(grid, data)
    turn_seconds = turn_seconds or (2.5 if grid is None else 2.0)
    device = Processes().device
    with threads(cores()):
        precisions = sorted({group.runs[0].experiment.precision for group in groups})
        rates = rates or measure_rates(device, precisions)
        figures = [_time(group, members, repeats, turn_seconds, rates, progress) for group in groups]
        described = machine(device)
    works = [
        (len(group.runs) * group.runs[0].experiment.iterations, _rates_by_size(timed))
        for group, timed in zip(groups, figures, strict=True)
    ]
    size = recommended(combined(works))
    return {
        "machine": described,
        "rates": rates.figures(),
        "groups": figures,
        "stack_size": size,
        "for the grid file": f"[run]\nstack_size = {size}",
    }


def recommended(rates: Mapping[int, float]) -> int:
    """The smallest stack size whose rate is within 3% of the best: {size: iterations a second}."""
    enough = (1 - TOLERANCE) * max(rates.values())
    return min(size for size, rate in rates.items() if rate >= enough)


def combined(works: Sequence[tuple[float, Mapping[int, float]]]) -> dict[int, float]:
    """The rate of a whole grid by stack size, from each group's iterations over all its runs and its rates by size.

    A group that was not timed at a size trains in stacks of the next smaller one.
    """
    sizes = sorted({size for _, rates in works for size in rates})
    total = sum(iterations for iterations, _ in works)
    return {size: total / sum(iterations / _at(rates, size) for iterations, rates in works) for size in sizes}


def _at(rates: Mapping[int, float], size: int) -> float:
    return rates[max(timed for timed in rates if timed <= size)]


def sizes_up_to(members: int) -> list[int]:
    """The stack sizes to time for some members: near the usual ones, as even stacks have them, up to all at once."""
    counts = {-(-members // size) for size in (*SIZES, members)}
    return sorted({-(-members // count) for count in counts})


def affordable(members: int, *, member_bytes: int, free_bytes: int) -> int:
    """As many of the members as fit into half of the free memory, when every way of training holds all of them."""
    ways = len(sizes_up_to(members)) + 1
    return max(2, min(members, free_bytes // 2 // (ways * member_bytes)))


def why_no_processes(device: torch.device, count: int) -> str | None:
    """Why several processes are no way of training here, if they are none; `count`: the cores."""
    if device.type != "cpu":
        return "several processes: they would share one device"
    return "several processes: there is one core" if count == 1 else None


def _demo(members: int) -> list[Group]:
    """The demo's `mlp` at k = 1: losses in turn, so that every stack mixes them."""
    loaded = load_grid("demo", overrides=["axes.k=[1]", f"seeds={list(range((members + 1) // 2))}"])
    points = [point for point in loaded.points if point.axes["architecture"] == "mlp"]
    points.sort(key=lambda point: point.experiment.seed)
    planned = plan(dataclasses.replace(loaded, points=tuple(points[:members])), data_folders(None))
    return [_group(planned, planned.runs)]


def _groups(name: str, data: Path | None) -> list[Group]:
    """The groups of a grid's runs that share a shape, those of one run left out."""
    loaded = load_grid(name)
    planned = plan_beside_file(loaded, data)
    found = [_group(planned, stack.members) for stack in stacks(planned.runs, len(planned.runs))]
    groups = [group for group in found if len(group.runs) > 1]
    if not groups:
        raise InputError(f"{loaded.path}: no two runs share a shape, so nothing can be packed; give it more seeds.")
    return groups


def _group(planned: Plan, runs: Sequence[PlannedRun]) -> Group:
    shared = runs[0].experiment
    fixed = [f"{key} {value}" for key, value in runs[0].axes.items() if all(run.axes[key] == value for run in runs)]
    return Group(", ".join([f"{shared.model} on {shared.dataset}", *fixed]), tuple(runs), planned)


def _time(
    group: Group, members: int, repeats: int, turn_seconds: float, rates: Rates, progress: Progress | None
) -> dict[str, Any]:
    """One group's figures."""
    shared = group.runs[0].experiment
    training_set = TrainingSet.of(group.plan.data[shared.dataset], shared)
    device = training_set.images.processes.device
    probe = TrainingStack.of([shared], training_set)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    wanted = min(members, len(group.runs))
    count = affordable(wanted, member_bytes=probe.state_bytes, free_bytes=free)
    chosen = [group.runs[number * len(group.runs) // count] for number in range(count)]
    iterations = _iterations(probe, turn_seconds / count)
    operations, bytes_moved = probe.operations(), probe.bytes_at_least()
    floor = 1 / rates.roofline(shared.precision).floor_seconds(operations, bytes_moved)
    ways = _take_turns(group, chosen, training_set, iterations, repeats, progress)
    return {
        "name": group.name,
        "runs": len(group.runs),
        "members": count,
        "batch_size": shared.batch_size,
        "k": shared.k,
        "iterations a turn": iterations,
        "operations": operations,
        "bytes_at_least": bytes_moved,
        "floor_iterations_per_second": floor,
        "left_out": why_no_processes(device, cores()),
        "ways": [_row(way, count * iterations, floor) for way in ways],
        **_verdict(ways),
    }


def _take_turns(
    group: Group,
    chosen: Sequence[PlannedRun],
    training_set: TrainingSet,
    iterations: int,
    repeats: int,
    progress: Progress | None,
) -> list[Way]:
    """Each way of training the chosen runs, timed in turns."""
    device = training_set.images.processes.device
    packs = [_stacks(chosen, size, training_set) for size in sizes_up_to(len(chosen))]
    if packs[0][0].engine.name != "eager":
        packs += [_stacks(chosen, size, training_set, eagerly=True) for size in (1, len(chosen))]
    turns = [partial(_train, stacks_, iterations) for stacks_ in packs]
    times = max(8, iterations // 8)
    alone = [_products(stacks_[0], times) for stacks_ in packs]
    # In processes: single runs, and stacks such that each process has one.
    sizes = [] if why_no_processes(device, cores()) else sorted({1, -(-len(chosen) // cores())})
    with ExitStack() as started:
        ready = [started.enter_context(_processes(group, chosen, size)) for size in sizes]
        others = [partial(processes.train, iterations) for processes in ready]
        functions: list[Callable[[], object]] = [*turns, *alone, *others]
        timings = measure_rounds(functions, repeats=repeats, device=device, progress=progress, title=group.name)
    ways = []
    for number, stacks_ in enumerate(packs):
        # So many passes over the first stack's products are those of a turn of all members.
        passes = iterations * len(chosen) / stacks_[0].members
        products = Timing(tuple(seconds * passes / times for seconds in timings[len(packs) + number].seconds))
        size = max(stack.members for stack in stacks_)
        ways.append(Way(stacks_[0].engine.name, timings[number], size, products=products))
    for number, (size, processes) in enumerate(zip(sizes, ready, strict=True)):
        timing = timings[2 * len(packs) + number]
        ways.append(Way("eager", timing, size, processes=len(processes.connections)))
    return ways


def _stacks(
    chosen: Sequence[PlannedRun], size: int, training_set: TrainingSet, *, eagerly: bool = False
) -> list[TrainingStack]:
    """The chosen runs in the stacks that a grid with this stack size would have."""
    return [
        TrainingStack.of([run.experiment for run in stack.members], training_set, eagerly=eagerly)
        for stack in stacks(chosen, size)
    ]


def _train(packs: Sequence[TrainingStack], iterations: int) -> None:
    for stack in packs:
        stack.train(iterations)


def _processes(group: Group, chosen: Sequence[PlannedRun], size: int) -> AbstractContextManager[Workers]:
    """Processes with one thread each that share the runs in stacks of at most so many."""
    shares = [[run.experiment for run in stack.members] for stack in stacks(chosen, size)]
    return workers(shares, min(cores(), len(shares)), group.plan.folders)


def _products(stack: TrainingStack, times: int) -> Callable[[], object]:
    """The matrix products of an iteration of a stack, alone, at their shapes, so many times."""
    return bare(record(partial(stack.train_eagerly, 1)), times, device=stack.device)


def _iterations(probe: TrainingStack, seconds: float) -> int:
    """Iterations that a stack trains in about that time."""
    timing = measure(lambda: probe.train(3), repeats=3, device=probe.device)
    count = max(1, round(3 * seconds / timing.median_seconds))
    return count if count < _DRAWN_AHEAD // 2 else round(count / _DRAWN_AHEAD) * _DRAWN_AHEAD


def _row(way: Way, total: int, floor: float) -> dict[str, Any]:
    """One way's figures; `total` iterations over all members are a turn, `floor` the roofline's in a second."""
    rates = spread([total / seconds for seconds in way.timing.seconds])
    return {
        "way": way.name,
        "engine": way.engine,
        "processes": way.processes,
        "threads": 1 if way.processes > 1 else torch.get_num_threads(),
        "stack_size": way.stack_size,
        "iterations_per_second": rates,
        "floor_fraction": rates["median"] / floor,
        "products_fraction": way.products and statistics.median(Turns(way.products, way.timing).ratios),
    }


def _verdict(ways: Sequence[Way]) -> dict[str, Any]:
    """The best packed way beside the better of those that are not, by round; and the size to recommend."""
    own = [way for way in ways if way.processes == 1 and way.engine == ways[0].engine]
    packed = [way for way in ways if way.stack_size > 1 and way.engine == ways[0].engine]
    best = min(packed, key=lambda way: way.timing.median_seconds)
    others = [way for way in ways if way.stack_size == 1]
    ratios = best.times_faster([way for way in others if way.engine == best.engine])
    eager = [way for way in others if way.engine == "eager" and way.processes == 1]
    return {
        "best_size": best.stack_size,
        "best_processes": best.processes,
        "ratio": spread(ratios),
        "ratios": ratios,
        **({"ratio_to_eager": spread(best.times_faster(eager))} if best.engine != "eager" else {}),
        "stack_size": recommended({way.stack_size: 1 / way.timing.median_seconds for way in own}),
    }


def _rates_by_size(figures: Mapping[str, Any]) -> dict[int, float]:
    ways = [way for way in figures["ways"] if way["processes"] == 1 and way["engine"] == figures["ways"][0]["engine"]]
    return {way["stack_size"]: way["iterations_per_second"]["median"] for way in ways}
