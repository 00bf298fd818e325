from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from harness import runs
from harness.errors import HarnessError
from harness.training.checkpoint import Checkpoint, flatten, in_order, latest, nested, saved, write


def checkpoint(iteration: int) -> Checkpoint:
    numbers = torch.Generator().manual_seed(iteration)
    state = {
        "generator": {"hidden0.weight": torch.randn(2, 3, 4, generator=numbers), "steps": torch.tensor([iteration, 7])},
        "optimizer": {"momentum/w": torch.randn(2, 5, generator=numbers, dtype=torch.float64)},
    }
    history = torch.randn(iteration, 4, 2, generator=numbers)
    history[0, 0, 0] = torch.nan
    return Checkpoint(iteration, state, history, {"seconds": 0.1 + iteration, "flops_per_step": 10**12})


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def assert_is(found: Checkpoint | None, iteration: int) -> None:
    expected = checkpoint(iteration)
    assert found is not None and found.iteration == iteration and found.facts == expected.facts
    one, other = flatten(found.state), flatten(expected.state)
    assert one.keys() == other.keys()
    assert all(one[name].dtype == other[name].dtype and one[name].equal(other[name]) for name in other)
    torch.testing.assert_close(found.history, expected.history, rtol=0, atol=0, equal_nan=True)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


