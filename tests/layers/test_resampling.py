"""Pools and upsampling of stacked images against torch's."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from harness.layers import Context, Function, average_pool, max_pool, sum_pool, upsample

ContextOf = Callable[..., Context]
SEEDS = (2, 9)
LAYERS: dict[str, tuple[Function, Callable[[Tensor], Tensor]]] = {
    "max pool": (max_pool(4, 2), lambda x: functional.max_pool2d(x, 4, 2, ceil_mode=True)),
    "max pool without overlap": (max_pool(2, 2), lambda x: functional.max_pool2d(x, 2)),
    "average pool": (average_pool(), lambda x: functional.avg_pool2d(x, 2)),
    "upsample": (upsample(), lambda x: functional.interpolate(x, scale_factor=2, mode="nearest")),
    "sum pool": (sum_pool(), lambda x: x.sum((2, 3))),
}
over_layers = pytest.mark.parametrize("name", LAYERS)


def images(*shape: int) -> Tensor:
    numbers = torch.Generator().manual_seed(0)
    return torch.randn(len(SEEDS), *shape, generator=numbers, dtype=torch.float64).requires_grad_()


@over_layers
@pytest.mark.parametrize("beside", [False, True])
def test_a_member_is_treated_as_by_torch(name: str, beside: bool, context_of: ContextOf) -> None:
    layer, plain = LAYERS[name]
    x = images(3, 5, 6, 4)
    if beside:  # as grouped convolutions leave them
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    y = layer({}, x, context_of(SEEDS))
    for member in range(len(SEEDS)):
        torch.testing.assert_close(y[member], plain(x[member]))
    (found,) = torch.autograd.grad((y**3).sum(), x, retain_graph=True)
    for member in range(len(SEEDS)):
        alone = x[member].detach().requires_grad_()
        torch.testing.assert_close(found[member], torch.autograd.grad((plain(alone) ** 3).sum(), alone)[0])


@over_layers
def test_slopes_have_slopes(name: str, context_of: ContextOf) -> None:
    layer, x = LAYERS[name][0], images(1, 1, 4, 4)
    assert torch.autograd.gradgradcheck(lambda x: layer({}, x, context_of(SEEDS)), x)


@over_layers
@pytest.mark.parametrize("value", [3.0, math.inf, math.nan])
def test_a_member_changes_no_bit_of_the_others(name: str, value: float, context_of: ContextOf) -> None:
    x = images(3, 5, 6, 4).detach()
    before = LAYERS[name][0]({}, x, context_of(SEEDS))[0]
    x[1] = value
    assert LAYERS[name][0]({}, x, context_of(SEEDS))[0].equal(before)


@pytest.mark.parametrize(("side", "pooled"), [(33, 16), (15, 7), (4, 1), (5, 2)])
def test_the_last_window_of_a_max_pool_reaches_over_the_edge(side: int, pooled: int, context_of: ContextOf) -> None:
    x = torch.arange(float(side)).expand(1, 1, 1, side, side)
    y = max_pool(4, 2)({}, x, context_of())
    assert y.shape == (1, 1, 1, pooled, pooled) and y[0, 0, 0, 0, -1] == side - 1
