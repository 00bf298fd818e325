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
    <out>/<grid>/.index/                    a cache of harness.analysis.index

Every write is a temporary file, fsync, rename. Nothing here imports torch.
"""

from __future__ import annotations

import io
import json
import os
import socket
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.errors import InputError

SCHEMA = 1
STAGE, SEARCH, BEST = "stage", "search", "best"
"""The axis that tells a search's draws from the best of them, which train again with seeds of their own; its values."""
STATUSES = ("pending", "running", "preempted", "complete", "diverged", "failed")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part of either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically. NaN is refused: absent numbers are null."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file; a damaged one is an InputError that names it."""
    return parse_json(path, path.read_bytes())


def parse_json(path: Path | str, content: bytes) -> Any:
    """The value in a JSON file's bytes; damaged ones are an InputError that names the file."""
    try:
        return json.loads(content.decode())
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}); restore it or delete it.") from error


def write_npz(path: Path, **arrays: Any) -> None:
    """Write arrays as a compressed .npz, atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(path, buffer.getvalue())


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write a data frame as parquet, atomically."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_bytes(path, buffer.getvalue())


@dataclass(frozen=True)
class RunFolder:
    """One run's files: names, reading, writing."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def snapshots(self) -> Path:
        return self.path / "snapshots"

    def experiment(self) -> dict[str, Any]:
        """The run's settings as written."""
        return dict(self._read("experiment.json"))

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
        try:
            return pd.read_parquet(path)
        except (ValueError, OSError) as error:
            raise InputError(f"{path} is damaged ({error}); delete the run's folder and train it again.") from None

    def samples(self) -> np.ndarray | None:
        """Samples of fixed noise, float32 (n, c, h, w) in [0, 1]."""
        path = self.path / "samples.npz"
        if not path.exists():
            return None
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
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

    def _read(self, name: str) -> Any:
        path = self.path / name
        if not path.exists():
            raise InputError(f"{path} does not exist; {self.path} is not a run folder.")
        return read_json(path)

    def _optional(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        return dict(read_json(path)) if path.exists() else None


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
        manifest = dict(read_json(path))
        lacking = {"name", "axes", "runs", "stacks"} - manifest.keys()
        if lacking:
            raise InputError(f"{path} lacks {', '.join(sorted(lacking))}; restore it, or train the grid anew.")
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
