"""Rates of a machine that is not measured, so that tests of benchmarks take no time for it."""

from __future__ import annotations

import pytest

from harness.benchmarks.roofline import Rates


@pytest.fixture
def rates() -> Rates:
    return Rates({"float32": [9e10, 1e11, 1.2e11], "float64": [5e10, 5e10, 5e10]}, [1e10, 1e10, 2e10])
