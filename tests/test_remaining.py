"""Which stack a process takes next, beside others that take from the same grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.claims import Claim, Claimant
from harness.plan import Plan, Stack, stacks
from harness.remaining import FAILED, Remaining
from harness.runs import GridFolder

Begin = Callable[[], Remaining]


@pytest.fixture
def three(planned: Callable[..., Plan]) -> list[Stack]:
    return stacks(planned(seeds="[0, 1, 2]").runs, 1)


@pytest.fixture
def folder(tmp_path: Path) -> GridFolder:
    (tmp_path / "out").mkdir()
    return GridFolder(tmp_path / "out")


@pytest.fixture
def heard() -> list[tuple[str, str]]:
    """What processes found ended: how, and the stack."""
    return []


@pytest.fixture
def begin(three: list[Stack], folder: GridFolder, heard: list[tuple[str, str]]) -> Begin:
    """Makes one more process's view of the grid."""

    def remaining() -> Remaining:
        def ended(stack: Stack, how: str) -> None:
            heard.append((how, stack.id))

        return Remaining(three, folder, Claimant(), ended=ended, tell=lambda line: heard.append(("told", line)))

    return remaining


def take(remaining: Remaining) -> tuple[Stack, Claim]:
    taken = remaining.take()
    assert taken is not None
    return taken


def complete(folder: GridFolder, stack: Stack, claim: Claim) -> None:
    for run in stack.members:
        folder.run(run.id).write("provenance.json", {"outcome": "complete"})
    claim.release("complete")


def fail(folder: GridFolder, stack: Stack, claim: Claim) -> None:
    for run in stack.members:
        folder.run(run.id).write("failure.json", {"reason": "of its own"})
    claim.release(FAILED)


def test_processes_take_stacks_in_order_and_none_twice(begin: Begin, three: list[Stack]) -> None:
    one, other = begin(), begin()
    assert [take(view)[0] for view in (one, other, one)] == three
    assert one.take() is None and other.take() is None and len(one) == len(other) == 3


def test_what_another_has_ended_is_struck_out_and_heard_of(
    begin: Begin, folder: GridFolder, three: list[Stack], heard: list[tuple[str, str]]
) -> None:
    one, other = begin(), begin()
    for _ in three:
        stack, claim = take(one)
        complete(folder, stack, claim)
        one.strike(stack)
    assert other.take() is None and len(other) == 0
    assert heard == [("elsewhere", stack.id) for stack in three]
    heard.clear()
    assert len(begin()) == 0 and {how for how, _ in heard} == {"skipped"}


def test_ending_a_stack_counts_those_that_others_ended_meanwhile(
    begin: Begin, folder: GridFolder, three: list[Stack], heard: list[tuple[str, str]]
) -> None:
    one, other = begin(), begin()
    mine = take(one)
    complete(folder, *take(other))
    complete(folder, *mine)
    one.strike(mine[0])
    assert heard == [("elsewhere", three[1].id)] and len(one) == 1


def test_a_stack_that_stopped_in_order_is_taken_up_at_once(begin: Begin, three: list[Stack]) -> None:
    one, other = begin(), begin()
    take(one)[1].release("preempted", saved=0)
    stack, claim = take(other)
    assert stack is three[0] and claim.epoch == 2


def test_a_stack_that_ends_between_two_looks_is_not_begun(
    begin: Begin, folder: GridFolder, three: list[Stack], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = begin(), begin()
    mine = take(one)
    look = Claimant.look

    def look_late(self: Claimant, path: Path) -> object:
        monkeypatch.setattr(Claimant, "look", look)
        complete(folder, *mine)
        return look(self, path)

    monkeypatch.setattr(Claimant, "look", look_late)
    assert take(other)[0] is three[1] and len(other) == 2


def test_a_failed_stack_is_tried_again_by_one_process_of_the_next_call(
    begin: Begin, folder: GridFolder, three: list[Stack]
) -> None:
    first, beside = begin(), begin()
    fail(folder, *take(first))
    assert take(beside)[0] is three[1]
    assert len(beside) == 2  # it has just been tried
    again, beside = begin(), begin()
    retried = take(again)
    assert retried[0] is three[0]
    fail(folder, *retried)
    assert take(beside)[0] is three[2]
    assert len(beside) == 2


def test_a_retry_that_was_cut_short_is_open_to_all(begin: Begin, folder: GridFolder, three: list[Stack]) -> None:
    fail(folder, *take(begin()))
    again, beside = begin(), begin()
    take(again)[1].release("preempted", saved=0)
    assert take(beside)[0] is three[0]


def test_a_takeover_is_told(begin: Begin, three: list[Stack], folder: GridFolder, heard: list[tuple[str, str]]) -> None:
    _, claim = take(begin())
    claim._write({"started": 1.0})  # as if by a process that has gone
    assert take(begin())[1].epoch == 2
    assert heard == [
        ("told", f"stack {three[0].id}: taken over from {claim._record['owner']}, which gives no sign of life")
    ]
