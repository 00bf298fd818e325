"""One process at a time owns a folder, and one that was taken for dead does no harm."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness import claims
from harness.claims import Claim, Claimant, Standing, ledger, newest
from harness.errors import InputError

AGES = 1000.0
"""A lapse so long that no counter moves and none lapses during a test, but by the clock that the test moves."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The observers' clock: one number of seconds, which a test moves."""
    seconds = [0.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: seconds[0])
    return seconds


def taken(folder: Path, claimant: Claimant | None = None) -> Claim:
    """The folder, claimed by a process that finds it free."""
    claimant = claimant or Claimant(AGES)
    standing = claimant.look(folder)
    assert not standing.is_held
    claim = claimant.take(folder, standing)
    assert claim is not None
    return claim


def lapsed(folder: Path, observer: Claimant, clock: list[float]) -> Standing:
    """What an observer sees after it has watched for long enough."""
    for _ in range(4):
        clock[0] += AGES / 2
        standing = observer.look(folder)
    return standing


def rewrite(folder: Path, **changes: Any) -> None:
    """Change the newest claim behind its owner's back."""
    path = folder / "claims" / f"{newest(folder):06d}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_claimed_folder_is_held_until_its_owner_releases_it(tmp_path: Path) -> None:
    claim, other = taken(tmp_path), Claimant(AGES)
    assert other.look(tmp_path).is_held and claim.holds()
    claim.release("complete")
    assert other.look(tmp_path).record["released"] == "complete"
    assert taken(tmp_path, other).epoch == 2


def test_of_many_that_see_a_free_folder_one_gets_it(tmp_path: Path) -> None:
    for epoch in range(1, 21):
        claimants = [Claimant(AGES) for _ in range(8)]
        standings = [claimant.look(tmp_path) for claimant in claimants]
        with ThreadPoolExecutor(len(claimants)) as pool:
            found = list(pool.map(Claimant.take, claimants, [tmp_path] * 8, standings))
        (claim,) = [claim for claim in found if claim is not None]
        assert claim.epoch == newest(tmp_path) == epoch
        claim.release("complete")
    assert not list(tmp_path.glob("claims/.*"))


def test_a_counter_that_moves_keeps_the_claim(tmp_path: Path) -> None:
    claim, observer = taken(tmp_path, Claimant(0.3)), Claimant(0.3)
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        assert observer.look(tmp_path).is_held
        time.sleep(0.02)
    assert observer.look(tmp_path).record["counter"] > 5
    claim.release("complete")


def test_a_counter_that_stands_still_on_the_observers_clock_lapses(tmp_path: Path, clock: list[float]) -> None:
    taken(tmp_path)
    observer = Claimant(AGES)
    assert observer.look(tmp_path).is_held
    for _ in range(9):
        clock[0] += AGES / 10
        assert observer.look(tmp_path).is_held
    clock[0] += AGES / 10
    assert not observer.look(tmp_path).is_held


def test_an_observer_that_itself_slept_looks_again_before_it_takes_over(tmp_path: Path, clock: list[float]) -> None:
    taken(tmp_path)
    observer = Claimant(AGES)
    observer.look(tmp_path)
    clock[0] += 50 * AGES
    assert observer.look(tmp_path).is_held
    rewrite(tmp_path, counter=1)
    clock[0] += AGES
    assert observer.look(tmp_path).is_held


def test_an_owner_that_beats_slowly_is_given_the_time(tmp_path: Path, clock: list[float]) -> None:
    taken(tmp_path, Claimant(AGES))
    hasty = Claimant(1.0)
    hasty.look(tmp_path)
    for _ in range(5):
        clock[0] += 40.0
        assert hasty.look(tmp_path).is_held


def test_a_process_that_has_gone_holds_nothing_on_its_machine(tmp_path: Path) -> None:
    taken(tmp_path)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    rewrite(tmp_path, pid=ended.pid)
    assert not Claimant(AGES).look(tmp_path).is_held
    rewrite(tmp_path, machine="elsewhere")
    assert Claimant(AGES).look(tmp_path).is_held


