from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from harness.draws import Draws
from harness.errors import UnknownName
from harness.objectives.losses import LOSSES, StackedLoss, loss

Slope = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ClosedForm:
    """Values at zero scores, and n times the slopes by each score, for losses in which scores do not meet."""

    discriminator: float
    generator: float
    by_real: Slope
    by_fake: Slope
    of_generator: Slope


def ones(a: Tensor) -> Tensor:
    return torch.ones_like(a)


LOG_2 = math.log(2)
FORMS = {
    "minimax": ClosedForm(2 * LOG_2, -LOG_2, lambda a: a.sigmoid() - 1, torch.sigmoid, lambda a: -a.sigmoid()),
    "non_saturating": ClosedForm(2 * LOG_2, LOG_2, lambda a: a.sigmoid() - 1, torch.sigmoid, lambda a: a.sigmoid() - 1),
    "lsgan": ClosedForm(0.5, 0.5, lambda a: a - 1, lambda a: a, lambda a: a - 1),
    "lsgan_of_probabilities": ClosedForm(
        0.25,
        0.125,
        lambda a: (a.sigmoid() - 1) ** 2 * -a.sigmoid(),
        lambda a: a.sigmoid() ** 2 * (1 - a.sigmoid()),
        lambda a: (a.sigmoid() - 1) ** 2 * -a.sigmoid(),
    ),
    "wgan": ClosedForm(0, 0, lambda a: -ones(a), ones, lambda a: -ones(a)),
    "hinge": ClosedForm(2, 0, lambda a: -(a < 1).to(a), lambda a: (a > -1).to(a), lambda a: -ones(a)),
}
ADVERSARIAL = [name for name, one in LOSSES.items() if one.score != "reconstruction_error"]
NAMES = pytest.mark.parametrize("name", ADVERSARIAL)
APART = pytest.mark.parametrize("name", FORMS)


def scores(purpose: str = "a", members: int = 3) -> Tensor:
    return (3 * Draws(range(members), dtype=torch.float64).normal(purpose, 0, 1, 7)[:, 0]).requires_grad_()


def test_every_loss_has_its_closed_form_here() -> None:
    assert {*FORMS, "relativistic", "began"} == set(LOSSES)


@APART
def test_values_at_zero_scores(name: str) -> None:
    zeros = torch.zeros(2, 5, dtype=torch.float64)
    assert LOSSES[name].discriminator(zeros, zeros).tolist() == pytest.approx([FORMS[name].discriminator] * 2)
    assert LOSSES[name].of_generator(zeros, zeros).tolist() == pytest.approx([FORMS[name].generator] * 2)


@APART
def test_gradients_equal_their_closed_forms(name: str) -> None:
    real, fake = scores("real"), scores("fake")
    n = real.shape[1]
    by_real, by_fake = torch.autograd.grad(LOSSES[name].discriminator(real, fake).sum(), (real, fake))
    torch.testing.assert_close(by_real, FORMS[name].by_real(real) / n)
    torch.testing.assert_close(by_fake, FORMS[name].by_fake(fake) / n)
    (by_generated,) = torch.autograd.grad(LOSSES[name].of_generator(real, fake).sum(), fake)
    torch.testing.assert_close(by_generated, FORMS[name].of_generator(fake) / n)


def test_the_relativistic_loss_equals_its_definition() -> None:
    real, fake = scores("real"), scores("fake")
    n = real.shape[1]
    of = LOSSES["relativistic"]
    zeros = torch.zeros(2, 5, dtype=torch.float64)
    assert of.discriminator(zeros, zeros).tolist() == pytest.approx([2 * LOG_2] * 2)
    assert of.of_generator(zeros, zeros).tolist() == pytest.approx([2 * LOG_2] * 2)
    real_beats = torch.sigmoid(real - fake.mean(1, keepdim=True))  # how far each real one looks more real than fakes do
    fake_beats = torch.sigmoid(fake - real.mean(1, keepdim=True))
    value = -(real_beats.log() + (1 - fake_beats).log()).mean(1)
    torch.testing.assert_close(of.discriminator(real, fake), value)
    torch.testing.assert_close(of.of_generator(real, fake), -((1 - real_beats).log() + fake_beats.log()).mean(1))
    by_real, by_fake = torch.autograd.grad(of.discriminator(real, fake).sum(), (real, fake))
    mean_real, mean_fake = (real_beats - 1).mean(1, keepdim=True), fake_beats.mean(1, keepdim=True)
    torch.testing.assert_close(by_real, (real_beats - 1 - mean_fake) / n)
    torch.testing.assert_close(by_fake, (fake_beats - mean_real) / n)


