"""What a person sees while a grid runs: a progress bar on a terminal, a line a stack elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.plan import Plan, Stack


class ProgressWatcher:
    """Counts runs times iterations over the whole grid on stderr."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self.progress = progress
        self.plan = plan
        self.task = progress.add_task(plan.grid.name, total=None)
        self._behind = 0
        self._runs = 0
        self._all_runs = 0

    def begin(self, stacks: Sequence[Stack], where: str) -> None:
        self._all_runs = sum(len(stack.members) for stack in stacks)
        total = sum(stack.experiment.iterations * len(stack.members) for stack in stacks)
        self.progress.update(self.task, total=total)
        note = f"{self._all_runs} runs in {len(stacks)} stacks; {where}"
        if self._all_runs < len(self.plan.runs):
            note += f". This process's part of {len(self.plan.runs)} runs"
        self.progress.console.print(note, highlight=False)

    def start(self, stack: Stack, iteration: int) -> None:
        self.advance(stack, iteration)

    def advance(self, stack: Stack, iteration: int) -> None:
        self.progress.update(self.task, completed=self._behind + iteration * len(stack.members))

    def finish(self, stack: Stack, outcome: str) -> None:
        self._behind += stack.experiment.iterations * len(stack.members)
        self._runs += len(stack.members)
        self.progress.update(self.task, completed=self._behind)
        shared = stack.experiment
        note = f"{len(stack.members)} runs of {shared.model} with k = {shared.k} on {shared.dataset}"
        self.progress.console.print(f"[{self._runs}/{self._all_runs}] {outcome}: {note}", highlight=False)


@contextmanager
def progress_bar(*, show: bool = True) -> Iterator[Progress]:
    """A progress bar on stderr; without a terminal only what is printed beside it appears."""
    console = Console(stderr=True, quiet=not show, soft_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as progress:
        yield progress
