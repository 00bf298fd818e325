"""Where a data set's files are looked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.errors import DataMissing, InputError


def find(source: str, path: str | None, *, folders: Sequence[Path]) -> Path:
    """The place a path means: itself where it is absolute, else inside the first of `folders` that holds it.

    Without folders it is relative to the current one.

    Errors: InputError where a source that reads the user's files was given no path, DataMissing where nothing lies
    there.
    """
    if not path:
        raise InputError(f"data set {source!r} needs a path; write '{source}:PATH'.")
    # An absolute path replaces the folder it is joined to.
    candidates = list(dict.fromkeys(folder / path for folder in (folders or [Path()])))
    for candidate in candidates:
        if candidate.exists():
            return candidate
    looked = " or ".join(str(candidate) for candidate in candidates)
    raise DataMissing(f"data set '{source}:{path}': nothing at {looked}; put it there, or give its folder with --data.")


def refuse_path(source: str, path: str | None) -> None:
    """Raise InputError where a source that reads none of the user's files was given a path."""
    if path is not None:
        raise InputError(f"data set {source!r} takes no path, but {path!r} was given; write {source!r} alone.")
