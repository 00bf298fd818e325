"""Spectral normalisation against the singular values of each member's weight."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.draws import Draws
from harness.layers import (
    Context,
    Convolution,
    Layer,
    Linear,
    Maxout,
    MaxoutConvolution,
    Network,
    Residual,
    SpectralNorm,
    TransposedConvolution,
    activation,
    spectrally_normalised,
)

ContextOf = Callable[..., Context]
SEEDS = (3, 8)
LAYERS = {
    "linear": (Linear("a", 5, 4), (6, 5)),
    "maxout": (Maxout("a", 5, 3, 2), (6, 5)),
    "convolution": (Convolution("a", 2, 3, 3, padding=1), (6, 2, 4, 4)),
    "transposed convolution": (TransposedConvolution("a", 2, 3, 4, stride=2, padding=1), (6, 2, 4, 4)),
    "maxout convolution": (MaxoutConvolution("a", 2, 3, 2, 3, padding=1), (6, 2, 4, 4)),
}


def inputs(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(len(SEEDS), *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("kind", LAYERS)
def test_in_the_end_the_largest_singular_value_is_one(kind: str, context_of: ContextOf) -> None:
    layer, shape = LAYERS[kind]
    parameters = SpectralNorm(layer).init(Draws(SEEDS, dtype=torch.float64), "init")
    x = inputs(shape)
    for _ in range(300):
        found = SpectralNorm(layer)(parameters, x, context_of(SEEDS))
    weight = parameters["a.weight"]
    # As torch's own parametrization: the outputs, second in a transposed convolution, against all else.
    matrix = weight.transpose(1, 2) if isinstance(layer, TransposedConvolution) else weight
    largest = torch.linalg.matrix_norm(matrix.flatten(2), 2).view(-1, *[1] * (weight.ndim - 1))
    expected = layer({**parameters, "a.weight": weight / largest}, x, context_of(SEEDS))
    torch.testing.assert_close(found, expected)


def test_a_pass_in_training_is_one_power_iteration_and_others_are_none(context_of: ContextOf) -> None:
    layer, shape = LAYERS["linear"]
    parameters = SpectralNorm(layer).init(Draws(SEEDS, dtype=torch.float64), "init")
    before, weight = parameters["a.weight_u"].clone(), parameters["a.weight"]
    SpectralNorm(layer)(parameters, inputs(shape), context_of(SEEDS, training=False))
    assert parameters["a.weight_u"].equal(before)
    SpectralNorm(layer)(parameters, inputs(shape), context_of(SEEDS))
    for member in range(len(SEEDS)):
        right = before[member] @ weight[member]
        left = weight[member] @ (right / right.norm())
        torch.testing.assert_close(parameters["a.weight_u"][member], left / left.norm())


def test_the_gradient_holds_the_vectors_fixed(context_of: ContextOf) -> None:
    layer, shape = LAYERS["linear"]
    parameters = SpectralNorm(layer).init(Draws(SEEDS, dtype=torch.float64), "init")
    weight = parameters["a.weight"].requires_grad_()
    start = parameters["a.weight_u"].clone()
    y = SpectralNorm(layer)(parameters, inputs(shape), context_of(SEEDS))
    SpectralNorm(layer)(parameters, inputs(shape), context_of(SEEDS))  # moves the vector before the gradient is taken
    (found,) = torch.autograd.grad(y.square().sum(), weight)
    right = torch.nn.functional.normalize(torch.einsum("mr,mrc->mc", start, weight.detach()), dim=1)
    left = torch.nn.functional.normalize(torch.einsum("mc,mrc->mr", right, weight.detach()), dim=1)
    scale = torch.einsum("mr,mrc,mc->m", left, weight, right).view(-1, 1, 1)
    expected = layer({**parameters, "a.weight": weight / scale}, inputs(shape), context_of(SEEDS))
    torch.testing.assert_close(found, torch.autograd.grad(expected.square().sum(), weight)[0])


def test_it_reaches_inside_residual_blocks(context_of: ContextOf) -> None:
    main: tuple[Layer, ...] = (activation("relu"), Convolution("a", 2, 2, 3, padding=1))
    shortcut = Convolution("b", 2, 2, 1)
    block = Residual((*main, Residual((Convolution("c", 2, 2, 1),))), (shortcut,))
    network = Network(tuple(spectrally_normalised([block])))
    assert network.buffers == {"a.weight_u", "b.weight_u", "c.weight_u"}
    parameters = network.init(Draws(SEEDS, dtype=torch.float64), "init")
    x = inputs((6, 2, 4, 4))
    found = network(parameters, x, context_of(SEEDS, training=False))
    scaled = {name: 7 * tensor if name.endswith("weight") else tensor for name, tensor in parameters.items()}
    torch.testing.assert_close(network(scaled, x, context_of(SEEDS, training=False)), found)
    assert not block(scaled, x, context_of(SEEDS)).allclose(block(parameters, x, context_of(SEEDS)))


def test_the_norm_is_of_full_precision_under_autocast(context_of: ContextOf) -> None:
    layer, shape = LAYERS["linear"]
    found = []
    for enabled in (False, True):
        parameters = SpectralNorm(layer).init(Draws(SEEDS), "init")
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            SpectralNorm(layer)(parameters, inputs(shape).float(), context_of(SEEDS))
        found.append(parameters["a.weight_u"])
    assert found[0].equal(found[1])
