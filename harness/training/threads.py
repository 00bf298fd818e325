"""How many threads a process computes on."""

from __future__ import annotations

import os

import torch

from harness.training.processes import Processes


def set_threads(processes: Processes, threads: int | None = None) -> None:
    """Compute on `threads` threads; without a number, on this process's share of the cores.

    OMP_NUM_THREADS is obeyed, unless it is the 1 that accelerate's launcher sets where nobody asked for a number.
    """
    asked = os.environ.get("OMP_NUM_THREADS")
    is_launchers = asked == "1" and "ACCELERATE_MIXED_PRECISION" in os.environ
    if threads is None and asked and not is_launchers:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or max(1, cores // processes.neighbours))
