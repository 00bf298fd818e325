"""Seconds until commands answer, each in a fresh process, beside the import of torch alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from harness.benchmarks.synthetic import write_grid
from harness.benchmarks.timing import machine, measure_rounds, spread
from harness.errors import HarnessError
from harness.runs import GridFolder


def bench(*, repeats: int = 7, runs: int = 100, progress: Progress | None = None) -> dict[str, Any]:
    """Seconds of `harness --help`, `harness list losses` and `harness table` on a grid of `runs` runs, in turns.

    `over_import` is a command's time over that of `import torch` in the same round. There is no roofline: what is timed
    is files read and code run once.
    Errors: HarnessError where a command fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_grid(GridFolder(Path(folder)), runs)
        harness = [sys.executable, "-m", "harness"]
        commands = {
            "import torch": [sys.executable, "-c", "import torch"],
            "harness --help": [*harness, "--help"],
            "harness list losses": [*harness, "list", "losses"],
            f"harness table ({runs} runs)": [*harness, "table", folder],
        }
        calls = [process(command) for command in commands.values()]
        timings = measure_rounds(calls, repeats=repeats, progress=progress, title="start")
    rows = {}
    for name, timing in zip(commands, timings, strict=True):
        ratios = [a / b for a, b in zip(timing.seconds, timings[0].seconds, strict=True)]
        rows[name] = {"seconds": spread(timing.seconds), "over_import": spread(ratios)}
    return {"machine": machine(), "commands": rows}


def process(command: Sequence[str]) -> Callable[[], None]:
    """A function that runs a command in a process of its own.

    Errors: HarnessError, when called, where the command fails.
    """

    def call() -> None:
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            raise HarnessError(f"`{' '.join(command)}` failed; its own message is above.")

    return call
