"""What a person sees while a grid runs: a progress bar on a terminal, a line a stack elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.plan import Plan, Stack


class ProgressWatcher:
    """Counts runs times iterations over the grid on stderr: this process's, and of stacks that ended elsewhere."""

    def __init__(self, plan: Plan, progress: Progress, *, is_main: bool) -> None:
        self.progress = progress
        self.is_main = is_main
        self._all_runs = self._ended_runs = 0
        self.task = progress.add_task(plan.grid.name, total=None)
        self._process: int | None = None
        self._reached = 0

    def begin(self, stacks: Sequence[Stack], *, note: str, process: int | None) -> None:
        self._process = process
        self._all_runs = sum(len(stack.members) for stack in stacks)
        total = sum(stack.experiment.iterations * len(stack.members) for stack in stacks)
        self.progress.update(self.task, total=total)
        if self.is_main and note:
            self._print(note)

    def start(self, stack: Stack, iteration: int) -> None:
        self.advance(stack, iteration)

    def advance(self, stack: Stack, iteration: int) -> None:
        self.progress.advance(self.task, (iteration - self._reached) * len(stack.members))
        self._reached = iteration

    def finish(self, stack: Stack, outcome: str) -> None:
        self._ended_runs += len(stack.members)
        if outcome == "elsewhere":
            self.progress.advance(self.task, stack.experiment.iterations * len(stack.members))
            return
        self.advance(stack, stack.experiment.iterations)
        self._reached = 0
        shared = stack.experiment
        k = f" with k = {shared.k}" if shared.method == "gan" else ""
        note = f"{len(stack.members)} runs of {shared.model}{k} on {shared.dataset}"
        if self._process is not None:
            note += f", by process {self._process}"
        self.tell(f"[{self._ended_runs}/{self._all_runs}] {outcome}: {note}")

    def lose(self, stack: Stack, reason: str) -> None:
        self.advance(stack, 0)
        self.tell(reason)

    def tell(self, line: str) -> None:
        if self.is_main or self._process is not None:
            self._print(line)

    def _print(self, line: str) -> None:
        self.progress.console.print(line, highlight=False)


@contextmanager
def progress_bar(*, show: bool = True) -> Iterator[Progress]:
    """A progress bar on stderr; without a terminal, or not shown, only what is printed beside it appears."""
    console = Console(stderr=True, soft_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not (show and sys.stderr.isatty()), transient=True) as progress:
        yield progress
