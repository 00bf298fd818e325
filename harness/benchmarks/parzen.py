"""The whole Parzen protocol beside the bare float64 matrix product that its test distances need."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from harness.benchmarks.roofline import Rates, measure_rates
from harness.benchmarks.timing import Turns, machine, measure_rounds, peak_working_bytes
from harness.metrics.parzen import VALIDATION_POINTS, parzen


def bench(
    *,
    centres: int = 10_000,
    test: int = 10_000,
    dimension: int = 784,
    repeats: int = 5,
    seed: int = 0,
    device: torch.device | str = "cpu",
    rates: Rates | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Seconds of the protocol (grid, refined sigma, test set at both) and of the bare product, timed in turns.

    `ratio` is the median over rounds of protocol / product. `achieved_fraction` is the protocol's rate over the
    product's, counting only the operations of its two distance passes; `floor_fraction` compares them with the
    roofline of `rates` (measured if not given), the bytes being one reading of the inputs. `working_bytes` is the peak
    over the inputs, in a fresh process; None where the system does not tell.
    """
    rates = rates or measure_rates(device, ["float64"])
    samples, validation, points = _inputs(centres, test, dimension, seed=seed, device=device)
    left, right = points.double(), samples.double().T
    product = left.new_empty(test, centres)
    turns = Turns(
        *measure_rounds(
            [lambda: parzen(samples, validation, points), lambda: torch.mm(left, right, out=product)],
            repeats=repeats,
            device=device,
            progress=progress,
            title="parzen",
        )
    )
    roofline, bytes_moved = rates.roofline("float64"), samples.nbytes + validation.nbytes + points.nbytes
    product_operations = 2 * test * centres * dimension
    protocol_operations = 2 * (test + len(validation)) * centres * dimension
    product_rate = product_operations / turns.second.median_seconds
    return {
        "machine": machine(device),
        "rates": rates.figures(),
        "centres": centres,
        "validation": len(validation),
        "test": test,
        "dimension": dimension,
        "protocol_seconds": turns.first.median_seconds,
        "fastest_protocol_seconds": turns.first.fastest_seconds,
        "slowest_protocol_seconds": turns.first.slowest_seconds,
        "product_seconds": turns.second.median_seconds,
        "ratio": turns.median_ratio,
        "ratios": list(turns.ratios),
        "operations": protocol_operations,
        "product_operations_per_second": product_rate,
        "achieved_fraction": protocol_operations / turns.first.median_seconds / product_rate,
        "bytes_at_least": bytes_moved,
        "floor_seconds": roofline.floor_seconds(protocol_operations, bytes_moved),
        "floor_fraction": roofline.fraction(turns.first.median_seconds, protocol_operations, bytes_moved),
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
