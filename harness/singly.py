"""Blocks of work on one thread each: float32 kernels round otherwise on two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Block = TypeVar("Block")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, so that bits do not depend on how many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def map_singly(function: Callable[[Block], Result], blocks: Sequence[Block], device: torch.device) -> list[Result]:
    """What a function gives for each block, in order: on a CPU one thread a block, as many blocks at once as threads.

    The function must be safe to call from several threads at once.
    """
    if device.type != "cpu":
        return [function(block) for block in blocks]
    workers = torch.get_num_threads()
    with one_thread(), ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(function, blocks))
