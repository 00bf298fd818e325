"""Penalties on the discriminator's slope."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from harness.errors import UnknownName
from harness.objectives.penalties import PENALTIES, around_data, between, charge, penalty

NAMES = pytest.mark.parametrize("name", PENALTIES)


@dataclass
class Minibatch:
    """Five images of two members, and random numbers that are the same whenever they are asked for."""

    real: Tensor = field(default_factory=lambda: images(0))
    fake: Tensor = field(default_factory=lambda: images(1))

    def uniform(self, what: str, width: int) -> Tensor:
        generator = torch.Generator().manual_seed(len(what))
        return torch.rand(2, 5, width, generator=generator, dtype=torch.float64)

    def mean(self, values: Tensor) -> Tensor:
        return values.flatten(1).mean(1)


def images(seed: int) -> Tensor:
    return torch.rand(2, 5, 1, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def smooth(weights: Tensor) -> Callable[[Tensor], Tensor]:
    """A discriminator with weights (m, 6): its slope at x is w cos(w x) + w."""
    return lambda x: (x.flatten(2) * weights[:, None]).sum(2).sin() + (x.flatten(2) * weights[:, None]).sum(2)


def linear(slope: float) -> Callable[[Tensor], Tensor]:
    """A discriminator whose gradient has this norm everywhere."""
    return lambda x: x.flatten(2).sum(2) * (slope / 6**0.5)


def charged(name: str, discriminator: Callable[[Tensor], Tensor], minibatch: Minibatch) -> Tensor:
    """What a penalty costs at its points of a minibatch."""
    return charge(PENALTIES[name], discriminator, PENALTIES[name].points(minibatch))


@NAMES
def test_the_gradient_is_that_of_finite_differences(name: str) -> None:
    weights = torch.linspace(-1, 1.5, 12, dtype=torch.float64).view(2, 6).requires_grad_()
    minibatch = Minibatch()
    value = charged(name, smooth(weights), minibatch).sum()
    (slopes,) = torch.autograd.grad(value, weights)
    step = 1e-6
    for place in range(12):
        shift = torch.zeros(12, dtype=torch.float64)
        shift[place] = step
        beside = [
            charged(name, smooth(weights.detach() + sign * shift.view(2, 6)), minibatch).sum().detach()
            for sign in (1, -1)
        ]
        assert float(beside[0] - beside[1]) / (2 * step) == pytest.approx(float(slopes.flatten()[place]), abs=1e-6)


@pytest.mark.parametrize("name", [name for name in PENALTIES if not PENALTIES[name].of_probabilities])
def test_it_is_zero_where_its_condition_holds_and_nowhere_else(name: str) -> None:
    wanted = 0.0 if name == "r1" else 1.0
    for slope in (0.0, 0.5, 1.0, 2.0):
        costs = charged(name, linear(slope), Minibatch())
        assert costs.shape == (2, 5)
        expected = (slope - wanted) ** 2 / (2 if name == "r1" else 1)
        torch.testing.assert_close(costs, torch.full_like(costs, expected))


def test_the_slope_of_a_probability_is_that_of_the_score_times_d_times_1_minus_d() -> None:
    minibatch = Minibatch()
    points = around_data(minibatch)
    for slope in (0.5, 4.0):
        costs = charged("dragan_of_probabilities", linear(slope), minibatch)
        d = linear(slope)(points).sigmoid()
        torch.testing.assert_close(costs, (slope * d * (1 - d) - 1).square())
        assert (costs > charged("dragan", linear(1.0), minibatch)).all()


@NAMES
def test_a_flat_discriminator_has_finite_gradients(name: str) -> None:
    weights = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    value = charged(name, lambda x: (x.flatten(2) * weights[:, None]).sum(2), Minibatch())
    (slopes,) = torch.autograd.grad(value.sum(), weights)
    assert value.isfinite().all() and slopes.isfinite().all()


@NAMES
def test_a_members_cost_is_its_own(name: str) -> None:
    minibatch, other = Minibatch(), Minibatch()
    other.real, other.fake = (torch.stack([x[0], 7 * x[1]]) for x in (minibatch.real, minibatch.fake))
    weights = torch.ones(2, 6, dtype=torch.float64)
    first, second = (charged(name, smooth(weights), one) for one in (minibatch, other))
    assert first[0].equal(second[0])
    assert not first[1].equal(second[1])


def test_points_between_lie_on_the_line_from_real_to_fake() -> None:
    minibatch = Minibatch()
    shares = ((between(minibatch) - minibatch.fake) / (minibatch.real - minibatch.fake)).flatten(2)
    torch.testing.assert_close(shares, minibatch.uniform("between", 1).expand(2, 5, 6))


def test_points_around_data_move_up_by_half_a_deviation_at_most() -> None:
    minibatch = Minibatch()
    steps = around_data(minibatch) - minibatch.real
    deviations = minibatch.real.flatten(1).std(1, unbiased=False)
    assert (steps >= 0).all()
    assert (steps.flatten(1).amax(1) <= 0.5 * deviations).all()
    e, u = minibatch.uniform("how far", 1), minibatch.uniform("where to", 6)
    torch.testing.assert_close(steps.flatten(2), e * u * 0.5 * deviations.view(2, 1, 1))


def test_an_unknown_penalty_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown penalty 'dragon'. Did you mean 'dragan'"):
        penalty("dragon")
