"""A disk that fails while the command works: exit code 1, one plain message, and the same command goes on."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Harness = Callable[..., CompletedProcess[str]]
Patch = pytest.MonkeyPatch
OFTEN = ("--set", "run.checkpoint_every=10")


def fails_at(real: Callable[..., Any], part: str, code: int, *, after: int = 0) -> Callable[..., Any]:
    """A system call on a descriptor that fails for files whose path holds a part, after some that go well."""
    count = 0

    def call(descriptor: int, *rest: object) -> Any:
        nonlocal count
        count += part in os.readlink(f"/proc/self/fd/{descriptor}")
        if part in os.readlink(f"/proc/self/fd/{descriptor}") and count > after:
            raise OSError(code, os.strerror(code))
        return real(descriptor, *rest)

    return call


def statuses(command: Harness, folder: Path) -> list[tuple[str, str | None]]:
    rows = json.loads(command("status", folder, "--format", "json").stdout)
    return [(row["status"], row["reason"]) for row in rows]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_takes_no_checkpoint_fails_the_runs_and_keeps_the_last(
    code: int, command: Harness, small_grid: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails_at(os.fsync, "checkpoint-", code, after=2))
        result = command("run", small_grid, "--out", tmp_path, *OFTEN)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr and os.strerror(code) in result.stderr
    assert [path.name.split("-")[1] for path in sorted(tmp_path.glob("small/stacks/*/checkpoint-*"))] == [
        "0000000010",
        "0000000020",
    ]
    found = statuses(command, tmp_path)
    assert [status for status, _ in found] == ["failed"] * 4
    assert all(reason and os.strerror(code) in reason and "checkpoint-" in reason for _, reason in found)
    again = command("run", small_grid, "--out", tmp_path, *OFTEN)
    assert again.returncode == 0
    assert [status for status, _ in statuses(command, tmp_path)] == ["complete"] * 4


def test_a_disk_that_takes_nothing_ends_the_command_with_one_message(
    command: Harness, small_grid: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails_at(os.fsync, "small", errno.ENOSPC, after=20))
        result = command("run", small_grid, "--out", tmp_path, *OFTEN)
    assert result.returncode == 1
    assert result.stderr.count("harness: ") == 1 and "Traceback" not in result.stderr
    assert "No space left on device; free some space. What is saved stays" in result.stderr
    monkeypatch.setattr("harness.runs.is_alive", lambda progress: False)  # this process still is
    assert {status for status, _ in statuses(command, tmp_path)} <= {"pending", "preempted"}


def test_a_grids_folder_that_vanishes_is_not_begun_anew(
    command: Harness, small_grid: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    from harness.training import checkpoint

    out, elsewhere = tmp_path / "out", tmp_path / "unmounted"
    write = checkpoint.write

    def vanishing(folder: Path, saved: checkpoint.Checkpoint, **settings: int) -> None:
        write(folder, saved, **settings)
        if saved.iteration == 20:
            (out / "small").rename(elsewhere)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write", vanishing)
        result = command("run", small_grid, "--out", out, *OFTEN)
    assert result.returncode == 1
    assert "has gone; see that its disk is mounted" in result.stderr and "Traceback" not in result.stderr
    assert list(out.iterdir()) == []
    elsewhere.rename(out / "small")
    monkeypatch.setattr("harness.runs.is_alive", lambda progress: False)  # this process still is
    assert {status for status, _ in statuses(command, out)} == {"preempted"}


def test_an_evaluation_that_cannot_be_written_says_so(
    command: Harness, trained: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    folder = shutil.copytree(trained, tmp_path / "small")
    for name in ("evaluation.json", "controls.json"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fails_at(os.fsync, name, errno.EROFS))
            result = command("evaluate", folder)
        assert result.returncode == 1
        assert result.stderr.count("harness: ") == 1 and "Traceback" not in result.stderr
        assert "Read-only file system; make its disk writable" in result.stderr
    assert command("evaluate", folder).returncode == 0


def test_a_disk_that_cannot_be_read_ends_the_command_with_one_message(
    command: Harness, trained: Path, monkeypatch: Patch
) -> None:
    def fail(path: Path) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr(Path, "read_bytes", fail)
    for verb in ("status", "table", "evaluate"):
        result = command(verb, trained)
        assert result.returncode == 1 and result.stdout == ""
        assert result.stderr.startswith("harness: cannot read ") and "see that its disk is mounted" in result.stderr


class Trap:
    """Leaves a file behind where a pickle of it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


READERS = {
    "grid.json": "status",
    "controls.json": "table",
    "stacks/*/progress.json": "status",
    "runs/*/experiment.json": "evaluate --samples-count 50",
    "runs/*/provenance.json": "status",
    "runs/*/evaluation.json": "table",
    "runs/*/history.parquet": "plot --kind curves",
    "runs/*/samples.npz": "plot --kind samples",
    "runs/*/snapshots/*": "evaluate --samples-count 50",
}


@pytest.mark.parametrize("name", READERS)
def test_a_pickle_in_a_files_place_is_refused_and_runs_nothing(
    name: str, command: Harness, evaluated: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(evaluated, tmp_path / "small")
    mark = tmp_path / "mark"
    for path in folder.glob(name):
        path.write_bytes(pickle.dumps(Trap(mark)))
    verb, *options = READERS[name].split()
    result = command(verb, folder, *options)
    assert result.returncode == 2
    assert Path(name).name.strip("*") in result.stderr and "Traceback" not in result.stderr
    assert not mark.exists()


def test_an_experiment_edited_by_hand_is_refused(command: Harness, trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "small")
    path = next(folder.glob("runs/*/experiment.json"))
    path.write_text(path.read_text().replace('"model": "mlp"', '"model": "os:system"'))
    for arguments in (("sample", path.parent, "-o", tmp_path / "x.npz"), ("evaluate", path.parent)):
        result = command(*arguments)
        assert result.returncode == 2
        assert f"{path} holds the settings of another run" in result.stderr
    (folder / "runs" / path.parent.name).rename(folder / "runs" / "mine")
    assert command("sample", folder / "runs" / "mine", "-o", tmp_path / "x.npz").returncode == 2


def test_a_run_folder_under_another_name_is_still_sampled(command: Harness, trained: Path, tmp_path: Path) -> None:
    run = next((trained / "runs").iterdir())
    copy = shutil.copytree(run, tmp_path / "runs" / "the-best")
    assert command("sample", copy, "--n", "4", "-o", tmp_path / "x.npz").returncode == 0