class Trap:
    """Leaves a file behind where a pickle of it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


def test_a_checkpoint_comes_back_bit_by_bit(tmp_path: Path) -> None:
    write(tmp_path, checkpoint(3))
    assert_is(latest(tmp_path), 3)


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert latest(tmp_path / "absent") is None
    (tmp_path / "progress.json").write_text("{}")
    (tmp_path / ".checkpoint-0000000003-0123456789abcdef.safetensors.1.tmp").write_bytes(b"half")
    assert latest(tmp_path) is None


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    for iteration in (1, 9, 10, 200):
        write(tmp_path, checkpoint(iteration))
    assert len(files(tmp_path)) == 2
    assert_is(latest(tmp_path), 200)
    files(tmp_path)[1].unlink()
    assert_is(latest(tmp_path), 10)


@pytest.mark.parametrize("damage", [truncated, emptied, flipped])
def test_a_damaged_newest_is_passed_over_with_a_warning(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for iteration in (3, 8):
        write(tmp_path, checkpoint(iteration))
    newest = files(tmp_path)[1]
    damage(newest)
    with caplog.at_level(logging.WARNING):
        assert_is(latest(tmp_path), 3)
    [report] = caplog.messages
    assert report.startswith(f"{newest} is damaged (") and report.endswith("; going on from iteration 3")


def test_without_a_sound_checkpoint_training_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, checkpoint(3))
    truncated(files(tmp_path)[0])
    assert latest(tmp_path) is None
    assert caplog.messages[0].endswith("; beginning anew")


def unreadable(path: Path) -> None:
    path.unlink()
    path.mkdir()


def test_one_that_cannot_be_read_gives_way_to_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for iteration in (3, 8):
        write(tmp_path, checkpoint(iteration))
    unreadable(files(tmp_path)[1])
    assert_is(latest(tmp_path), 3)
    assert "cannot read" in caplog.text and "going on from iteration 3" in caplog.text


def test_training_does_not_begin_anew_over_one_that_may_be_sound(tmp_path: Path) -> None:
    write(tmp_path, checkpoint(3))
    unreadable(files(tmp_path)[0])
    with pytest.raises(HarnessError, match="cannot read"):
        latest(tmp_path)


def test_a_damaged_checkpoint_of_the_same_iteration_is_not_among_the_two(tmp_path: Path) -> None:
    for iteration in (3, 8):
        write(tmp_path, checkpoint(iteration))
    damaged = files(tmp_path)[1]
    flipped(damaged)
    again = checkpoint(8)
    write(tmp_path, replace(again, facts=again.facts | {"seconds": 9.0}))
    assert damaged not in files(tmp_path)
    files(tmp_path)[1].unlink()
    assert_is(latest(tmp_path), 3)


def test_a_folder_that_has_gone_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "absent", checkpoint(3))
    assert files(tmp_path) == []


def test_a_new_checkpoint_outlives_damaged_ones_of_later_iterations(tmp_path: Path) -> None:
    for iteration in (3, 8):
        write(tmp_path, checkpoint(iteration))
    for path in files(tmp_path):
        flipped(path)
    assert latest(tmp_path) is None
    write(tmp_path, checkpoint(1))
    assert_is(latest(tmp_path), 1)


def test_a_state_has_one_order_whatever_order_a_file_gives_it_back_in() -> None:
    tensors = {name: torch.zeros(1) for name in ("b", "a", "c")}
    ordered = in_order({"generator": tensors})
    assert list(ordered["generator"]) == ["a", "b", "c"] and ordered["generator"]["b"] is tensors["b"]


def test_the_newest_epoch_counts_before_later_iterations_of_older_ones(tmp_path: Path) -> None:
    write(tmp_path, checkpoint(100), epoch=1)
    write(tmp_path, checkpoint(3), epoch=2)
    assert_is(latest(tmp_path), 3)
    assert saved(tmp_path) == 3
    write(tmp_path, checkpoint(200), epoch=1)  # by an owner that woke
    assert_is(latest(tmp_path), 3)
    write(tmp_path, checkpoint(5), epoch=2)
    write(tmp_path, checkpoint(300), epoch=1)
    assert [path.name[11:28] for path in files(tmp_path)][:2] == ["0000000003-000002", "0000000005-000002"]
    assert_is(latest(tmp_path), 5)


def test_a_new_epoch_keeps_what_it_began_from_rather_than_what_it_passed_over(tmp_path: Path) -> None:
    for iteration in (3, 8):
        write(tmp_path, checkpoint(iteration), epoch=1)
    flipped(files(tmp_path)[1])
    write(tmp_path, checkpoint(10), epoch=2, begun=3)
    assert [path.name[11:28] for path in files(tmp_path)] == ["0000000003-000001", "0000000010-000002"]
    flipped(max(tmp_path.glob("*-000002-*")))
    assert_is(latest(tmp_path), 3)


def test_an_owner_whose_checkpoint_is_deleted_as_it_writes_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "write_bytes", lambda path, content, inside: None)
    write(tmp_path, checkpoint(3), epoch=1)
    assert latest(tmp_path) is None and saved(tmp_path) == 0


def test_checkpoints_from_before_there_were_epochs_are_read(tmp_path: Path) -> None:
    write(tmp_path, checkpoint(3))
    (path,) = files(tmp_path)
    path.rename(path.with_name(path.name.replace("-000000-", "-")))
    assert_is(latest(tmp_path), 3)


@pytest.mark.parametrize("with_its_checksum", [False, True])
def test_a_pickle_in_a_checkpoints_place_is_not_executed(
    with_its_checksum: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trap = pickle.dumps(Trap(tmp_path / "mark"))
    pickle.loads(trap)
    assert (tmp_path / "mark").exists()
    (tmp_path / "mark").unlink()
    write(tmp_path, checkpoint(3))
    checksum = hashlib.sha256(trap).hexdigest()[:16] if with_its_checksum else "0" * 16
    path = tmp_path / f"checkpoint-0000000009-{checksum}.safetensors"
    path.write_bytes(trap)
    assert_is(latest(tmp_path), 3)
    assert not (tmp_path / "mark").exists()
    assert f"{path} is damaged" in caplog.text and "going on from iteration 3" in caplog.text


def test_tensors_that_are_no_checkpoint_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for content in (save({"history": torch.zeros(2)}), save({"a": torch.zeros(2)}, {"facts": "{}"})):
        checksum = hashlib.sha256(content).hexdigest()[:16]
        (tmp_path / f"checkpoint-0000000009-{checksum}.safetensors").write_bytes(content)
    assert latest(tmp_path) is None
    assert len(caplog.messages) == 2


def test_nesting_undoes_flattening_but_for_names_without_a_part() -> None:
    state = checkpoint(2).state
    back = nested(flatten(state) | {"history": torch.zeros(1)})
    assert back.keys() == state.keys()
    assert back["optimizer"].keys() == {"momentum/w"}
