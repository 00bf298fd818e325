from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest

from harness.experiment import Experiment
from harness.placement import PlacementName, described, pays, placement

Resolve = Callable[..., Experiment]


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("auto", 5, 5),
        ("packed", 5, 5),
        ("data-parallel", 5, 5),
        ("one-per-process", 5, 1),
        ("one-per-process", None, 1),
    ],
)
def test_the_grids_own_stack_size_holds_but_for_single_runs(
    name: PlacementName, given: int | None, expected: int, resolve: Resolve
) -> None:
    assert placement(name, stack_size=given, device="cpu", processes=2, divides=True).stack_size(resolve()) == expected


def test_without_one_a_family_has_its_own_for_each_device(resolve: Resolve) -> None:
    sizes = {
        (device, model): placement("auto", stack_size=None, device=device, processes=1, divides=True).stack_size(
            resolve(model=model, generator={}, discriminator={})
        )
        for device in ("cpu", "cuda", "mps")
        for model in ("mlp", "dcgan")
    }
    assert sizes["cuda", "mlp"] > sizes["cpu", "mlp"] > sizes["cpu", "dcgan"] > 1
    assert sizes["mps", "mlp"] == sizes["cpu", "mlp"]


@pytest.mark.parametrize("name", get_args(PlacementName))
def test_one_process_shares_with_nobody(name: PlacementName) -> None:
    assert placement(name, stack_size=None, device="cpu", processes=1, divides=False).is_shared(9, True)


@pytest.mark.parametrize(
    ("name", "few", "many"),
    [
        ("auto", True, False),
        ("packed", False, False),
        ("one-per-process", False, False),
        ("data-parallel", True, True),
    ],
)
def test_several_processes_share_each_stack_or_the_stacks(name: PlacementName, few: bool, many: bool) -> None:
    placed = placement(name, stack_size=None, device="cpu", processes=4, divides=True)
    assert (placed.is_shared(3, True), placed.is_shared(4, True)) == (few, many)


def test_a_batch_that_cannot_be_divided_stays_on_one_process() -> None:
    placed = placement("auto", stack_size=None, device="cpu", processes=4, divides=False)
    assert not placed.is_shared(1, True)


def test_what_an_exchange_would_slow_down_stays_on_one_process() -> None:
    placed = placement("auto", stack_size=None, device="cpu", processes=4, divides=True)
    assert placed.is_shared(1, True) and not placed.is_shared(1, False)


@pytest.mark.parametrize(
    ("operations", "parameters", "expected"),
    [
        (37_000_000, 45_000, False),  # an mlp of 128 units: 117 iterations/s by two processes, 461 by one
        (3_570_000_000, 3_700_000, False),  # the paper's MNIST pair: 17 and 27
        (60_000_000_000, 3_700_000, True),
    ],
)
def test_an_exchange_pays_where_iterations_are_long(operations: int, parameters: int, expected: bool) -> None:
    assert pays(operations, parameters) == expected


@pytest.mark.parametrize(
    ("name", "stacks", "is_long", "divides", "said"),
    [
        ("auto", 1, True, True, "each on all of 4 processes (auto: data-parallel, since there are fewer stacks than"),
        ("auto", 1, True, False, "each on one of 4 processes (auto: packed, since they cannot divide every"),
        ("auto", 1, False, True, "each on one of 4 processes (auto: packed, since iterations are too short for an"),
        ("auto", 9, True, True, "each on one of 4 processes (auto: packed, since there is a stack for every process)"),
        ("packed", 9, True, True, "12 runs in 9 stacks, each on one of 4 processes"),
    ],
)
def test_what_was_placed_where_is_one_line_and_auto_says_why(
    name: PlacementName, stacks: int, is_long: bool, divides: bool, said: str
) -> None:
    placed = placement(name, stack_size=None, device="cpu", processes=4, divides=divides)
    is_shared = placed.is_shared(stacks, is_long)
    line = described(name, stacks, 12, processes=4, is_shared=is_shared, divides=divides)
    assert said in line and "\n" not in line
    assert described(name, stacks, 12, processes=1, is_shared=True, divides=divides) == ""
