"""The mean of bounds on log-likelihoods, and its error."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.errors import InputError
from harness.metrics.bound import mean_bound


def test_the_mean_and_its_error_are_those_of_the_definition() -> None:
    values = np.random.default_rng(0).normal(-90, 5, 400)
    found = mean_bound(values)
    assert found.value == pytest.approx(values.mean(), rel=1e-14)
    assert found.standard_error == pytest.approx(values.std() / 20, rel=1e-12)
    assert found.error.startswith("over images")


def test_single_precision_is_summed_in_double() -> None:
    values = np.full(2**20, 1 + 2**-20, np.float32)
    values[0] = 2.0**24  # a float32 sum that has it loses all others' last bits
    assert mean_bound(values).value == pytest.approx(values.astype(np.float64).mean(), rel=1e-14)


def test_one_image_has_no_spread() -> None:
    assert mean_bound(np.array([-3.0])).standard_error == 0


@pytest.mark.parametrize("spoilt", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_refused(spoilt: float) -> None:
    with pytest.raises(InputError, match="bound: values hold NaN"):
        mean_bound(np.array([-1.0, spoilt]))


def test_no_bounds_are_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        mean_bound(np.empty(0))
