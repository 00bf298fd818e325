"""What a stack tells of its training while it goes on: to its folder, to its claim, to whoever watches."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from typing import Any, Protocol

from harness import claims, runs
from harness.claims import Claim
from harness.plan import Stack
from harness.runs import GridFolder
from harness.training.processes import Processes

_PROGRESS_SECONDS = 2.0


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


class StackProgress:
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

    def reach(self, iteration: int) -> None:
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
