"""Many processes share a grid: forked from one that has imported torch, each a `harness run` of its own.

    python claimants.py GRID OUT PROCESSES [ARGUMENTS of harness run ...]

Prints {"returned": [...], "wall": [...], "cpu": [...]}: exit codes, and for each process the seconds that it spent on
claiming: choosing a stack, beginning and releasing its claim.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from harness.claims import Claim
from harness.cli import entry
from harness.remaining import Remaining
from harness.runner import run_grid

SPENT = {"wall": 0.0, "cpu": 0.0}


def counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, its seconds counted."""

    def timed(*arguments: Any, **settings: Any) -> Any:
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            return function(*arguments, **settings)
        finally:
            SPENT["wall"] += time.perf_counter() - wall
            SPENT["cpu"] += time.thread_time() - cpu

    return timed


def claimant(out: Path, number: int, arguments: list[str]) -> None:
    """One process: runs the grid, then writes what it spent."""
    for owner, name in [(Remaining, "take"), (Remaining, "strike"), (Claim, "begin"), (Claim, "release")]:
        setattr(owner, name, counted(getattr(owner, name)))
    with open(out / f"log-{number}.txt", "w", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
        try:
            entry(["run", *arguments])
        finally:
            (out / f"spent-{number}.json").write_text(json.dumps(SPENT))


def main() -> None:
    """Fork, wait, print."""
    grid, out, count, *rest = sys.argv[1:]
    assert run_grid  # torch is imported
    children = []
    for number in range(int(count)):
        child = os.fork()
        if child == 0:
            code: Any = 70
            try:
                claimant(Path(out), number, [grid, "--out", out, *rest])
            except SystemExit as end:
                code = end.code
            finally:
                os._exit(int(code or 0))
        children.append(child)
    returned = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    spent = [json.loads((Path(out) / f"spent-{number}.json").read_text()) for number in range(int(count))]
    print(json.dumps({"returned": returned, **{clock: [one[clock] for one in spent] for clock in SPENT}}))


if __name__ == "__main__":
    main()
