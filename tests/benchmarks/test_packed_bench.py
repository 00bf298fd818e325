from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from harness.benchmarks import packed
from harness.benchmarks.packed import (
    Way,
    affordable,
    bench,
    combined,
    recommended,
    sizes_up_to,
    why_no_processes,
)
from harness.benchmarks.roofline import Rates
from harness.benchmarks.timing import Timing
from harness.errors import InputError, UnknownName

GRID = """
name = "pack"
seeds = [0, 1, 2]
[experiment]
dataset = "digits"
model = "mlp"
iterations = 10
batch_size = 8
generator = {{hidden = [8]}}
discriminator = {{hidden = [8]}}
optimizer = {{name = "SGD", lr = 0.1}}
[axes]
{axes}
"""


def grid_file(folder: Path, axes: str) -> str:
    path = folder / "pack.toml"
    path.write_text(GRID.format(axes=axes))
    return str(path)


def test_the_smallest_size_within_three_percent_of_the_best_is_recommended() -> None:
    assert recommended({1: 100.0, 4: 240.0, 8: 292.0, 18: 300.0}) == 8
    assert recommended({1: 100.0, 4: 240.0, 8: 290.0, 18: 300.0}) == 18
    assert recommended({1: 100.0, 2: 90.0}) == 1


def test_groups_are_combined_by_the_time_that_their_iterations_take() -> None:
    rates = combined([(300.0, {1: 10.0, 2: 30.0}), (100.0, {1: 10.0, 2: 20.0, 4: 50.0})])
    assert rates == {1: 400 / 40, 2: 400 / 15, 4: pytest.approx(400 / 12)}


@pytest.mark.parametrize(("members", "sizes"), [(2, [1, 2]), (3, [1, 3]), (13, [1, 4, 7, 13]), (36, [1, 4, 12, 36])])
def test_sizes_are_those_of_even_stacks_up_to_all_members(members: int, sizes: list[int]) -> None:
    assert sizes_up_to(members) == sizes


def test_members_are_fewer_where_memory_is_short() -> None:
    assert affordable(36, member_bytes=1, free_bytes=10**6) == 36
    assert 2 < affordable(36, member_bytes=100, free_bytes=36 * 100 * 8) < 36
    assert affordable(36, member_bytes=10**9, free_bytes=1) == 2


def test_processes_are_left_out_for_a_stated_reason() -> None:
    assert why_no_processes(torch.device("cpu"), 2) is None
    assert "one core" in str(why_no_processes(torch.device("cpu"), 1))
    assert "one device" in str(why_no_processes(torch.device("cuda"), 16))


def test_the_ratio_is_to_the_faster_of_the_others_round_by_round() -> None:
    own = Way("eager", Timing((1.0, 2.0)), 4)
    others = [Way("eager", Timing((3.0, 8.0)), 1), Way("eager", Timing((5.0, 6.0)), 1, processes=2)]
    assert own.times_faster(others) == [3.0, 3.0]


def test_every_way_of_training_is_timed(rates: Rates) -> None:
    before = torch.get_num_threads()
    figures = bench(members=3, repeats=2, turn_seconds=0.01, rates=rates)
    assert torch.get_num_threads() == before
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    (group,) = figures["groups"]
    assert [way["stack_size"] for way in group["ways"] if way["processes"] == 1] == [1, 3]
    assert group["left_out"] or {"one after the other, in processes", "packed, in processes"} <= {
        way["way"] for way in group["ways"]
    }
    assert min(way["iterations_per_second"]["lowest"] for way in group["ways"]) > 0
    assert len(group["ratios"]) == 2 and min(group["ratios"]) > 0
    assert figures["stack_size"] in (1, 3)


def test_a_grid_is_measured_by_groups_of_one_shape(
    tmp_path: Path, rates: Rates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "cores", lambda: 1)
    grid = grid_file(tmp_path, 'k = [1, 2]\nloss = ["minimax", "non_saturating"]')
    figures = bench(grid=grid, members=4, repeats=1, turn_seconds=0.02, rates=rates)
    assert [(group["k"], group["runs"], group["members"]) for group in figures["groups"]] == [(1, 6, 4), (2, 6, 4)]
    assert figures["for the grid file"] == f"[run]\nstack_size = {figures['stack_size']}"


def test_a_grid_without_two_runs_of_one_shape_is_refused(tmp_path: Path, rates: Rates) -> None:
    grid = grid_file(tmp_path, "batch_size = [8, 9]").replace("pack.toml", "lonely.toml")
    Path(grid).write_text(GRID.format(axes="batch_size = [8, 9]").replace("[0, 1, 2]", "[0]"))
    with pytest.raises(InputError, match="no two runs share a shape"):
        bench(grid=grid, rates=rates)


def test_bad_options_are_refused_before_anything_is_timed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give --grid"):
        bench(data=tmp_path)
    with pytest.raises(UnknownName, match="demo"):
        bench(grid="dem")


def test_with_another_engine_the_eager_runs_are_a_reference_of_their_own() -> None:
    captured = [Way("captured", Timing((4.0,)), 1), Way("captured", Timing((1.0,)), 8)]
    eager = [Way("eager", Timing((30.0,)), 1), Way("eager", Timing((0.5,)), 8)]
    verdict = packed._verdict([*captured, *eager])
    assert (verdict["best_size"], verdict["stack_size"], verdict["ratios"]) == (8, 8, [4.0])
    assert verdict["ratio_to_eager"]["median"] == 30.0