def test_the_loss_of_an_equilibrium_equals_its_definition() -> None:
    real, fake = scores("real").abs(), scores("fake").abs()
    balance = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    of = StackedLoss.of(["began"] * 3)
    torch.testing.assert_close(of.discriminator(real, fake, balance), real.mean(1) - balance * fake.mean(1))
    torch.testing.assert_close(of.generator(None, fake), fake.mean(1))
    assert of.discriminator(0 * real, 0 * fake, balance).tolist() == [0, 0, 0]


@NAMES
def test_the_players_pull_the_scores_their_ways(name: str) -> None:
    real, fake = scores("real"), scores("fake")
    by_real, by_fake = torch.autograd.grad(LOSSES[name].discriminator(real, fake).sum(), (real, fake))
    (by_generated,) = torch.autograd.grad(LOSSES[name].of_generator(real, fake).sum(), fake)
    if name == "lsgan":  # which pulls scores to 1 and 0 from both sides
        assert by_real.sign().equal((real - 1).sign()) and by_fake.sign().equal(fake.sign())
    else:
        assert (by_real <= 0).all() and (by_fake >= 0).all() and (by_generated < 0).all()


def test_minimax_saturates_where_the_discriminator_wins_and_non_saturating_does_not() -> None:
    lost = torch.full((1, 1), -20.0, requires_grad=True)
    names = ("minimax", "non_saturating")
    values = {name: loss(name).of_generator(lost, lost) for name in names}
    slopes = {name: torch.autograd.grad(value.sum(), lost)[0].item() for name, value in values.items()}
    assert abs(slopes["minimax"]) < 1e-8 and slopes["non_saturating"] == pytest.approx(-1)
    assert values["minimax"].item() == pytest.approx(0, abs=1e-8)
    assert values["non_saturating"].item() == pytest.approx(20)


@NAMES
@pytest.mark.parametrize("size", [1000.0, -1000.0])
def test_nothing_overflows(name: str, size: float) -> None:
    real, fake = (torch.full((1, 3), sign * size, requires_grad=True) for sign in (1, -1))
    for value in (LOSSES[name].discriminator(real, fake), LOSSES[name].of_generator(real, fake)):
        assert value.isfinite().all()
        assert all(slope.isfinite().all() for slope in torch.autograd.grad(value.sum(), fake))


@pytest.mark.parametrize(
    "names",
    [["minimax"] * 3, ["minimax", "non_saturating", "minimax"], ["wgan", "relativistic", "hinge"], ["lsgan"] * 3],
)
def test_a_stack_of_losses_gives_each_member_its_own(names: list[str]) -> None:
    real, fake = scores("real"), scores("fake")
    stacked = StackedLoss.of(names)
    assert stacked.relative == ("relativistic" in names)
    for member, name in enumerate(names):
        alone = LOSSES[name].of_generator(real, fake)[member]
        assert stacked.generator(real, fake)[member] == alone
        assert stacked.discriminator(real, fake)[member] == LOSSES[name].discriminator(real, fake)[member]
        slopes = [torch.autograd.grad(value, fake)[0] for value in (stacked.generator(real, fake)[member], alone)]
        torch.testing.assert_close(*slopes)


def test_an_unknown_loss_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown loss 'minmax'. Did you mean 'minimax'"):
        StackedLoss.of(["minimax", "minmax"])
