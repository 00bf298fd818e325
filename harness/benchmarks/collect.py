"""Seconds until the records of thousands of runs are collected, beside the reading of their files alone."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.progress import Progress

from harness.analysis.frame import frame
from harness.benchmarks.start import process
from harness.benchmarks.synthetic import write_grid
from harness.benchmarks.timing import machine, measure_rounds, spread
from harness.runs import GridFolder


def bench(*, repeats: int = 3, runs: int = 10_000, progress: Progress | None = None) -> dict[str, Any]:
    """Seconds of a frame and of `harness status` on a grid of `runs` runs, without an index and with one, in turns.

    The frame is made in this process, from grid.json on; a command is a process of its own, its start included. Beside
    them every record is read and parsed, and pandas is imported in a process of its own. There is no roofline: what is
    timed is files read.
    Errors: HarnessError where a command fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write_grid(GridFolder(path), runs, progress=progress)
        status = process([sys.executable, "-m", "harness", "status", folder])
        calls: dict[str, Callable[[], object]] = {
            "json.loads of every file": lambda: _parse(path),
            "frame, without an index": lambda: _anew(path, lambda: frame([GridFolder(path)])),
            "frame, with an index": lambda: frame([GridFolder(path)]),
            "import pandas": process([sys.executable, "-c", "import pandas"]),
            "harness status, without an index": lambda: _anew(path, status),
            "harness status, with an index": status,
        }
        timings = measure_rounds(list(calls.values()), repeats=repeats, progress=progress, title="collect")
    seconds = {name: spread(timing.seconds) for name, timing in zip(calls, timings, strict=True)}
    return {"machine": machine(), "runs": runs, "seconds": seconds}


def _parse(path: Path) -> None:
    for file in path.glob("*/*/*.json"):
        json.loads(file.read_bytes())


def _anew(path: Path, function: Callable[[], object]) -> None:
    """Call a function after the index is gone."""
    shutil.rmtree(path / ".index", ignore_errors=True)
    function()
