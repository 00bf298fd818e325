"""Stacked convolutions and batch normalisation of images against torch.nn's, member by member."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from harness.draws import Draws
from harness.layers import (
    BatchNorm,
    Context,
    Convolution,
    ConvolutionWay,
    Layer,
    MaxoutConvolution,
    Parameters,
    PixelBias,
    TransposedConvolution,
)

SEEDS = (0, 1, 7)
WAYS = get_args(ConvolutionWay)
ContextOf = Callable[..., Context]
DOWN = Convolution("c", 3, 5, kernel=4, stride=2, padding=1)
UP = TransposedConvolution("c", 3, 5, kernel=4, stride=2, padding=1)
LAYERS: dict[str, Convolution] = {
    "halving": DOWN,
    "doubling": UP,
    "kernel 3 without bias": Convolution("c", 3, 2, kernel=3, bias=False),
    "transpose of kernel 3 without bias": TransposedConvolution("c", 3, 1, kernel=3, bias=False),
    "transpose with a padding for each side": TransposedConvolution("c", 3, 2, kernel=5, stride=3, padding=(2, 0)),
}
over_layers = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
over_ways = pytest.mark.parametrize("way", WAYS)


def images(n: int = 6, members: int = len(SEEDS)) -> Tensor:
    drawn = Draws(range(members), dtype=torch.float64).normal("images", 0, n, 3 * 6 * 4)
    return drawn.view(members, n, 3, 6, 4).requires_grad_()


def filled(layer: Layer, seeds: tuple[int, ...] = SEEDS) -> Parameters:
    """Parameters away from special values, with gradients where they train."""
    parameters: Parameters = {}
    for name, tensor in layer.init(Draws(seeds), "init").items():
        noise = Draws(seeds, dtype=torch.float64).uniform(name, 0, 1, tensor[0].numel()).view_as(tensor)
        parameters[name] = (tensor + noise).requires_grad_(name not in layer.buffers)
    return parameters


def slopes(y: Tensor, *of: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad((y**3).sum(), of))


def plain_of(layer: Convolution, parameters: Parameters, member: int) -> nn.Conv2d | nn.ConvTranspose2d:
    kind = nn.ConvTranspose2d if isinstance(layer, TransposedConvolution) else nn.Conv2d
    plain = kind(layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.padding, bias=layer.bias).double()
    plain.load_state_dict({name.removeprefix("c."): tensor[member] for name, tensor in parameters.items()})
    return plain


@over_layers
@over_ways
def test_a_member_equals_torchs_module(layer: Convolution, way: ConvolutionWay, context_of: ContextOf) -> None:
    parameters, x = filled(layer), images()
    y = layer(parameters, x, context_of(SEEDS, convolution=way))
    found = slopes(y, x, *parameters.values())
    for member in range(len(SEEDS)):
        plain = plain_of(layer, parameters, member)
        alone = x[member].detach().requires_grad_()
        expected = plain(alone)
        torch.testing.assert_close(y[member], expected)
        for stacked, slope in zip(found, slopes(expected, alone, *plain.parameters()), strict=True):
            torch.testing.assert_close(stacked[member], slope)


@over_layers
@over_ways
def test_a_stack_of_one_is_the_plain_convolution(layer: Convolution, way: str, context_of: ContextOf) -> None:
    parameters, x = filled(layer, (7,)), images(members=1)
    y = layer(parameters, x, context_of((7,), convolution=way))
    assert y[0].equal(plain_of(layer, parameters, 0)(x[0]))


@over_layers
@over_ways
@pytest.mark.parametrize("value", [2.0, math.inf, math.nan])
def test_a_member_changes_no_bit_of_the_others(
    layer: Convolution, way: str, value: float, context_of: ContextOf
) -> None:
    def others(replaced: bool) -> list[Tensor]:
        x = images().detach()
        parameters = {name: tensor.detach().clone() for name, tensor in filled(layer).items()}
        if replaced:
            for tensor in (x, *parameters.values()):
                tensor[1] = value
        tensors = [tensor.requires_grad_() for tensor in (x, *parameters.values())]
        y = layer(parameters, x, context_of(SEEDS, convolution=way))
        return [tensor[[0, 2]] for tensor in (y, *slopes(y, *tensors))]

    assert all(map(torch.equal, others(replaced=False), others(replaced=True)))


@pytest.mark.parametrize("layer", [DOWN, UP], ids=["halving", "doubling"])
def test_initial_values_have_the_spread_of_torchs(layer: Convolution) -> None:
    parameters = layer.init(Draws(SEEDS), "init")
    plain = plain_of(layer, {name: tensor.double() for name, tensor in parameters.items()}, 0)
    torch.manual_seed(0)
    plain.reset_parameters()
    for name, tensor in plain.named_parameters():
        bound = 1 / math.sqrt(math.prod(layer.weight_shape[1:]))
        for values in (tensor, parameters[f"c.{name}"]):
            assert 0.5 * bound < values.abs().max() <= bound


@pytest.mark.parametrize("kind", [Convolution, TransposedConvolution])
def test_a_given_spread_starts_weights_there_and_the_bias_at_zero(kind: type[Convolution]) -> None:
    normal = kind("c", 30, 20, 4, weight_std=0.02).init(Draws(SEEDS), "init")
    assert abs(float(normal["c.weight"].std()) / 0.02 - 1) < 0.02 and normal["c.weight"].abs().max() > 0.06
    uniform = kind("c", 30, 20, 4, weight_range=0.05).init(Draws(SEEDS), "init")
    assert 0.0499 < uniform["c.weight"].abs().max() <= 0.05
    assert not normal["c.bias"].any() and not uniform["c.bias"].any()


@over_layers
def test_initial_values_of_a_stack_are_those_of_its_members(layer: Convolution) -> None:
    together = layer.init(Draws(SEEDS), "init")
    for member, seed in enumerate(SEEDS):
        for name, tensor in layer.init(Draws([seed]), "init").items():
            assert together[name][member].equal(tensor[0])


@over_ways
def test_a_maxout_convolution_is_the_largest_of_its_pieces(way: ConvolutionWay, context_of: ContextOf) -> None:
    layer = MaxoutConvolution("c", 3, 4, 2, 3, padding=2)
    parameters, x = filled(layer), images()
    y = layer(parameters, x, context_of(SEEDS, convolution=way))
    for member in range(len(SEEDS)):
        weight, bias = (parameters[f"c.{name}"][member].unflatten(0, (2, 4)) for name in ("weight", "bias"))
        pieces = [nn.functional.conv2d(x[member], weight[piece], bias[piece], padding=2) for piece in range(2)]
        torch.testing.assert_close(y[member], torch.maximum(*pieces))


def test_a_pixel_bias_belongs_to_one_pixel_of_one_member(context_of: ContextOf) -> None:
    layer = PixelBias("b", (3, 6, 4))
    initial = layer.init(Draws(SEEDS, dtype=torch.float64), "init")["b.bias"]
    assert initial.shape == (3, 3, 6, 4) and not initial.any()
    bias, x = filled(layer)["b.bias"], images()
    y = layer({"b.bias": bias}, x, context_of(SEEDS))
    for member in range(len(SEEDS)):
        assert y[member].equal(torch.stack([image + bias[member] for image in x[member]]))


def plain_batch_norm(parameters: Parameters, member: int) -> nn.BatchNorm2d:
    plain = nn.BatchNorm2d(3).double()
    state = {name.removeprefix("b."): tensor[member].detach().clone() for name, tensor in parameters.items()}
    plain.load_state_dict(state | {"num_batches_tracked": torch.tensor(0)})
    return plain


def test_batch_norm_of_images_equals_torchs_by_member_and_by_batch(context_of: ContextOf) -> None:
    layer = BatchNorm("b", 3)
    parameters, x = filled(layer), images(n=12)
    plain = [plain_batch_norm(parameters, member) for member in range(len(SEEDS))]
    y = layer(parameters, x, context_of(SEEDS, batches=2))
    later = layer(parameters, x, context_of(SEEDS, batches=2, training=False))
    for member, module in enumerate(plain):
        torch.testing.assert_close(y[member], torch.cat([module(x[member, :6]), module(x[member, 6:])]))
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(parameters[f"b.{name}"][member], getattr(module, name))
        torch.testing.assert_close(later[member], module.eval()(x[member]))


def test_batch_norm_of_images_over_processes_equals_batch_norm_here(context_of: ContextOf) -> None:
    layer = BatchNorm("b", 3)
    x = images(n=12)
    here, over = filled(layer), filled(layer)
    expected = layer(here, x, context_of(SEEDS, batches=2))
    found = layer(over, x, context_of(SEEDS, batches=2, sum_over_processes=torch.clone))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(over, here)
    trained = [name for name in here if name not in layer.buffers]
    torch.testing.assert_close(
        slopes(found, x, *(over[name] for name in trained)), slopes(expected, x, *(here[name] for name in trained))
    )


def test_batch_norm_of_half_the_images_and_the_others_sums_equals_that_of_all(context_of: ContextOf) -> None:
    layer = BatchNorm("b", 3)
    whole, x = filled(layer), images(n=6)
    expected = layer(whole, x, context_of(SEEDS))
    halves = [x[:, :3].detach(), x[:, 3:].detach()]
    means = torch.stack([half.sum((1, 3, 4)) for half in halves]).sum(0) / (6 * 24)
    squares = sum((half - means[:, None, :, None, None]).square().sum((1, 3, 4)) for half in halves)
    sums = iter([means * 6 * 24, squares])  # what the exchange with another process would give
    part = filled(layer)
    found = layer(part, halves[0], context_of(SEEDS, rows=6, sum_over_processes=lambda _: next(sums)))
    torch.testing.assert_close(found, expected[:, :3])
    torch.testing.assert_close(part, whole)
