"""The index changes nothing but time, whatever happens to it or to the files."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from harness.analysis import index
from harness.analysis.frame import frame
from harness.analysis.index import records
from harness.analysis.status import status_frame
from harness.benchmarks.synthetic import write_grid
from harness.errors import InputError
from harness.runs import GridFolder

GRID_KEY = "parzen[test,n=10000,sigma=grid]"


@pytest.fixture
def kept(grid: GridFolder, monkeypatch: pytest.MonkeyPatch) -> GridFolder:
    """The grid with an index of all its files, though they are few and new."""
    monkeypatch.setattr(index, "WORTH_WRITING", 1)
    monkeypatch.setattr(index, "_TICK_NANOSECONDS", -(10**12))
    frame([grid])
    status_frame([grid])
    assert {path.name for path in (grid.path / ".index").iterdir()} == set(index.FACTS)
    return grid


def value(grid: GridFolder, place: int = 0) -> float:
    """The metric of one run in the frame, the folder opened anew."""
    return float(frame([GridFolder(grid.path)])[GRID_KEY, "value"].iloc[place])


def evaluation(grid: GridFolder, place: int = 0) -> Path:
    return grid.runs()[place].path / "evaluation.json"


def test_a_second_call_reads_no_record(kept: GridFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, content: bytes) -> None:
        raise AssertionError(f"{path} is read again")

    runs, status = frame([kept]), status_frame([kept])
    monkeypatch.setattr(index, "parse_json", refuse)
    pd.testing.assert_frame_equal(frame([kept]), runs, check_exact=True)
    pd.testing.assert_frame_equal(status_frame([kept]), status, check_exact=True)


def test_the_index_gives_what_the_files_give(kept: GridFolder) -> None:
    runs, status = frame([kept]), status_frame([kept])
    shutil.rmtree(kept.path / ".index")
    pd.testing.assert_frame_equal(frame([kept]), runs, check_exact=True)
    pd.testing.assert_frame_equal(status_frame([kept]), status, check_exact=True)


def test_a_record_renamed_over_one_of_the_same_size_and_time_is_seen(kept: GridFolder) -> None:
    path = evaluation(kept)
    before, content = path.stat(), path.read_text()
    aside = path.with_name("aside")
    aside.write_text(content.replace("16.8", "36.8"))
    os.utime(aside, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(aside, path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert value(kept) == pytest.approx(36.8)


def test_a_record_changed_in_its_place_at_the_same_size_and_time_is_seen(kept: GridFolder) -> None:
    path = evaluation(kept)
    before = path.stat()
    path.write_text(path.read_text().replace("16.8", "36.8"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_ino) == (before.st_size, before.st_ino)
    assert value(kept) == pytest.approx(36.8)


def test_what_changed_within_a_tick_of_its_reading_is_not_kept(
    grid: GridFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "WORTH_WRITING", 1)
    written = max(path.stat().st_ctime_ns for path in grid.path.rglob("*.json"))
    monkeypatch.setattr(time, "time_ns", lambda: min(path.stat().st_ctime_ns for path in grid.path.rglob("*.json")))
    frame([grid])
    assert not (grid.path / ".index").exists()
    monkeypatch.setattr(time, "time_ns", lambda: written + 2 * 10**9 + 1)
    frame([grid])
    assert (grid.path / ".index" / "evaluation.json").exists()


@pytest.mark.parametrize("field", range(4))
def test_a_difference_in_any_part_of_the_identity_is_seen(
    field: int, kept: GridFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def parse(path: str, content: bytes) -> object:
        read.append(path)
        return json.loads(content)

    of_file = index._identity
    monkeypatch.setattr(
        index, "_identity", lambda stat: [part + (place == field) for place, part in enumerate(of_file(stat))]
    )
    monkeypatch.setattr(index, "parse_json", parse)
    records(kept, "evaluation.json")
    assert len(read) == 32


def test_a_run_that_vanishes_and_comes_back_is_followed(kept: GridFolder, tmp_path: Path) -> None:
    run = kept.runs()[0].path
    before = frame([kept])
    run.rename(tmp_path / "away")
    gone = frame([GridFolder(kept.path)])
    assert (gone["status"].iloc[0], bool(gone[GRID_KEY, "value"].isna().iloc[0])) == ("preempted", True)
    pd.testing.assert_frame_equal(gone.iloc[1:], before.iloc[1:])
    (tmp_path / "away").rename(run)
    pd.testing.assert_frame_equal(frame([GridFolder(kept.path)]), before)


def test_a_run_that_joins_the_grid_is_read(kept: GridFolder) -> None:
    manifest = json.loads((kept.path / "grid.json").read_text())
    smaller = {part: manifest[part][:-1] for part in ("runs", "stacks")}  # of one run each
    (kept.path / "grid.json").write_text(json.dumps({**manifest, **smaller}))
    assert len(frame([GridFolder(kept.path)])) == 35
    (kept.path / "grid.json").write_text(json.dumps(manifest))
    assert value(kept, -1) == value(kept, 35)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    assert b"16.8" in content
    return content.replace(b"16.8", b"36.8")


def of_another_version(content: bytes) -> bytes:
    header, _, body = flipped(content).partition(b"\n")
    sealed = {**index._header(body), "version": index.VERSION - 1}
    assert sealed.keys() == json.loads(header).keys()
    return json.dumps(sealed).encode() + b"\n" + body


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"{}\n{}",
        lambda content: b"[" * 100_000,
        lambda content: b"\x80\x04N.",
        truncated,
        flipped,
        of_another_version,
    ],
    ids=["empty", "hollow", "deep", "pickle", "truncated", "flipped", "version"],
)
def test_a_damaged_or_older_index_changes_nothing(damage: Callable[[bytes], bytes], kept: GridFolder) -> None:
    before = frame([kept])
    path = kept.path / ".index" / "evaluation.json"
    sound = path.read_bytes()
    path.write_bytes(damage(sound))
    pd.testing.assert_frame_equal(frame([kept]), before, check_exact=True)
    assert path.read_bytes() == sound


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_cannot_be_written_is_read_all_the_same(
    code: int, kept: GridFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: bytes) -> None:
        raise OSError(code, os.strerror(code))

    before = frame([kept])
    shutil.rmtree(kept.path / ".index")
    monkeypatch.setattr(index, "write_bytes", refuse)
    pd.testing.assert_frame_equal(frame([kept]), before, check_exact=True)


def test_a_file_in_the_place_of_the_index_does_no_harm(kept: GridFolder) -> None:
    before = frame([kept])
    shutil.rmtree(kept.path / ".index")
    (kept.path / ".index").write_text("")
    pd.testing.assert_frame_equal(frame([kept]), before, check_exact=True)


def test_a_small_grid_has_no_index(grid: GridFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_TICK_NANOSECONDS", -(10**12))
    frame([grid])
    assert not (grid.path / ".index").exists()


@pytest.mark.parametrize("content", ["[1]", "3", "null"])
def test_a_record_that_is_no_object_is_named(content: str, grid: GridFolder) -> None:
    evaluation(grid).write_text(content)
    with pytest.raises(InputError, match=r"evaluation.json holds no JSON object"):
        frame([grid])


def test_a_record_that_cannot_be_read_is_named(grid: GridFolder) -> None:
    evaluation(grid).unlink()
    evaluation(grid).mkdir()
    with pytest.raises(InputError, match=r"cannot read .*evaluation.json: Is a directory; move it away"):
        frame([grid])


def test_a_damaged_record_is_named_with_an_index_too(kept: GridFolder) -> None:
    evaluation(kept).write_text("{")
    with pytest.raises(InputError, match=r"evaluation.json is not valid JSON"):
        frame([kept])


def test_a_status_does_not_ask_for_evaluations(grid: GridFolder) -> None:
    evaluation(grid).write_text("{")
    assert status_frame([grid])["status"].iloc[0] == "complete"


def test_a_grid_without_evaluations_is_a_frame(grid: GridFolder) -> None:
    for run in grid.runs():
        (run.path / "evaluation.json").unlink(missing_ok=True)
    runs = frame([grid])
    assert len(runs) == 36
    assert list(runs.columns.get_level_values(0)[-3:]) == ["status", "diverged_at", "seconds"]


@pytest.mark.slow
def test_ten_thousand_runs_are_collected_in_little_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr(index, "_TICK_NANOSECONDS", 0)
    write_grid(GridFolder(tmp_path), 10_000)
    spent = []
    for collect in (frame, frame, status_frame):
        began = time.process_time()
        assert len(collect([GridFolder(tmp_path)])) == 10_000
        spent.append(time.process_time() - began)
    # seconds of a processor, loose, for busy machines; `harness bench collect` has figures
    assert spent[0] < 10 and spent[1] < 3 and spent[2] < 6
