"""Processes of one thread each that train their share of the stacks, one after another, at the same time."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from harness import images
from harness.benchmarks.workload import TrainingSet, TrainingStack
from harness.errors import HarnessError
from harness.experiment import Experiment


class Workers:
    """Processes that have started and wait for the word: so their start-up is in no timing."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        self.connections = connections

    def train(self, iterations: int) -> None:
        """Let every process train each of its runs for some iterations, all processes at once, and wait for them.

        Errors: HarnessError where a process has ended.
        """
        try:
            for connection in self.connections:
                connection.send(iterations)
        except OSError:
            raise _ended() from None
        self.wait()

    def wait(self) -> None:
        """Return when every process has said that it is done.

        Errors: HarnessError where a process has ended.
        """
        try:
            for connection in self.connections:
                connection.recv()
        except (EOFError, OSError):
            raise _ended() from None


@contextmanager
def workers(stacks: Sequence[Sequence[Experiment]], count: int, folders: Sequence[Path]) -> Iterator[Workers]:
    """`count` processes that share these stacks of resolved experiments of one data set; they end with the context.

    Errors: HarnessError where one ends before it is ready.
    """
    context = multiprocessing.get_context("spawn")
    processes, connections = [], []
    for rank in range(count):
        ours, theirs = context.Pipe()
        arguments = (theirs, list(stacks[rank::count]), list(folders))
        process = context.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        theirs.close()  # so that its end is seen here
        processes.append(process)
        connections.append(ours)
    ready = Workers(connections)
    try:
        ready.wait()
        yield ready
    finally:
        for connection in connections:
            connection.close()
        for process in processes:
            process.terminate()  # it may be in the middle of a turn that nobody waits for
            process.join()


def _serve(connection: Connection, shares: Sequence[Sequence[Experiment]], folders: Sequence[Path]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and its end is heard here
    torch.set_num_threads(1)
    shared = shares[0][0]
    training_set = TrainingSet.of(images.load(shared.dataset, folders), shared)
    stacks = [TrainingStack.of(experiments, training_set) for experiments in shares]
    connection.send(None)
    while True:
        try:
            iterations = connection.recv()
        except EOFError:
            return
        for stack in stacks:
            stack.train(iterations)
        connection.send(None)


def _ended() -> HarnessError:
    return HarnessError("a process of the benchmark ended early; its own message is above.")
