"""Seconds until commands answer, each in a fresh process, beside the import of torch alone."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from harness.benchmarks.timing import machine, measure_rounds, spread
from harness.errors import HarnessError
from harness.runs import SCHEMA, GridFolder, write_json

_KEY = "parzen[test,n=10000,sigma=grid]"
_LOSSES = ("minimax", "non_saturating")


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
        calls = [_call(command) for command in commands.values()]
        timings = measure_rounds(calls, repeats=repeats, progress=progress, title="start")
    rows = {}
    for name, timing in zip(commands, timings, strict=True):
        ratios = [a / b for a, b in zip(timing.seconds, timings[0].seconds, strict=True)]
        rows[name] = {"seconds": spread(timing.seconds), "over_import": spread(ratios)}
    return {"machine": machine(), "commands": rows}


def write_grid(grid: GridFolder, runs: int) -> None:
    """The records of a grid that has been trained and evaluated, as far as a table reads them."""
    entries = [
        {"id": f"{number:016x}", "axes": {"loss": _LOSSES[number % 2], "k": 1 + number // 2 % 5}, "seed": number // 10}
        for number in range(runs)
    ]
    stacks = [{"id": f"s{number}", "members": [entry["id"]]} for number, entry in enumerate(entries)]
    manifest = {"schema": SCHEMA, "name": "start", "axes": ["loss", "k"], "runs": entries, "stacks": stacks}
    write_json(grid.path / "grid.json", manifest)
    host = socket.gethostname()
    progress = {"state": "done", "iteration": 3000, "iterations": 3000, "pid": 1, "host": host, "updated": 0.0}
    for number, (entry, stack) in enumerate(zip(entries, stacks, strict=True)):
        run = grid.run(str(entry["id"]))
        record = {"value": 50.0 + number, "standard_error": 1.0, "sigma": 0.1, "sigma_at_edge": False}
        write_json(grid.stack(str(stack["id"])) / "progress.json", progress)
        run.write("experiment.json", {"seed": entry["seed"], "iterations": 3000})
        run.write("provenance.json", {"outcome": "complete", "diverged_at": None, "iterations": 3000, "seconds": 1.5})
        run.write("evaluation.json", {"metrics": {_KEY: record}})


def _call(command: Sequence[str]) -> Callable[[], None]:
    def call() -> None:
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            raise HarnessError(f"`{' '.join(command)}` failed; its own message is above.")

    return call
