"""Arrays of points that metrics take: checked, and shared by processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.errors import InputError

Array = Tensor | np.ndarray[Any, Any]

LARGEST_VALUE = 1e50
"""Fourth powers of larger ones, which products of covariances are, do not fit into float64; nor ratios of squares."""


@dataclass(frozen=True)
class Processes:
    """This process's place among those that share the points.

    `total` takes a float64 tensor of the same shape in every process and gives the sum over all of them,
    the same bits in each (torch.distributed's all_reduce does).
    """

    rank: int
    count: int
    total: Callable[[Tensor], Tensor]


ALONE = Processes(rank=0, count=1, total=lambda values: values)


def checked(name: str, array: Array, *, ndim: int = 2, at_least: int = 1, dimension: int | None = None) -> Tensor:
    """An array as a tensor (count, d), or (members, count, d), where it lies and in its own type, without gradient.

    Errors: InputError, which begins with `name`, for fewer points than `at_least`, another shape or width than
    `dimension`, and for values that are not real numbers: NaN, infinite or over LARGEST_VALUE.
    """
    if not isinstance(array, Tensor):
        native = np.asarray(array)
        if native.dtype.kind not in "fiub":
            raise InputError(f"{name} are of type {native.dtype}; give real numbers.")
        array = torch.from_numpy(np.require(native, native.dtype.newbyteorder("="), ["C", "W"]))
    if array.is_complex():
        raise InputError(f"{name} are of type {array.dtype}; give real numbers.")
    array = array.detach()
    shape = tuple(array.shape)
    if array.ndim != ndim or 0 in shape:
        wanted = "(count, d)" if ndim == 2 else "(members, count, d)"
        raise InputError(f"{name} have shape {shape}; give at least one point, flattened to {wanted}.")
    if shape[-2] < at_least:
        raise InputError(f"{name} have shape {shape}; give at least {at_least} points.")
    if dimension is not None and shape[1] != dimension:
        raise InputError(f"{name} have {shape[1]} values a point, those compared with {dimension}; they must agree.")
    extremes = torch.stack(torch.aminmax(array)).double()
    if not bool((extremes.abs() <= LARGEST_VALUE).all()):
        raise InputError(f"{name} hold NaN, infinite or huge values (over {LARGEST_VALUE:g}); mend the points.")
    return array
