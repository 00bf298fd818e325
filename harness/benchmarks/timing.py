"""Timing that benchmarks share: the machine, one function, several functions in turns, threads, memory."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import Progress

Function = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of a function's calls."""

    seconds: tuple[float, ...]

    @property
    def median_seconds(self) -> float:
        return statistics.median(self.seconds)

    @property
    def fastest_seconds(self) -> float:
        return min(self.seconds)

    @property
    def slowest_seconds(self) -> float:
        return max(self.seconds)


@dataclass(frozen=True)
class Turns:
    """Two functions timed one after the other in each round, so that a busy machine slows both."""

    first: Timing
    second: Timing

    @property
    def ratios(self) -> tuple[float, ...]:
        """Seconds of the first over those of the second, by round."""
        return tuple(a / b for a, b in zip(self.first.seconds, self.second.seconds, strict=True))

    @property
    def median_ratio(self) -> float:
        return statistics.median(self.ratios)


def machine(device: torch.device | str = "cpu") -> dict[str, str | int]:
    """What the figures were measured on: processor, cores this process may use, threads, torch, device."""
    device = torch.device(device)
    return {
        "processor": _processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch compute with that many threads, and with as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median of some measured values, the lowest and the highest, as plain data."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def measure(function: Function, *, repeats: int, warmup: int = 1, device: torch.device | str = "cpu") -> Timing:
    """Seconds of `repeats` calls after `warmup` calls that are not counted, the device's work included."""
    for _ in range(warmup):
        function()
    return Timing(tuple(_seconds(function, torch.device(device)) for _ in range(repeats)))


def measure_in_turns(
    first: Function, second: Function, *, repeats: int, warmup: int = 1, device: torch.device | str = "cpu"
) -> Turns:
    """Seconds of two functions called alternately, `repeats` rounds after `warmup` rounds that are not counted."""
    timings = measure_rounds([first, second], repeats=repeats, warmup=warmup, device=device)
    return Turns(*timings)


def measure_rounds(
    functions: Sequence[Function],
    *,
    repeats: int,
    warmup: int = 1,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    title: str = "",
) -> list[Timing]:
    """Seconds of several functions called one after the other in each of `repeats` rounds, after `warmup` rounds.

    `progress` shows the rounds under `title`.
    """
    device = torch.device(device)
    numbers = range(-warmup, repeats)
    rounds = []
    for number in numbers if progress is None else progress.track(numbers, description=title):
        seconds = [_seconds(function, device) for function in functions]
        if number >= 0:
            rounds.append(seconds)
    return [Timing(tuple(seconds)) for seconds in zip(*rounds, strict=True)]


def peak_working_bytes(function: Function, *, device: torch.device | str = "cpu") -> int | None:
    """The most memory a call held beyond what was held before it; None where the system does not tell.

    On a CPU this is the process's peak resident memory less the memory resident before the call: never too low in a
    fresh process, whose freed memory is back with the system. On CUDA it is what the allocator held.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    if not Path("/proc/self/status").exists():
        return None
    before = _resident_bytes("VmRSS")
    function()
    return _resident_bytes("VmHWM") - before


def _seconds(function: Function, device: torch.device) -> float:
    _synchronize(device)
    start = time.perf_counter()
    function()
    _synchronize(device)
    return time.perf_counter() - start


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _processor() -> str:
    """The processor's model name, where Linux tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _resident_bytes(field: str) -> int:
    """VmRSS (resident memory now) or VmHWM (its peak so far)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")
