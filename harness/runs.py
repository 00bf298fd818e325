"""The run folder: the only place where training, evaluation and analysis meet.

    <out>/<grid>/grid.json                  manifest: name, axes, runs, stacks (order fixed for ever)
    <out>/<grid>/search.json                the draws of a search in order, the best first, once that is known
    <out>/<grid>/controls.json              metrics of training images in the place of samples
    <out>/<grid>/stacks/<stack>/            checkpoints and progress.json of the runs that train together;
                                            claims/ and ledger.jsonl: whose they are and were (harness/claims.py)
    <out>/<grid>/runs/<run>/experiment.json the settings, all of them
                            provenance.json how the run ended, on what it ran, what it cost
                            failure.json    reason and traceback, if it failed
                            history.parquet one row an iteration
                            snapshots/      generator weights, <iteration>.safetensors
                            samples.npz     `images`: samples of fixed noise, float32 in [0, 1]
                            evaluation.json {"metrics": {KEY: {"value", "standard_error", ...}}}
    <out>/<grid>/claims/                    who writes grid.json at the moment
    <out>/<grid>/slurm/                     what was submitted (harness.cluster.submissions)
    <out>/<grid>/.index/                    a cache of harness.analysis.index

Every write is a temporary file, fsync, rename. Nothing that is read can run code. Nothing here imports torch.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import secrets
import socket
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import InputError, storage_error

SCHEMA = 1
STAGE, SEARCH, BEST = "stage", "search", "best"
"""The axis that tells a search's draws from the best of them, which train again with seeds of their own; its values."""
STATUSES = ("pending", "running", "preempted", "complete", "diverged", "failed")

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
_STALE_SECONDS = 3600


def write_bytes(path: Path, content: bytes, *, inside: Path | None = None) -> None:
    """Write a file so that a reader sees the old content or the new, never a part of either.

    `inside` is a folder that must be there: a grid's own, since one that has gone (its disk is no longer mounted) must
    not be begun anew somewhere else. Errors: OSError that names the file.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")  # processes of many machines write
    try:
        if inside is not None and not inside.is_dir():
            raise FileNotFoundError(errno.ENOENT, f"{inside} has gone")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):  # what went wrong first is what counts
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
        _sweep(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _sweep(folder: Path) -> None:
    """Delete what processes that were killed long ago had begun to write."""
    with suppress(OSError):  # another process may do the same
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name) and time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()


def sync_folder(folder: Path) -> None:
    """Make the renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any, *, inside: Path | None = None) -> None:
    """Write a value as indented JSON, atomically. NaN is refused: absent numbers are null."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode(), inside=inside)


def read_bytes(path: Path) -> bytes:
    """A file's content.

    Errors: StorageError where it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise storage_error(error, path, verb="read") from error


def read_json(path: Path) -> Any:
    """Read a JSON file; a damaged one is an InputError that names it."""
    return parse_json(path, read_bytes(path))


def parse_json(path: Path | str, content: bytes) -> Any:
    """The value in a JSON file's bytes; damaged ones are an InputError that names the file."""
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); restore it or delete it.") from error


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; anything else is an InputError that names it."""
    return as_record(path, read_json(path))


def as_record(path: Path | str, value: Any) -> dict[str, Any]:
    """A file's value that is an object; anything else is an InputError that names the file."""
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object; restore it or delete it.")
    return value


def write_npz(path: Path, *, inside: Path | None = None, **arrays: Any) -> None:
    """Write arrays as a compressed .npz, atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue(), inside=inside)


def write_parquet(path: Path, frame: pd.DataFrame, *, inside: Path | None = None) -> None:
    """Write a data frame as parquet, atomically."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_bytes(path, buffer.getvalue(), inside=inside)


