"""The roofline: how fast this machine multiplies matrices and copies memory, measured, and the floor they set."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from harness.benchmarks.timing import measure, spread

_DTYPES = {"float32": torch.float32, "float64": torch.float64, "tf32": torch.float32, "bf16": torch.bfloat16}
# Large enough that products reach their best rate, and that no cache holds what is copied.
_PRODUCT_SIZE = {"cpu": 2048, "cuda": 8192}
_COPY_BYTES = {"cpu": 2**28, "cuda": 2**30}


@dataclass(frozen=True)
class Roofline:
    """What a device does at most: operations of matrix products and bytes of copies, a second each.

    Source: Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model".
    """

    operations_per_second: float
    bytes_per_second: float

    def floor_seconds(self, operations: float, bytes_moved: float) -> float:
        """The least time for work of so many operations and bytes: computing and moving may overlap wholly."""
        return max(operations / self.operations_per_second, bytes_moved / self.bytes_per_second)

    def fraction(self, seconds: float, operations: float, bytes_moved: float) -> float:
        """How much of the roofline was reached by work that took so many seconds: 1 is the floor."""
        return self.floor_seconds(operations, bytes_moved) / seconds


@dataclass(frozen=True)
class Rates:
    """Measured rates of a device: operations/s of a large square product by precision, bytes/s of a large copy.

    Each rate comes as the values of its repetitions.
    """

    products: Mapping[str, Sequence[float]]
    copies: Sequence[float]

    def roofline(self, precision: str) -> Roofline:
        """The roofline of the median rates."""
        return Roofline(statistics.median(self.products[precision]), statistics.median(self.copies))

    def figures(self) -> dict[str, Any]:
        """The rates as plain data: median, lowest, highest."""
        products = {f"{name} operations/s": spread(rates) for name, rates in self.products.items()}
        return {**products, "copied bytes/s": spread(self.copies)}


def measure_rates(
    device: torch.device | str = "cpu",
    precisions: Sequence[str] | None = None,
    *,
    size: int | None = None,
    copy_bytes: int | None = None,
    repeats: int = 5,
) -> Rates:
    """The rates of a device on the threads in use.

    `precisions`: float32 and float64 if not given, tf32 and bf16 too on CUDA. `size`: rows and columns of the square
    matrices; `copy_bytes`: the size of what is copied (it is read and written, and both count).
    """
    device = torch.device(device)
    if precisions is None:
        precisions = ("float32", "float64", "tf32", "bf16") if device.type == "cuda" else ("float32", "float64")
    size = size or _PRODUCT_SIZE[device.type]
    copy_bytes = copy_bytes or _COPY_BYTES[device.type]
    products = {precision: _product_rates(device, precision, size, repeats) for precision in precisions}
    return Rates(products, _copy_rates(device, copy_bytes, repeats))


def operations_of(function: Callable[[], object]) -> int:
    """Floating-point operations of a call: its matrix products and convolutions, 2 n m k for (n, k) times (k, m)."""
    with FlopCounterMode(display=False) as counter:
        function()
    return int(counter.get_total_flops())


def _product_rates(device: torch.device, precision: str, size: int, repeats: int) -> tuple[float, ...]:
    left, right = (torch.rand(size, size, device=device).to(_DTYPES[precision]) for _ in range(2))
    out = torch.empty_like(left)
    with _tf32(precision == "tf32") if device.type == "cuda" else nullcontext():
        timing = measure(lambda: torch.mm(left, right, out=out), repeats=repeats, warmup=2, device=device)
    return tuple(2 * size**3 / seconds for seconds in timing.seconds)


def _copy_rates(device: torch.device, copy_bytes: int, repeats: int) -> tuple[float, ...]:
    source = torch.ones(copy_bytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    timing = measure(lambda: target.copy_(source), repeats=repeats, warmup=2, device=device)
    return tuple(2 * copy_bytes / seconds for seconds in timing.seconds)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
