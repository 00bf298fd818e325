"""Benchmarks: what the harness costs, measured beside a plain reference in the same run."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.progress import Progress

from harness.benchmarks import collect, fid, packed, parzen, rendering, start, train
from harness.errors import InputError, UnknownName, storage_error
from harness.runs import write_json

BENCHES: dict[str, Callable[..., dict[str, Any]]] = {
    "collect": collect.bench,
    "fid": fid.bench,
    "packed": packed.bench,
    "parzen": parzen.bench,
    "start": start.bench,
    "train": train.bench,
}


def run(name: str, options: Mapping[str, Any], *, progress: Progress | None = None) -> dict[str, Any]:
    """A benchmark's figures, plain data. `options`: what it was told, None where it was not.

    Errors: UnknownName; InputError for an option that is another benchmark's.
    """
    if name not in BENCHES:
        raise UnknownName("benchmark", name, BENCHES)
    given = {key: value for key, value in options.items() if value is not None}
    for key in given.keys() - inspect.signature(BENCHES[name]).parameters.keys():
        owners = [other for other, bench in BENCHES.items() if key in inspect.signature(bench).parameters]
        raise InputError(f"`harness bench {name}` takes no --{key}; it belongs to {', '.join(owners)}.")
    return BENCHES[name](**given, progress=progress)


def render(figures: dict[str, Any], form: str) -> str:
    """A benchmark's figures as JSON, or as aligned lines and tables for people."""
    return json.dumps(figures, indent=2, allow_nan=False) if form == "json" else "\n".join(rendering.lines(figures))


def write(figures: dict[str, Any], path: Path) -> None:
    """Write a benchmark's figures as a JSON file, atomically.

    Errors: as `storage_error`, where it cannot be written.
    """
    try:
        write_json(path, figures)
    except OSError as error:
        raise storage_error(error, path) from error
