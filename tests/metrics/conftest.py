"""Several processes, played by threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.metrics.points import Processes
from harness.singly import one_thread


@pytest.fixture(scope="session")
def in_threads() -> Callable[[int, Callable[[Processes], Any]], list[Any]]:
    """What a number of processes get, each from its own call."""

    def results(count: int, evaluate: Callable[[Processes], Any]) -> list[Any]:
        barrier = threading.Barrier(count)
        parts: list[Tensor] = [torch.empty(0)] * count

        def process(rank: int) -> Any:
            def total(values: Tensor) -> Tensor:
                assert values.dtype == torch.float64
                parts[rank] = values
                barrier.wait(timeout=60)
                result = torch.stack(parts).sum(0)
                barrier.wait(timeout=60)
                return result

            return evaluate(Processes(rank, count, total))

        # The number of threads is the whole process's: real ranks do not set it for each other.
        with one_thread(), ThreadPoolExecutor(count) as pool:
            return list(pool.map(process, range(count)))

    return results
