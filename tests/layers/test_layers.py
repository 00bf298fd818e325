"""Each stacked layer against the plain torch.nn module, member by member."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from harness.draws import Draws
from harness.layers import (
    ACTIVATIONS,
    BatchNorm,
    Context,
    Dropout,
    Layer,
    Linear,
    Maxout,
    Network,
    Parameters,
    activation,
    flatten,
    scalar,
    unflatten,
)
from harness.layers.linear import largest_piece

SEEDS = (0, 1, 7)
ContextOf = Callable[..., Context]
LAYERS: dict[str, Layer | Network] = {
    "linear": Linear("l", 8, 3),
    "sparse linear": Linear("s", 8, 3, weight_std=1.0, nonzero=2),
    "maxout": Maxout("m", 8, 3, 4),
    "batch norm": BatchNorm("b", 8),
    "dropout": Dropout("d", 0.3),
    "activation": activation("leaky_relu"),
    "network": Network(
        (Linear("a", 8, 6), BatchNorm("n", 6), activation("relu"), Dropout("d", 0.5), Linear("b", 6, 1))
    ),
}


def inputs(members: int = len(SEEDS), n: int = 6, width: int = 8) -> Tensor:
    return Draws(range(members)).normal("input", 0, n, width)


def filled(layer: Layer | Network, seeds: tuple[int, ...] = SEEDS) -> Parameters:
    """Parameters away from special values such as zero bias."""
    initial = layer.init(Draws(seeds), "init")
    return {
        name: tensor + Draws(seeds).uniform(name, 0, 1, tensor[0].numel()).view_as(tensor)
        for name, tensor in initial.items()
    }


def plain_linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    plain = nn.Linear(*weight.shape)
    plain.load_state_dict({"weight": weight.T, "bias": bias})
    return plain


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_a_stack_equals_its_members_alone(layer: Layer | Network, training: bool, context_of: ContextOf) -> None:
    together = filled(layer)
    x = inputs(n=12)
    y = layer(together, x, context_of(SEEDS, batches=2, training=training))
    for member, seed in enumerate(SEEDS):
        alone = filled(layer, (seed,))
        found = layer(alone, x[member : member + 1], context_of((seed,), batches=2, training=training))
        torch.testing.assert_close(y[member : member + 1], found)
        for name, tensor in alone.items():
            torch.testing.assert_close(together[name][member : member + 1], tensor)


def test_linear_equals_torch(context_of: ContextOf) -> None:
    layer = LAYERS["linear"]
    parameters, x = filled(layer), inputs()
    y = layer(parameters, x, context_of(SEEDS))
    for member in range(len(SEEDS)):
        plain = plain_linear(parameters["l.weight"][member], parameters["l.bias"][member])
        torch.testing.assert_close(y[member], plain(x[member]))


def test_the_largest_piece_has_the_gradients_of_amax() -> None:
    x = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    slopes = torch.linspace(-1, 1, 40, dtype=torch.float64).view(2, 4, 5)
    with torch.no_grad():
        x[0, :, 1] = x[0, :, 0]  # ties share the gradient
        x[1, 0] = 0.5
    assert largest_piece(x).equal(x.amax(2))
    found, expected = (torch.autograd.grad(one, x, slopes)[0] for one in (largest_piece(x), x.amax(2)))
    assert found.equal(expected)
    distinct = x.detach()[1:, 1:].clone().requires_grad_()
    assert torch.autograd.gradcheck(largest_piece, distinct) and torch.autograd.gradgradcheck(largest_piece, distinct)


def test_the_largest_piece_of_images_is_that_of_each_pixel() -> None:
    x = torch.randn(2, 4, 3, 5, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pixels = [largest_piece(x[..., row, column]) for row in range(2) for column in range(3)]
    assert largest_piece(x).equal(torch.stack(pixels, 3).view(2, 4, 5, 2, 3))
    few = x[:1, :2, :, :2, :, :1].clone().requires_grad_()
    assert torch.autograd.gradcheck(largest_piece, few) and torch.autograd.gradgradcheck(largest_piece, few)


def test_maxout_is_the_largest_piece_of_each_unit(context_of: ContextOf) -> None:
    layer = Maxout("m", 8, 3, 4)
    parameters, x = filled(layer), inputs()
    y = layer(parameters, x, context_of(SEEDS))
    assert y.shape == (3, 6, 3)
    for member in range(len(SEEDS)):
        for unit in range(3):
            columns = [piece * 3 + unit for piece in range(4)]
            weight, bias = parameters["m.weight"][member][:, columns], parameters["m.bias"][member][columns]
            torch.testing.assert_close(y[member, :, unit], (x[member] @ weight + bias).max(1).values)


def plain_batch_norms(parameters: Parameters) -> list[nn.BatchNorm1d]:
    plain = [nn.BatchNorm1d(8) for _ in SEEDS]
    for member, module in enumerate(plain):
        state = {name.removeprefix("b."): tensor[member].clone() for name, tensor in parameters.items()}
        module.load_state_dict(state | {"num_batches_tracked": torch.tensor(0)})
    return plain


def test_batch_norm_equals_torch_in_training_and_outside(context_of: ContextOf) -> None:
    layer = BatchNorm("b", 8)
    parameters = filled(layer)
    plain = plain_batch_norms(parameters)
    x = inputs(n=12)
    y = layer(parameters, x, context_of(SEEDS, batches=2))
    later = layer(parameters, x, context_of(SEEDS, batches=2, training=False))
    for member, module in enumerate(plain):
        # Batches that stand side by side are normalised one after the other.
        expected = torch.cat([module(x[member, :6]), module(x[member, 6:])])
        torch.testing.assert_close(y[member], expected)
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(parameters[f"b.{name}"][member], getattr(module, name))
        torch.testing.assert_close(later[member], module.eval()(x[member]))


def test_batch_norm_over_processes_equals_batch_norm_here(context_of: ContextOf) -> None:
    layer = BatchNorm("b", 8)
    here, over = filled(layer), filled(layer)
    x = inputs(n=12).requires_grad_()
    expected = layer(here, x, context_of(SEEDS, batches=2))
    found = layer(over, x, context_of(SEEDS, batches=2, sum_over_processes=torch.clone))
    torch.testing.assert_close(found, expected)
    for name, tensor in here.items():
        torch.testing.assert_close(over[name], tensor)
    slopes = [torch.autograd.grad((y**3).sum(), x)[0] for y in (expected, found)]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_dropout_scales_what_it_keeps(rate: float, context_of: ContextOf) -> None:
    x = inputs(n=2000)
    y = Dropout("d", rate)({}, x, context_of(SEEDS, rows=2000))
    kept = y != 0
    torch.testing.assert_close(y[kept], x[kept] / (1 - rate))
    assert abs(float(kept.float().mean()) - (1 - rate)) < 0.01


@pytest.mark.parametrize(("rate", "training"), [(0.5, False), (0.0, True)])
def test_dropout_outside_training_or_at_rate_zero_changes_nothing(
    rate: float, training: bool, context_of: ContextOf
) -> None:
    x = inputs()
    assert Dropout("d", rate)({}, x, context_of(SEEDS, training=training)) is x


def test_dropout_of_images_is_that_of_their_pixels_in_a_row(context_of: ContextOf) -> None:
    x = inputs(n=6, width=24)
    flat = Dropout("d", 0.3)({}, x, context_of(SEEDS))
    images = Dropout("d", 0.3)({}, x.view(3, 6, 2, 3, 4), context_of(SEEDS))
    assert images.flatten(2).equal(flat) and (flat == 0).any()


def test_dropouts_of_other_names_and_of_batches_side_by_side_differ(context_of: ContextOf) -> None:
    x = torch.ones(1, 200, 8)
    one, other = (Dropout(name, 0.5)({}, x, context_of(rows=100, batches=2)) for name in ("d0", "d1"))
    assert not one.equal(other) and not one[:, :100].equal(one[:, 100:])


PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(0.2),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "unit_tanh": lambda x: (nn.Tanh()(x) + 1) / 2,
    "signed": lambda x: 2 * x - 1,
    "linear": nn.Identity(),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_equal_torch(name: str, context_of: ContextOf) -> None:
    x = inputs()
    torch.testing.assert_close(activation(name)({}, x, context_of(SEEDS)), PLAIN[name](x))


def test_shapes_change_and_change_back(context_of: ContextOf) -> None:
    images = torch.arange(2 * 3 * 24.0).view(2, 3, 2, 3, 4)
    flat = flatten()({}, images, context_of())
    assert flat.shape == (2, 3, 24)
    assert unflatten((2, 3, 4))({}, flat, context_of()).equal(images)
    assert scalar()({}, torch.zeros(2, 3, 1), context_of()).shape == (2, 3)


def test_a_weight_range_bounds_the_weights_and_starts_the_bias_at_zero() -> None:
    initial = Linear("l", 300, 200, weight_range=0.05).init(Draws([0]), "init")
    weight = initial["l.weight"]
    assert -0.05 <= weight.min() < -0.0499 and 0.0499 < weight.max() <= 0.05
    assert abs(float(weight.mean())) < 4 * 0.05 / math.sqrt(3 * weight.numel())
    assert not initial["l.bias"].any()


def test_without_a_range_weights_and_bias_start_as_those_of_torch() -> None:
    initial = Linear("l", 64, 500).init(Draws([0]), "init")
    for tensor in initial.values():
        assert 0.99 / 8 < tensor.abs().max() <= 1 / 8
        assert abs(float(tensor.mean())) < 4 / 8 / math.sqrt(3 * tensor.numel())


def test_so_many_weights_into_each_unit_are_not_zero() -> None:
    sparse = Linear("l", 300, 200, weight_std=1.0, nonzero=100).init(Draws([0, 1]), "init")
    kept = sparse["l.weight"] != 0
    assert (kept.sum(1) == 100).all() and not sparse["l.bias"].any()
    values = sparse["l.weight"][kept]
    assert abs(float(values.mean())) < 0.02 and float(values.std()) == pytest.approx(1, abs=0.02)
    # Each input is taken by 200 units in three, each unit's and each member's inputs are its own.
    taken = kept.sum(2).double()
    assert float(taken.std()) == pytest.approx(math.sqrt(200 * 2 / 9), rel=0.15)
    assert len(torch.unique(kept.transpose(1, 2).flatten(0, 1), dim=0)) == 400
    dense = Linear("l", 300, 200, weight_std=1.0).init(Draws([0, 1]), "init")
    assert dense["l.weight"][kept].equal(values)


def test_an_output_bias_replaces_the_initial_one() -> None:
    bias = torch.tensor([1.0, -2.0])
    assert Linear("l", 3, 2, output_bias=bias).init(Draws(SEEDS), "init")["l.bias"].equal(bias.expand(3, 2))


def test_initial_values_depend_on_the_purpose_the_name_and_the_seed() -> None:
    draws = Draws((0, 1))
    weights = [Linear(name, 9, 9).init(draws, purpose)[f"{name}.weight"] for name in "ab" for purpose in ("G", "D")]
    assert len(set(map(tuple, torch.cat(weights).flatten(1).tolist()))) == 8


def test_a_network_names_its_buffers_and_holds_its_layers_parameters() -> None:
    network = LAYERS["network"]
    assert set(network.buffers) == {"n.running_mean", "n.running_var"}
    assert set(network.init(Draws([0]), "init")) == {
        *("a.weight", "a.bias", "b.weight", "b.bias"),
        *("n.weight", "n.bias", "n.running_mean", "n.running_var"),
    }
