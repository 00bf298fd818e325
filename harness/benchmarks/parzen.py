"""The whole Parzen protocol beside the bare float64 matrix product that its test distances need."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor

from harness.benchmarks.timing import machine, measure_in_turns, peak_working_bytes
from harness.metrics.parzen import VALIDATION_POINTS, parzen


def bench(
    *,
    centres: int = 10_000,
    test: int = 10_000,
    dimension: int = 784,
    repeats: int = 5,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Seconds of the protocol (grid, refined sigma, test set at both) and of the bare product, timed in turns.

    `ratio` is the median over rounds of protocol / product. `achieved_fraction` is the protocol's rate over the
    product's, counting only the operations of its two distance passes. `working_bytes` is the peak over the inputs,
    in a fresh process; None where the system does not tell.
    """
    samples, validation, points = _inputs(centres, test, dimension, seed=seed, device=device)
    left, right = points.double(), samples.double().T
    product = left.new_empty(test, centres)
    turns = measure_in_turns(
        lambda: parzen(samples, validation, points),
        lambda: torch.mm(left, right, out=product),
        repeats=repeats,
        device=device,
    )
    product_operations = 2 * test * centres * dimension
    protocol_operations = 2 * (test + len(validation)) * centres * dimension
    product_rate = product_operations / turns.second.median_seconds
    return {
        "machine": machine(device),
        "centres": centres,
        "validation": len(validation),
        "test": test,
        "dimension": dimension,
        "protocol_seconds": turns.first.median_seconds,
        "product_seconds": turns.second.median_seconds,
        "ratio": turns.median_ratio,
        "ratios": list(turns.ratios),
        "operations": protocol_operations,
        "product_operations_per_second": product_rate,
        "achieved_fraction": protocol_operations / turns.first.median_seconds / product_rate,
        "working_bytes": _working_bytes_in_fresh_process(centres, test, dimension, seed, str(device)),
    }


def _inputs(
    centres: int, test: int, dimension: int, *, seed: int, device: torch.device | str
) -> tuple[Tensor, Tensor, Tensor]:
    """Samples, validation and test points, float32 in [0, 1], four fifths of them 0, as MNIST's pixels are."""
    generator = torch.Generator().manual_seed(seed)
    samples, validation, points = (
        torch.rand(count, dimension, generator=generator).sub_(0.8).clamp_(min=0).mul_(5).to(device)
        for count in (centres, VALIDATION_POINTS, test)
    )
    return samples, validation, points


def _working_bytes_in_fresh_process(*arguments: Any) -> int | None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_working_bytes, *arguments).result()


def _working_bytes(centres: int, test: int, dimension: int, seed: int, device: str) -> int | None:
    samples, validation, points = _inputs(centres, test, dimension, seed=seed, device=device)
    return peak_working_bytes(lambda: parzen(samples, validation, points), device=device)
