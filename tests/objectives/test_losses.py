from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from harness.draws import Draws
from harness.errors import UnknownName
from harness.objectives.losses import LOSSES, StackedLoss, loss

AT_ZERO = {"minimax": -math.log(2), "non_saturating": math.log(2)}
# d loss / d score of one sample, times n, as a function of D = sigmoid(score)
SLOPES: dict[str, Callable[[Tensor], Tensor]] = {"minimax": lambda d: -d, "non_saturating": lambda d: d - 1}
NAMES = pytest.mark.parametrize("name", LOSSES)


def scores(purpose: str = "a", members: int = 3) -> Tensor:
    return (3 * Draws(range(members), dtype=torch.float64).normal(purpose, 0, 1, 7)[:, 0]).requires_grad_()


def test_every_loss_has_its_closed_forms_here() -> None:
    assert set(AT_ZERO) == set(SLOPES) == set(LOSSES)


@NAMES
def test_values_at_zero_scores(name: str) -> None:
    zeros = torch.zeros(2, 5, dtype=torch.float64)
    assert LOSSES[name].discriminator(zeros, zeros).tolist() == pytest.approx([math.log(4)] * 2)
    assert LOSSES[name].generator(zeros).tolist() == pytest.approx([AT_ZERO[name]] * 2)


@NAMES
def test_gradients_equal_their_closed_forms(name: str) -> None:
    real, fake = scores("real"), scores("fake")
    n = real.shape[1]
    of_real, of_fake = torch.autograd.grad(LOSSES[name].discriminator(real, fake).sum(), (real, fake))
    torch.testing.assert_close(of_real, (real.sigmoid() - 1) / n)
    torch.testing.assert_close(of_fake, fake.sigmoid() / n)
    (of_generator,) = torch.autograd.grad(LOSSES[name].generator(fake).sum(), fake)
    torch.testing.assert_close(of_generator, SLOPES[name](fake.sigmoid()) / n)


@NAMES
def test_the_players_pull_the_scores_their_ways(name: str) -> None:
    real, fake = scores("real"), scores("fake")
    of_real, of_fake = torch.autograd.grad(LOSSES[name].discriminator(real, fake).sum(), (real, fake))
    (of_generator,) = torch.autograd.grad(LOSSES[name].generator(fake).sum(), fake)
    assert (of_real < 0).all() and (of_fake > 0).all() and (of_generator < 0).all()


def test_minimax_saturates_where_the_discriminator_wins_and_non_saturating_does_not() -> None:
    lost = torch.full((1, 1), -20.0, requires_grad=True)
    slopes = {name: torch.autograd.grad(loss(name).generator(lost).sum(), lost)[0].item() for name in LOSSES}
    assert abs(slopes["minimax"]) < 1e-8 and slopes["non_saturating"] == pytest.approx(-1)
    values = {name: loss(name).generator(lost).item() for name in LOSSES}
    assert values["minimax"] == pytest.approx(0, abs=1e-8) and values["non_saturating"] == pytest.approx(20)


@NAMES
@pytest.mark.parametrize("size", [1000.0, -1000.0])
def test_nothing_overflows(name: str, size: float) -> None:
    real, fake = (torch.full((1, 3), sign * size, requires_grad=True) for sign in (1, -1))
    for value in (LOSSES[name].discriminator(real, fake), LOSSES[name].generator(fake)):
        assert value.isfinite().all()
        assert all(slope.isfinite().all() for slope in torch.autograd.grad(value.sum(), fake))


@pytest.mark.parametrize(
    "names",
    [["minimax"] * 3, ["minimax", "non_saturating", "minimax"], ["non_saturating", "minimax", "non_saturating"]],
)
def test_a_stack_of_losses_gives_each_member_its_own(names: list[str]) -> None:
    real, fake = scores("real"), scores("fake")
    stacked = StackedLoss.of(names)
    for member, name in enumerate(names):
        alone = LOSSES[name].generator(fake)[member]
        assert stacked.generator(fake)[member] == alone
        assert stacked.discriminator(real, fake)[member] == LOSSES[name].discriminator(real, fake)[member]
        slopes = [torch.autograd.grad(value, fake)[0] for value in (stacked.generator(fake)[member], alone)]
        torch.testing.assert_close(*slopes)


def test_an_unknown_loss_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown loss 'minmax'. Did you mean 'minimax'"):
        StackedLoss.of(["minimax", "minmax"])
