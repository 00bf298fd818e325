"""What analysis asks of a grid's many small files, kept in a few: a cache, which costs time alone when it is lost.

    <grid>/.index/<file>.json   {"version", "sha256"} in a line, then {"shapes": [[name of a fact, ...], ...],
                                "files": {owner: [[size, mtime, ctime, inode], number of a shape, [fact, ...]]}}

A file is read again where its size, times or inode differ from those of the bytes that were read. What changed a moment
before it was read is not kept: within one tick of the clock, as long as two seconds on some file systems, it could
change again and look the same. An index that is absent, damaged or of another version is read past, and one that
cannot be written is not.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from harness.errors import storage_error
from harness.runs import GridFolder, as_record, parse_json, write_bytes

VERSION = 1
"""Raised when FACTS changes what it keeps."""
WORTH_WRITING = 100
"""So many files read anew pay for writing an index again."""
_TICK_NANOSECONDS = 2_000_000_000

Facts = dict[Any, Any]
Names = tuple[Any, ...]
Entry = tuple[list[int], Names, list[Any]]
"""A file's size, mtime, ctime and inode, and its facts: their names, which files of one shape share, and values."""


@contextmanager
def without_collector() -> Iterator[None]:
    """Let nobody look for circles among records, which have none: on thousands of runs that is 0.4 of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def records(grid: GridFolder, name: str) -> dict[str, Facts]:
    """What a grid's files of one name in FACTS say, by run id or (progress.json) by stack id; absent where no file is.

    Errors: InputError where a file is damaged; StorageError where it cannot be read.
    """
    return {owner: dict(zip(names, values, strict=True)) for owner, (names, values) in rows(grid, name).items()}


def rows(grid: GridFolder, name: str) -> dict[str, tuple[Names, list[Any]]]:
    """As `records`, the facts' names and values apart: files of one shape have one tuple of names."""
    part = "stacks" if name == "progress.json" else "runs"
    folder = grid.path / part
    began = time.time_ns()
    place = grid.path / ".index" / name
    known = _load(place)
    entries: dict[str, Entry] = {}
    for owner in [entry["id"] for entry in grid.manifest[part]]:
        entry = _current(f"{folder}/{owner}/{name}", known.get(owner), FACTS[name])
        if entry is not None:
            entries[owner] = entry
    settled = {owner: entry for owner, entry in entries.items() if max(entry[0][1:3]) < began - _TICK_NANOSECONDS}
    if sum(known.get(owner) is not entry for owner, entry in settled.items()) >= WORTH_WRITING:
        _save(place, settled)
    shared: dict[Names, Names] = {}
    return {owner: (shared.setdefault(names, names), values) for owner, (_, names, values) in entries.items()}


def _current(path: str, known: Entry | None, facts: Callable[[Facts], Facts]) -> Entry | None:
    """A file's entry: the known one if the file is still that one, else read anew; None where there is no file."""
    try:
        if known is not None and _identity(os.stat(path)) == known[0]:
            return known
        with FileIO(path) as file:
            identity = _identity(os.fstat(file.fileno()))  # before the bytes: what comes later makes them stale
            content = file.readall()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise storage_error(error, path, verb="read") from None
    found = facts(as_record(path, parse_json(path, content)))
    return identity, tuple(found), list(found.values())


def _identity(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _load(place: Path) -> dict[str, Entry]:
    """The entries of an index file; none where it is absent, damaged or of another version."""
    try:
        header, _, body = place.read_bytes().partition(b"\n")
        if json.loads(header) != _header(body):
            return {}
        index = json.loads(body)
    except (OSError, ValueError, RecursionError):
        return {}
    shapes = [tuple(tuple(name) if isinstance(name, list) else name for name in shape) for shape in index["shapes"]]
    return {owner: (identity, shapes[shape], values) for owner, (identity, shape, values) in index["files"].items()}


def _save(place: Path, entries: dict[str, Entry]) -> None:
    shapes = {names: number for number, names in enumerate({names: None for _, names, _ in entries.values()})}
    files = {owner: (identity, shapes[names], values) for owner, (identity, names, values) in entries.items()}
    body = json.dumps({"shapes": list(shapes), "files": files}, separators=(",", ":")).encode()
    with suppress(OSError):  # a folder that cannot be written is read file by file
        write_bytes(place, json.dumps(_header(body)).encode() + b"\n" + body)


def _header(body: bytes) -> dict[str, Any]:
    return {"version": VERSION, "sha256": hashlib.sha256(body).hexdigest()}


def _picked(*names: str) -> Callable[[Facts], Facts]:
    return lambda document: {name: document[name] for name in names if name in document}


def _reason(failure: Facts) -> Facts:
    """The first line of why a run failed."""
    return {"reason": str(failure["reason"]).partition("\n")[0]}


def _scalars(evaluation: Facts) -> Facts:
    """{(metric key, field): value}, `value` and `standard_error` first, without lists and tables."""
    return {
        (key, field): value
        for key, record in evaluation.get("metrics", {}).items()
        for field, value in {"value": None, "standard_error": None, **record}.items()
        if not isinstance(value, list | dict)
    }


FACTS: dict[str, Callable[[Facts], Facts]] = {
    "experiment.json": _picked("iterations"),
    "progress.json": _picked("state", "iteration", "iterations", "iterations_per_second", "pid", "host"),
    "provenance.json": _picked("outcome", "diverged_at", "iterations", "seconds"),
    "failure.json": _reason,
    "evaluation.json": _scalars,
}
"""What is kept of each file: all that analysis asks, and no more."""
