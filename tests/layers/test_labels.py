"""How classes enter a network, against plain torch, member by member."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from harness.draws import Draws
from harness.layers import Concatenation, Context, Embedding, Linear, Projection, SpectralNorm

SEEDS = (0, 5, 9)
CLASSES = 4
LABELS = torch.tensor([[0, 3, 1, 1, 2, 0], [2, 2, 2, 0, 1, 3], [3, 0, 0, 1, 2, 1]])
ContextOf = Callable[..., Context]


def inputs(*shape: int) -> Tensor:
    return torch.randn(3, 6, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def started(layer: Embedding | Concatenation | Projection | SpectralNorm) -> dict[str, Tensor]:
    parameters = layer.init(Draws(SEEDS, dtype=torch.float64), "init")
    return {name: one if name in layer.buffers else one.requires_grad_() for name, one in parameters.items()}


def plain(parameters: dict[str, Tensor], member: int) -> nn.Embedding:
    return nn.Embedding.from_pretrained(parameters["c.weight"][member].detach(), freeze=False)


def test_an_embedding_equals_torch_with_its_gradient(context_of: ContextOf) -> None:
    layer = Embedding("c", CLASSES, 5)
    parameters, slopes = started(layer), inputs(5)
    found = layer(parameters, inputs(7), context_of(SEEDS, labels=LABELS))
    (gradient,) = torch.autograd.grad(found, parameters["c.weight"], slopes)
    for member in range(3):
        torch_layer = plain(parameters, member)
        expected = torch_layer(LABELS[member])
        torch.testing.assert_close(found[member], expected)
        (of_torch,) = torch.autograd.grad(expected, torch_layer.weight, slopes[member])
        torch.testing.assert_close(gradient[member], of_torch)


@pytest.mark.parametrize(("width", "std"), [(3000, 1.0), (3000, 0.02)])
def test_an_embedding_starts_normal_each_member_with_its_own(width: int, std: float) -> None:
    weight = Embedding("c", CLASSES, width, weight_std=std).init(Draws(SEEDS), "init")["c.weight"]
    assert weight.shape == (3, CLASSES, width)
    assert weight.flatten(1).std(1).tolist() == pytest.approx([std] * 3, rel=0.05)
    assert len(set(weight[:, 0, 0].tolist())) == 3


@pytest.mark.parametrize(("before", "shape"), [((7,), (5,)), ((2, 3, 4), (1, 3, 4))])
def test_a_concatenation_is_x_followed_by_the_class(
    before: tuple[int, ...], shape: tuple[int, ...], context_of: ContextOf
) -> None:
    layer = Concatenation(Embedding("c", CLASSES, torch.Size(shape).numel()), shape)
    parameters, x = started(layer), inputs(*before)
    y = layer(parameters, x, context_of(SEEDS, labels=LABELS))
    assert y.shape == (3, 6, before[0] + shape[0], *before[1:])
    for member in range(3):
        vectors = plain(parameters, member)(LABELS[member])
        torch.testing.assert_close(y[member], torch.cat([x[member], vectors.view(6, *shape)], 1))


def test_a_projection_adds_the_inner_product_to_the_score(context_of: ContextOf) -> None:
    layer = Projection(Linear("s", 7, 1), Embedding("c", CLASSES, 7))
    parameters, x, slopes = started(layer), inputs(7).requires_grad_(), inputs(1)
    found = layer(parameters, x, context_of(SEEDS, labels=LABELS))
    trained = [parameters[name] for name in ("c.weight", "s.weight", "s.bias")]
    gradients = torch.autograd.grad(found, [x, *trained], slopes)
    for member in range(3):
        embedding, score = plain(parameters, member), nn.Linear(7, 1).double()
        score.load_state_dict({"weight": parameters["s.weight"][member].T, "bias": parameters["s.bias"][member]})
        own = x[member].detach().requires_grad_()
        expected = score(own) + torch.einsum("nf,nf->n", own, embedding(LABELS[member])).unsqueeze(1)
        torch.testing.assert_close(found[member], expected)
        of_torch = torch.autograd.grad(expected, [own, embedding.weight, score.weight, score.bias], slopes[member])
        for one, other in zip(gradients, of_torch, strict=True):
            torch.testing.assert_close(one[member], other.T if one is gradients[2] else other)


def test_a_spectrally_normalised_embedding_has_a_largest_singular_value_of_one(context_of: ContextOf) -> None:
    layer = Projection(SpectralNorm(Linear("s", 7, 1)), SpectralNorm(Embedding("c", CLASSES, 7)))
    assert set(layer.buffers) == {"s.weight_u", "c.weight_u"}
    parameters, x = started(SpectralNorm(Embedding("c", CLASSES, 7))), inputs(7)
    for _ in range(200):
        found = layer.embedding(parameters, x, context_of(SEEDS, labels=LABELS))
    for member in range(3):
        weight = parameters["c.weight"][member]
        expected = (weight / torch.linalg.matrix_norm(weight, 2))[LABELS[member]]
        torch.testing.assert_close(found[member], expected)


def test_a_network_that_is_given_no_classes_says_so(context_of: ContextOf) -> None:
    layer = Embedding("c", CLASSES, 5)
    with pytest.raises(AssertionError, match="is given classes"):
        layer(started(layer), inputs(7), context_of(SEEDS))
