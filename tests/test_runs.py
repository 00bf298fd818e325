from __future__ import annotations

import errno
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import runs
from harness.errors import HarnessError, InputError, StorageError, storage_error
from harness.runs import GridFolder, RunFolder

Patch = pytest.MonkeyPatch
MANIFEST: dict[str, Any] = {
    "schema": 1,
    "name": "tiny",
    "axes": [],
    "runs": [{"id": "0123456789abcdef", "axes": {}, "seed": 0}],
    "stacks": [{"id": "fedcba9876543210", "members": ["0123456789abcdef"]}],
}


class Trap:
    """Leaves a file behind where a pickle of it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


@pytest.fixture
def trap(tmp_path: Path) -> tuple[bytes, Path]:
    """A pickle that runs code where it is loaded, and the file that tells of it."""
    mark = tmp_path / "mark"
    content = pickle.dumps(Trap(mark))
    pickle.loads(content)
    assert mark.exists()
    mark.unlink()
    return content, mark


def failing(code: int) -> Callable[..., Any]:
    """A system call that fails."""

    def fail(*arguments: object, **options: object) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content_alone(call: str, tmp_path: Path, monkeypatch: Patch) -> None:
    path = tmp_path / "grid.json"
    runs.write_bytes(path, b"old")
    monkeypatch.setattr(os, call, failing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left") as error:
        runs.write_bytes(path, b"new")
    assert error.value.filename == str(path)  # not the temporary one
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_a_folder_that_has_gone_is_not_begun_anew(tmp_path: Path) -> None:
    grid = tmp_path / "mount" / "grid"
    with pytest.raises(FileNotFoundError, match="has gone"):
        runs.write_bytes(grid / "stacks" / "a" / "progress.json", b"{}", inside=grid)
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_long_ago_is_deleted(tmp_path: Path) -> None:
    old, new, mine = (tmp_path / name for name in (f".a.{'0' * 16}.tmp", f".b.{'f' * 16}.tmp", ".mine.tmp"))
    for path in (old, new, mine):
        path.write_bytes(b"half")
    for path in (old, mine):
        os.utime(path, (0, time.time() - 4000))
    runs.write_bytes(tmp_path / "c", b"whole")
    assert {path.name for path in tmp_path.iterdir()} == {new.name, mine.name, "c"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.ESTALE])
def test_an_error_of_the_disk_says_what_where_and_what_to_do(code: int) -> None:
    told = storage_error(OSError(code, os.strerror(code)), "/grids/a")
    assert isinstance(told, StorageError) and told.exit_code == 1
    assert str(told).startswith(f"cannot write /grids/a: {os.strerror(code)}; ") and "goes on" in str(told)


@pytest.mark.parametrize("code", [errno.ENOTDIR, errno.EEXIST, errno.EISDIR])
def test_a_name_that_cannot_be_right_is_bad_input(code: int) -> None:
    assert isinstance(storage_error(OSError(code, os.strerror(code)), "/grids/a", another="--out"), InputError)


def test_a_file_that_cannot_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: Patch) -> None:
    run = RunFolder(tmp_path / "runs" / "a")
    run.write("provenance.json", {})
    runs.write_npz(run.path / "samples.npz", images=np.zeros(3))
    monkeypatch.setattr(Path, "read_bytes", failing(errno.EIO))
    for read in (run.provenance, run.samples):
        with pytest.raises(StorageError, match=r"cannot read .*: Input/output error"):
            read()


ELSEWHERE = ["../../x", "/etc/x", "a/b", "..", ".hidden", "", "a\nb", "a\n", "\x1b[2J", "a\0", 5, None]


@pytest.mark.parametrize("name", ELSEWHERE, ids=repr)
@pytest.mark.parametrize("place", ["name", "runs", "stacks"])
def test_a_name_that_leads_out_of_the_grids_folder_is_refused(place: str, name: Any, tmp_path: Path) -> None:
    entry = [{**MANIFEST["runs"][0], **MANIFEST["stacks"][0], "id": name}]
    runs.write_json(tmp_path / "grid.json", MANIFEST | {place: name if place == "name" else entry})
    with pytest.raises(InputError, match=r"grid\.json is damaged: .* is no name of a file inside"):
        GridFolder(tmp_path).statuses()


@pytest.mark.parametrize(
    "change",
    [
        {"runs": 5},
        {"runs": [5]},
        {"runs": [{"axes": {}, "seed": 0}]},
        {"runs": [{"id": "a", "axes": [], "seed": 0}]},
        {"stacks": {"id": "a"}},
        {"stacks": [{"id": "a"}]},
        {"stacks": [{"id": "a", "members": ["b"]}]},
        {"stacks": [{"id": "a", "members": [["b"]]}]},
    ],
    ids=repr,
)
def test_a_manifest_of_another_make_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    runs.write_json(tmp_path / "grid.json", MANIFEST | change)
    with pytest.raises(InputError, match=r"grid\.json is damaged"):
        GridFolder(tmp_path).statuses()


def test_a_manifest_that_is_as_it_should_be_is_read(tmp_path: Path) -> None:
    runs.write_json(tmp_path / "grid.json", MANIFEST)
    assert GridFolder(tmp_path).statuses() == {"0123456789abcdef": "pending"}


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "5", "{", "\0", "\ud800".encode("utf-16", "surrogatepass")])
def test_json_that_is_no_record_is_refused(content: str | bytes, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "runs" / "a")
    runs.write_bytes(run.path / "provenance.json", content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"provenance\.json"):
        run.provenance()


def test_a_pickle_in_a_files_place_runs_nothing(trap: tuple[bytes, Path], tmp_path: Path) -> None:
    content, mark = trap
    run = RunFolder(tmp_path / "runs" / "a")
    for name in ("experiment.json", "provenance.json", "evaluation.json", "history.parquet", "samples.npz"):
        runs.write_bytes(run.path / name, content)
    for read in (run.experiment, run.provenance, run.evaluation, run.history, run.samples):
        with pytest.raises(HarnessError):
            read()
    assert not mark.exists()


def test_a_pickle_inside_a_file_runs_nothing(trap: tuple[bytes, Path], tmp_path: Path) -> None:
    content, mark = trap
    run = RunFolder(tmp_path / "runs" / "a")
    runs.write_npz(run.path / "samples.npz", images=np.array([Trap(mark)], dtype=object))
    # What old versions of pyarrow unpickled: the type of a column.
    extension = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": content}
    column = pa.field("iteration", pa.int64(), metadata=extension)
    pq.write_table(pa.table([pa.array([1])], schema=pa.schema([column])), run.path / "history.parquet")
    with pytest.raises(InputError, match="damaged"):
        run.samples()
    history = run.history()
    assert history is not None and history["iteration"].tolist() == [1]
    assert not mark.exists()