def test_another_process_under_an_old_number_is_not_the_owner(tmp_path: Path) -> None:
    taken(tmp_path)
    rewrite(tmp_path, started=1.0)
    assert not Claimant(AGES).look(tmp_path).is_held


def test_an_owner_that_wakes_finds_itself_replaced_and_writes_no_more(tmp_path: Path, clock: list[float]) -> None:
    stalled, observer = taken(tmp_path), Claimant(AGES)
    stalled.begin(0)
    stalled.reach(57)
    stalled._write({"counter": 1})
    successor = observer.take(tmp_path, lapsed(tmp_path, observer, clock))
    assert successor is not None
    successor.begin(40)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert not stalled.holds() and successor.holds()
    stalled.release("complete", saved=300)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    successor.reach(300)
    successor.release("complete", saved=300)
    stretches = [(line["epoch"], line["outcome"], line["first"], line["last"]) for line in ledger(tmp_path)]
    assert stretches == [(1, "lapsed", 1, 40), (2, "complete", 41, 300)]
    assert [line["reached"] for line in ledger(tmp_path)] == [57, 300]


def test_the_beat_of_an_owner_that_woke_brings_no_old_epoch_back(tmp_path: Path, clock: list[float]) -> None:
    stalled, observer = taken(tmp_path), Claimant(AGES)
    stalled.begin(0)
    second = observer.take(tmp_path, lapsed(tmp_path, observer, clock))
    assert second is not None
    second.begin(0)
    stalled._write({"counter": 7})  # between its look and its write it stood still
    second.release("preempted", saved=10)
    third = taken(tmp_path)
    third.begin(10)
    assert third.epoch == 3 and [line["epoch"] for line in ledger(tmp_path)] == [1, 2]


def test_a_stretch_whose_owner_died_before_it_could_tell_is_known_from_what_it_saved(tmp_path: Path) -> None:
    taken(tmp_path).begin(0)
    rewrite(tmp_path, started=1.0)  # as if by a process that has gone
    taken(tmp_path).begin(50)
    assert [(line["first"], line["last"]) for line in ledger(tmp_path)] == [(1, 50)]


def test_a_stretch_that_trained_nothing_has_no_steps(tmp_path: Path) -> None:
    claim = taken(tmp_path)
    claim.begin(300)
    claim.release("complete", saved=300)
    (line,) = ledger(tmp_path)
    assert line["last"] - line["first"] + 1 == 0


def test_a_claim_that_cannot_be_read_is_held_until_it_lapses(tmp_path: Path, clock: list[float]) -> None:
    taken(tmp_path)
    (tmp_path / "claims" / "000001.json").write_text("")
    observer = Claimant(AGES)
    assert observer.look(tmp_path).is_held
    assert not lapsed(tmp_path, observer, clock).is_held


def test_an_epoch_that_is_over_cannot_be_claimed_again(tmp_path: Path) -> None:
    late = Claimant(AGES).look(tmp_path)
    for _ in range(2):
        taken(tmp_path).release("written")
    assert [path.name for path in (tmp_path / "claims").iterdir()] == ["000002.json"]
    assert Claimant(AGES).take(tmp_path, late) is None
    assert [path.name for path in (tmp_path / "claims").iterdir()] == ["000002.json"]


def test_without_hard_links_one_still_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: Path) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    standing = Claimant(AGES).look(tmp_path)
    assert Claimant(AGES).take(tmp_path, standing) is not None
    assert Claimant(AGES).take(tmp_path, standing) is None


def test_a_link_that_was_made_and_then_refused_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def repeat(*paths: Path) -> None:
        link(*paths)
        link(*paths)

    monkeypatch.setattr(os, "link", repeat)
    standing = Claimant(AGES).look(tmp_path)
    assert Claimant(AGES).take(tmp_path, standing) is not None
    assert Claimant(AGES).take(tmp_path, standing) is None


def test_a_folder_that_cannot_be_claimed_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    claimant = Claimant(AGES)
    with pytest.raises(InputError, match="cannot write .*/file: "):
        claimant.take(tmp_path / "file", Standing(0, {}, False))


def test_a_damaged_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_text('{"epoch": 1')
    with pytest.raises(InputError, match=r"ledger\.jsonl is not a ledger"):
        ledger(tmp_path)
