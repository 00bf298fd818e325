"""Files of a public data set, from its publisher."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import TypeVar

from harness.errors import DataMissing

File = TypeVar("File")


def found(
    data_set: str,
    names: Sequence[str],
    *,
    layout: Path,
    folders: Sequence[Path],
    read: Callable[[Path], dict[str, File]],
    fetch: Callable[[Path], object],
) -> dict[str, File]:
    """What `read` gives of a data set's files, from `layout` in the first of some folders that has them all.

    Where none has, they are fetched into the first. Errors: as `read` and `download`.
    """
    for folder in folders:
        files = read(folder / layout)
        if len(files) == len(names):
            return files
    return read(download(data_set, names, layout=layout, folder=folders[0] if folders else Path(), fetch=fetch))


def download(
    data_set: str, names: Sequence[str], *, layout: Path, folder: Path, fetch: Callable[[Path], object]
) -> Path:
    """Have a data set's files of these names fetched into `layout` inside a folder; gives that place.

    `fetch` is told a temporary folder and puts the files into `layout` inside it. From there they are moved when whole,
    so that an interrupted download leaves no half file, and processes that download at the same time do no harm.

    Errors: DataMissing where that fails; it says what to put where.
    """
    place = folder / layout
    beside = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    try:
        # torchvision prints its progress; stdout is for results.
        with (
            tempfile.TemporaryDirectory(prefix=".download-", dir=beside) as temporary,
            contextlib.redirect_stdout(sys.stderr),
        ):
            fetch(Path(temporary))
            place.mkdir(parents=True, exist_ok=True)
            for name in names:
                os.replace(temporary / layout / name, place / name)
    except (RuntimeError, OSError, HTTPException) as error:
        reason = str(error).strip().rpartition("\n")[2].strip() or type(error).__name__
        raise DataMissing(
            f"{data_set} is not there: put the files {', '.join(names)} into {place}, or give the folder that holds "
            f"{layout} with --data or HARNESS_DATA. (Downloading them failed: {reason})"
        ) from error
    return place