@dataclass(frozen=True)
class RunFolder:
    """One run's files: names, reading, writing."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def grid(self) -> Path:
        """The folder of the grid that the run belongs to."""
        return self.path.parents[1]

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    def experiment(self) -> dict[str, Any]:
        """The run's settings as written."""
        path = self.path / "experiment.json"
        if not path.exists():
            raise InputError(f"{path} does not exist; {self.path} is not a run folder.")
        return read_record(path)

    def provenance(self) -> dict[str, Any] | None:
        """How the run ended, on what it ran and what it cost; None while it has not ended."""
        return self._optional("provenance.json")

    def failure(self) -> dict[str, Any] | None:
        """`reason` and `traceback` of the last attempt, if it failed."""
        return self._optional("failure.json")

    def evaluation(self) -> dict[str, Any] | None:
        """The evaluation record, {"metrics": {KEY: {...}}}; None before evaluation."""
        return self._optional("evaluation.json")

    def history(self) -> pd.DataFrame | None:
        """One row an iteration: `iteration` and the method's columns."""
        path = self.path / "history.parquet"
        if not path.exists():
            return None
        content = read_bytes(path)
        try:
            return pd.read_parquet(io.BytesIO(content))
        except (ValueError, OSError) as error:
            raise InputError(f"{path} is damaged ({error}); delete the run's folder and train it again.") from None

    def samples(self) -> np.ndarray | None:
        """Samples of fixed noise, float32 (n, c, h, w) in [0, 1]."""
        path = self.path / "samples.npz"
        if not path.exists():
            return None
        content = read_bytes(path)
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                images: np.ndarray = arrays["images"]
        except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path} is damaged ({error}); delete the run's folder and train it again.") from None
        return images

    def status(self, progress: Mapping[str, Any] | None = None) -> str:
        """One of STATUSES, from the run's files and its stack's progress.json."""
        failed = (self.path / "failure.json").exists()
        return status_of(failed, None if failed else self.provenance(), progress)

    def write(self, name: str, value: Any) -> None:
        """Write one of the folder's JSON files."""
        write_json(self.path / name, value)

    def _optional(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        return read_record(path) if path.exists() else None


def status_of(failed: bool, provenance: Mapping[str, Any] | None, progress: Mapping[str, Any] | None) -> str:
    """One of STATUSES, from whether a run failed, how it ended, and its stack's progress.json."""
    if failed:
        return "failed"
    if provenance is not None:
        return str(provenance["outcome"])
    if progress is None:
        return "pending"
    return "running" if is_alive(progress) else "preempted"


def is_alive(progress: Mapping[str, Any]) -> bool:
    """Whether the process that wrote a progress.json still trains, as far as this machine can tell.

    A process on this machine is asked for; one elsewhere is believed.
    """
    if progress["state"] != "running":
        return False
    if progress["host"] != socket.gethostname():
        return True
    try:
        os.kill(int(progress["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(frozen=True)
class GridFolder:
    """One grid's folder: the manifest, its run folders and its stacks."""

    path: Path

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """grid.json: `name`, `axes` (list of keys), `runs` ({id, axes, seed}), `stacks` ({id, members})."""
        path = self.path / "grid.json"
        if not path.exists():
            raise InputError(f"{self.path} holds no grid.json; give the folder that `harness run` wrote.")
        manifest = read_record(path)
        lacking = {"name", "axes", "runs", "stacks"} - manifest.keys()
        if lacking:
            raise InputError(f"{path} lacks {', '.join(sorted(lacking))}; restore it, or train the grid anew.")
        _check_manifest(manifest, path)
        return manifest

    def run(self, run_id: str) -> RunFolder:
        return RunFolder(self.path / "runs" / run_id)

    def runs(self) -> list[RunFolder]:
        """All run folders, in the grid's order."""
        return [self.run(entry["id"]) for entry in self.manifest["runs"]]

    def stack(self, stack_id: str) -> Path:
        return self.path / "stacks" / stack_id

    def progress(self) -> dict[str, dict[str, Any]]:
        """progress.json of each run's stack, by run id: `state`, `iteration`, `iterations`, `pid`, `host`, ..."""
        found = {}
        for stack in self.manifest["stacks"]:
            path = self.stack(stack["id"]) / "progress.json"
            if path.exists():
                found.update(dict.fromkeys(stack["members"], read_json(path)))
        return found

    def statuses(self) -> dict[str, str]:
        """Each run's status, by run id, in the grid's order."""
        progress = self.progress()
        return {run.id: run.status(progress.get(run.id)) for run in self.runs()}


def _check_manifest(manifest: Mapping[str, Any], path: Path) -> None:
    """Refuse a grid.json whose entries are not what they should be, or whose ids lead out of the grid's folder."""
    runs, stacks, wrong = manifest["runs"], manifest["stacks"], f"{path} is damaged: "
    if not _are_entries(runs, ("axes", dict), ("seed", int)) or not _are_entries(stacks, ("members", list)):
        raise InputError(f"{wrong}its runs or stacks are not what `harness run` writes; restore it.")
    for name in (manifest["name"], *(entry["id"] for entry in (*runs, *stacks))):
        if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
            raise InputError(f"{wrong}{name!r} is no name of a file inside the grid's folder; restore it.")
    ids = {run["id"] for run in runs}
    members = [member for stack in stacks for member in stack["members"]]
    if strange := [member for member in members if not isinstance(member, str) or member not in ids]:
        raise InputError(f"{wrong}its stacks hold {strange[0]!r}, which is none of its runs; restore it.")


def _are_entries(value: Any, *fields: tuple[str, type]) -> bool:
    """Whether a value is a list of tables with an id and these fields."""
    return isinstance(value, Sequence) and all(
        isinstance(entry, Mapping) and "id" in entry and all(isinstance(entry.get(key), kind) for key, kind in fields)
        for entry in value
    )


def find_grids(path: Path) -> list[GridFolder]:
    """The grid folders at a path: the folder itself, or those directly inside it.

    Errors: InputError where there is none.
    """
    found = list(_grids_at(path))
    if not found:
        raise InputError(f"no grid found at {path}; give the folder that `harness run` wrote (it holds grid.json).")
    return found


def _grids_at(path: Path) -> Iterator[GridFolder]:
    if (path / "grid.json").exists():
        yield GridFolder(path)
    elif path.is_dir():
        yield from (GridFolder(child.parent) for child in sorted(path.glob("*/grid.json")))


def find_run(path: Path) -> RunFolder:
    """The run folder at a path.

    Errors: InputError where there is none.
    """
    if not (path / "experiment.json").exists():
        raise InputError(f"{path} is not a run folder (no experiment.json); give <out>/<grid>/runs/<run id>.")
    return RunFolder(path)
