"""Residual blocks against their two paths."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from harness.draws import Draws
from harness.layers import BatchNorm, Context, Convolution, Residual, activation

ContextOf = Callable[..., Context]
SEEDS = (2, 9)


def images(*shape: int) -> Tensor:
    return torch.randn(len(SEEDS), *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def block() -> Residual:
    main = (BatchNorm("n", 3), activation("relu"), Convolution("a", 3, 5, 3, padding=1))
    return Residual(main, (Convolution("b", 3, 5, 1),))


def test_a_residual_block_is_the_sum_of_its_paths(context_of: ContextOf) -> None:
    x = images(4, 3, 6, 4)
    parameters = block().init(Draws(SEEDS, dtype=torch.float64), "init")
    normal = (x - x.mean((1, 3, 4), keepdim=True)) / (x.var((1, 3, 4), keepdim=True, correction=0) + 1e-5).sqrt()
    y = block()(parameters, x, context_of(SEEDS))
    for member in range(len(SEEDS)):
        a, b = ((parameters[f"{name}.weight"][member], parameters[f"{name}.bias"][member]) for name in "ab")
        expected = functional.conv2d(normal[member].relu(), *a, padding=1) + functional.conv2d(x[member], *b)
        torch.testing.assert_close(y[member], expected)


def test_a_path_without_layers_is_the_input(context_of: ContextOf) -> None:
    x = images(4, 3, 2, 2)
    assert Residual((activation("tanh"),))({}, x, context_of(SEEDS)).equal(x.tanh() + x)


def test_a_residual_block_has_the_tensors_of_its_layers_and_names_its_buffers() -> None:
    draws = Draws(SEEDS)
    parameters = block().init(draws, "init")
    assert block().buffers == ("n.running_mean", "n.running_var")
    assert set(parameters) == {*block().buffers, "n.weight", "n.bias", "a.weight", "a.bias", "b.weight", "b.bias"}
    assert parameters["b.weight"].equal(Convolution("b", 3, 5, 1).init(draws, "init")["b.weight"])
