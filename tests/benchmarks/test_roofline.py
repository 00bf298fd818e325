import json

import pytest
import torch

from harness.benchmarks.roofline import Rates, Roofline, measure_rates, operations_of


@pytest.mark.parametrize(("operations", "bytes_moved", "seconds"), [(200, 10, 2.0), (100, 90, 3.0), (0, 0, 0.0)])
def test_the_floor_is_the_slower_of_computing_and_moving(operations: int, bytes_moved: int, seconds: float) -> None:
    assert Roofline(100.0, 30.0).floor_seconds(operations, bytes_moved) == seconds


def test_the_fraction_reached_is_one_at_the_floor_and_less_above() -> None:
    roofline = Roofline(100.0, 30.0)
    assert roofline.fraction(2.0, 200, 10) == 1.0
    assert roofline.fraction(8.0, 200, 10) == 0.25


def test_a_product_of_n_k_and_k_m_has_2nmk_operations() -> None:
    left, right, stacked = torch.rand(3, 5), torch.rand(5, 7), torch.rand(4, 5, 7)
    assert operations_of(lambda: left @ right) == 2 * 3 * 5 * 7
    assert operations_of(lambda: torch.bmm(left.expand(4, 3, 5), stacked)) == 4 * 2 * 3 * 5 * 7


def test_the_backward_pass_counts_as_two_more_products() -> None:
    left, right = torch.rand(3, 5, requires_grad=True), torch.rand(5, 7, requires_grad=True)
    assert operations_of(lambda: torch.autograd.grad((left @ right).sum(), [left, right])) == 3 * 2 * 3 * 5 * 7


def test_measured_rates_are_positive_plain_data() -> None:
    figures = measure_rates("cpu", size=32, copy_bytes=1024, repeats=3).figures()
    assert json.loads(json.dumps(figures)) == figures
    assert list(figures) == ["float32 operations/s", "float64 operations/s", "copied bytes/s"]
    assert all(0 < rate["lowest"] <= rate["median"] <= rate["highest"] for rate in figures.values())


def test_the_roofline_holds_median_rates(rates: Rates) -> None:
    assert rates.roofline("float32") == Roofline(1e11, 1e10)
