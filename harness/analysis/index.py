"""What analysis asks of a grid's many small files, kept in a few: a cache, which costs time alone when it is lost.

    <grid>/.index/<file>.json   {"version", "sha256"} in a line, then {owner: [size, mtime, ctime, inode, facts]}

A file is read again where its size, times or inode differ from those of the bytes that were read. What changed a moment
before it was read is not kept: within one tick of the clock, as long as two seconds on some file systems, it could
change again and look the same. An index that is absent, damaged or of another version is read past, and one that
cannot be written is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.runs import GridFolder, parse_json, write_bytes

VERSION = 1
"""Raised when FACTS changes what it keeps."""
WORTH_WRITING = 100
"""So many files read anew pay for writing an index again."""
_TICK_NANOSECONDS = 2_000_000_000

Facts = dict[str, Any]
Entry = list[Any]
"""A file's size, mtime, ctime and inode, and its facts."""


def records(grid: GridFolder, name: str) -> dict[str, Facts]:
    """What a grid's files of one name in FACTS say, by run id or (progress.json) by stack id; absent where no file is.

    Errors: InputError where a file is damaged or cannot be read.
    """
    part = "stacks" if name == "progress.json" else "runs"
    began = time.time_ns()
    place = grid.path / ".index" / name
    known = _load(place)
    entries: dict[str, Entry] = {}
    for owner in [entry["id"] for entry in grid.manifest[part]]:
        entry = _current(os.path.join(grid.path, part, owner, name), known.get(owner), FACTS[name])
        if entry is not None:
            entries[owner] = entry
    settled = {owner: entry for owner, entry in entries.items() if max(entry[1:3]) < began - _TICK_NANOSECONDS}
    if sum(known.get(owner) is not entry for owner, entry in settled.items()) >= WORTH_WRITING:
        _save(place, settled)
    return {owner: entry[4] for owner, entry in entries.items()}


def _current(path: str, known: Entry | None, facts: Callable[[Facts], Facts]) -> Entry | None:
    """A file's entry: the known one if the file is still that one, else read anew; None where there is no file."""
    try:
        if known is not None and _identity(os.stat(path)) == known[:4]:
            return known
        with open(path, "rb", buffering=0) as file:
            identity = _identity(os.fstat(file.fileno()))  # before the bytes: what comes later makes them stale
            content = file.readall()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; mend that, or delete it.") from None
    document = parse_json(path, content)
    if not isinstance(document, dict):
        raise InputError(f"{path} holds no JSON object; restore it or delete it.")
    return [*identity, facts(document)]


def _identity(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _load(place: Path) -> dict[str, Entry]:
    """The entries of an index file; none where it is absent, damaged or of another version."""
    try:
        header, _, body = place.read_bytes().partition(b"\n")
        if json.loads(header) != _header(body):
            return {}
        entries: dict[str, Entry] = json.loads(body)
    except (OSError, ValueError, RecursionError):
        return {}
    return entries


def _save(place: Path, entries: dict[str, Entry]) -> None:
    body = json.dumps(entries, separators=(",", ":")).encode()
    try:
        write_bytes(place, json.dumps(_header(body)).encode() + b"\n" + body)
    except OSError:
        pass  # a folder that cannot be written is read file by file


def _header(body: bytes) -> dict[str, Any]:
    return {"version": VERSION, "sha256": hashlib.sha256(body).hexdigest()}


def _picked(*names: str) -> Callable[[Facts], Facts]:
    return lambda document: {name: document[name] for name in names if name in document}


def _reason(failure: Facts) -> Facts:
    """The first line of why a run failed."""
    return {"reason": str(failure["reason"]).partition("\n")[0]}


def _scalars(evaluation: Facts) -> Facts:
    """{metric key: {field: value}}, without lists and tables."""
    return {
        key: {field: value for field, value in record.items() if not isinstance(value, list | dict)}
        for key, record in evaluation.get("metrics", {}).items()
    }


FACTS: dict[str, Callable[[Facts], Facts]] = {
    "experiment.json": _picked("iterations"),
    "progress.json": _picked("state", "iteration", "iterations", "iterations_per_second", "pid", "host"),
    "provenance.json": _picked("outcome", "diverged_at", "iterations", "seconds"),
    "failure.json": _reason,
    "evaluation.json": _scalars,
}
"""What is kept of each file: all that analysis asks, and no more."""
