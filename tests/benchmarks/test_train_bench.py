from __future__ import annotations

import json
from dataclasses import replace

import pytest

from harness.benchmarks import train
from harness.benchmarks.roofline import Rates


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workloads with a tenth of the images."""
    for name, workload in train.WORKLOADS.items():
        monkeypatch.setitem(train.WORKLOADS, name, replace(workload, images=workload.images // 10))


@pytest.mark.usefixtures("small")
def test_a_small_benchmark_gives_plain_data(rates: Rates) -> None:
    figures = train.bench(repeats=2, share=0.01, rates=rates)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert list(figures["workloads"]) == list(train.WORKLOADS)
    for workload in figures["workloads"].values():
        assert workload["slowest_speed"] <= workload["speed"] <= workload["fastest_speed"]
        assert min(value for value in workload.values() if not isinstance(value, str)) > 0
        assert workload["products_share"] < 1


def test_an_iteration_of_the_digits_pair_has_the_operations_of_its_layers(rates: Rates) -> None:
    stack = train._ours(train.WORKLOADS["digits mlp"])
    generator = 2 * (32 * 128 + 128 * 128 + 128 * 64) * 64
    discriminator = 2 * (64 * 128 + 128 * 128 + 128) * 64
    # An update of D: G forward, D forward on two batches, and back to its weights and its hidden layers.
    back_d = 2 * discriminator + 2 * (discriminator - 2 * 64 * 128 * 64)
    # One of G: both forward; back through D to the images, and through G to its weights and hidden layers.
    back_g = discriminator + generator + (generator - 2 * 32 * 128 * 64)
    assert stack.operations() == generator + 2 * discriminator + back_d + generator + discriminator + back_g
