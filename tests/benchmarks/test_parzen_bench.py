import json
import sys

import pytest
import torch

from harness.benchmarks.parzen import bench
from harness.benchmarks.roofline import Rates
from harness.benchmarks.timing import machine, measure, measure_in_turns, measure_rounds, peak_working_bytes, threads

linux = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux's /proc")


def test_measure_leaves_the_warmup_out() -> None:
    calls: list[None] = []
    timing = measure(lambda: calls.append(None), repeats=5, warmup=2)
    assert len(calls) == 7
    assert len(timing.seconds) == 5
    assert 0 <= timing.fastest_seconds <= timing.median_seconds <= timing.slowest_seconds


def test_turns_alternate_and_give_a_ratio_for_each_round() -> None:
    calls: list[str] = []
    turns = measure_in_turns(lambda: calls.append("a"), lambda: calls.append("b"), repeats=3, warmup=1)
    assert "".join(calls) == "abababab"
    expected = [a / b for a, b in zip(turns.first.seconds, turns.second.seconds, strict=True)]
    assert list(turns.ratios) == expected
    assert turns.median_ratio == sorted(expected)[1]


def test_the_machine_is_described() -> None:
    described = machine()
    assert described["torch"] == torch.__version__
    assert described["device"] == "cpu"
    assert int(described["cores"]) >= 1 and int(described["threads"]) >= 1 and described["processor"]


@linux
def test_peak_working_bytes_sees_memory_that_is_freed_again() -> None:
    size = 1 << 28
    measured = peak_working_bytes(lambda: torch.ones(size, dtype=torch.uint8).sum())
    assert measured is not None and measured >= 0.9 * size


def test_rounds_call_every_function_in_turn() -> None:
    calls: list[str] = []
    timings = measure_rounds([lambda: calls.append("a"), lambda: calls.append("b")], repeats=2, warmup=2)
    assert "".join(calls) == "abababab"
    assert [len(timing.seconds) for timing in timings] == [2, 2]


def test_threads_are_put_back_even_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="stop"), threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ValueError("stop")
    assert torch.get_num_threads() == before


def test_a_small_benchmark_gives_plain_data(rates: Rates) -> None:
    figures = bench(centres=300, test=200, dimension=10, repeats=2, rates=rates)
    assert json.loads(json.dumps(figures)) == figures
    assert figures["operations"] == 2 * 300 * (200 + 1000) * 10
    assert figures["floor_seconds"] == pytest.approx(figures["operations"] / 5e10)
    assert figures["floor_fraction"] > 0
    assert len(figures["ratios"]) == 2 and min(figures["ratios"]) > 0
    assert sys.platform != "linux" or figures["working_bytes"] > 0


@linux
@pytest.mark.slow
def test_the_whole_protocol_costs_at_most_three_matrix_products_and_little_memory() -> None:
    figures = bench(repeats=3)
    assert min(figures["ratios"]) <= 3  # the quietest round: a test may share its cores
    assert figures["working_bytes"] <= 1.5e9
