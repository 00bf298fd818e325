from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest

from harness.experiment import Experiment
from harness.placement import WORTH_SHARING, PlacementName, described, placement

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
    assert placement(name, stack_size=None, device="cpu", processes=1, divides=False).is_shared(9, 10**9)


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
    assert (placed.is_shared(3, 10**7), placed.is_shared(4, 10**7)) == (few, many)


def test_a_batch_that_cannot_be_divided_stays_on_one_process() -> None:
    placed = placement("auto", stack_size=None, device="cpu", processes=4, divides=False)
    assert not placed.is_shared(1, 10**9)


def test_a_small_model_stays_on_one_process() -> None:
    placed = placement("auto", stack_size=None, device="cpu", processes=4, divides=True)
    assert placed.is_shared(1, WORTH_SHARING) and not placed.is_shared(1, WORTH_SHARING - 1)


@pytest.mark.parametrize(
    ("name", "stacks", "parameters", "divides", "said"),
    [
        ("auto", 1, 10**7, True, "each on all of 4 processes (auto: data-parallel, since there are fewer stacks than"),
        ("auto", 1, 10**7, False, "each on one of 4 processes (auto: packed, since they cannot divide every"),
        (
            "auto",
            1,
            12345,
            True,
            "each on one of 4 processes (auto: packed, since the stacks are small: at most 12,345",
        ),
        ("auto", 9, 10**7, True, "each on one of 4 processes (auto: packed, since there is a stack for every process)"),
        ("packed", 9, 10**7, True, "12 runs in 9 stacks, each on one of 4 processes"),
    ],
)
def test_what_was_placed_where_is_one_line_and_auto_says_why(
    name: PlacementName, stacks: int, parameters: int, divides: bool, said: str
) -> None:
    placed = placement(name, stack_size=None, device="cpu", processes=4, divides=divides)
    is_shared = placed.is_shared(stacks, parameters)
    line = described(name, stacks, 12, parameters=parameters, processes=4, is_shared=is_shared, divides=divides)
    assert said in line and "\n" not in line
    assert described(name, stacks, 12, processes=1, is_shared=True, divides=divides) == ""
