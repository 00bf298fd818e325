"""Generation by a discriminator alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from baselines.baseline import Task
from baselines.energy import Energy, EnergySettings
from harness.errors import InputError
from harness.experiment import OptimizerSettings
from harness.training.feed import Batch, Feed
from harness.training.loop import State
from harness.training.processes import Processes

Made = Callable[..., Energy]
FeedOf = Callable[..., Feed]
MODES = torch.tensor([[0.2, 0.2], [0.8, 0.2], [0.5, 0.8]])


def on_points(iterations: int, **settings: object) -> Energy:
    """A stack of two for points in the unit square."""
    task = Task(
        seeds=(0, 1),
        image_shape=(2, 1, 1),
        mean_image=torch.full((2, 1, 1), 0.5),
        training_images=1000,
        iterations=iterations,
        batch_size=64,
        optimizer=OptimizerSettings(name="Adam", lr=3e-3, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.0),
        processes=Processes("float32"),
    )
    return Energy(EnergySettings.model_validate(settings), task)


def near_modes(iteration: int) -> Batch:
    """Points around the modes with a deviation of 0.02, by member."""
    generator = torch.Generator().manual_seed(iteration)
    chosen = MODES[torch.randint(3, (2, 64), generator=generator)]
    points = chosen + 0.02 * torch.randn(chosen.shape, generator=generator)
    return Batch(points.view(2, 64, 2, 1, 1))


@pytest.fixture(scope="module")
def trained() -> tuple[Energy, State]:
    """A stack that has learnt three modes."""
    energy = on_points(
        400, hidden=(32, 32), round_length=5, negatives=256, kept=0.5, steps=20, step_size=0.01, momentum=0.5
    )
    state = energy.init()
    for iteration in range(400):
        energy.step(state, near_modes(iteration), iteration)
    return energy, state


def test_ascents_find_every_mode(trained: tuple[Energy, State]) -> None:
    energy, state = trained
    samples = energy.sample(state, 500).flatten(2)
    distances, modes = torch.cdist(samples, MODES.expand(2, 3, 2)).min(2)
    shares = torch.stack([(modes == mode).float().mean(1) for mode in range(3)])
    assert (shares > 0.15).all(), shares
    noise = torch.cdist(torch.rand(2, 500, 2), MODES.expand(2, 3, 2)).amin(2)
    assert ((distances < 0.15).float().mean(1) > 0.7).all()
    assert ((noise < 0.15).float().mean(1) < 0.3).all()


def test_the_landscape_is_the_scorers_logit(trained: tuple[Energy, State]) -> None:
    energy, state = trained
    points = torch.rand(20, 2, generator=torch.Generator().manual_seed(0))
    found = energy.landscape(state, points)
    assert found.shape == (2, 20) and not found.requires_grad
    expected = energy.scorer(state["model"], points.repeat(2, 1, 1))[..., 0]
    torch.testing.assert_close(found, expected)


def test_an_ascent_rises_and_stays_within_bounds(trained: tuple[Energy, State]) -> None:
    energy, state = trained
    start = torch.rand(2, 200, 2, generator=torch.Generator().manual_seed(0))
    end = energy.ascend(state["model"], start)
    assert end.min() >= 0 and end.max() <= 1 and not end.requires_grad

    def score(x: Tensor) -> Tensor:
        return energy.scorer(state["model"], x).mean((1, 2))

    assert (score(end) > score(start)).all()


def test_a_single_step_of_ascent_is_the_gradient() -> None:
    energy = on_points(1, hidden=(8,), activation="tanh", steps=1, step_size=0.5)
    model = energy.init()["model"]
    x = torch.full((2, 3, 2), 0.5)
    weights = [model[f"scorer.{number}.{kind}"] for number in range(2) for kind in ("weight", "bias")]
    hidden = torch.tanh(x @ weights[0] + weights[1][:, None])
    slope = ((1 - hidden.square()) * weights[2].mT) @ weights[0].mT
    torch.testing.assert_close(energy.ascend(model, x), x + 0.5 * slope)


def test_negatives_change_where_a_round_begins_and_some_stay() -> None:
    energy = on_points(9, hidden=(8,), round_length=3, negatives=20, kept=0.4, step_size=0.1)
    state = energy.init()
    start = energy.draws.whole().uniform("init/negatives", 0, 20, 2)
    kept = []
    before = state["negatives"]["images"].clone()
    assert before.equal(start)
    for iteration in range(9):
        energy.step(state, near_modes(iteration), iteration)
        now = state["negatives"]["images"]
        kept.append((now == before).all(2).sum(1).tolist())
        before = now.clone()
    assert kept == [[8, 8] if iteration in (3, 6) else [20, 20] for iteration in range(9)]


def test_the_loss_is_logistic(baseline_of: Made, digits_feed: FeedOf) -> None:
    energy = baseline_of("energy", 0, 1, baseline={"negatives": 1})
    state, batch = energy.init(), digits_feed(energy).batch(0)
    real, fake = (
        energy.scorer(state["model"], x)[..., 0].detach() for x in (energy.vectors(batch), state["negatives"]["images"])
    )
    loss, score_real, score_fake = energy.step(state, batch, 0)
    torch.testing.assert_close(loss, -(real.sigmoid().log().mean(1) + (1 - fake.sigmoid()).log().mean(1)))
    torch.testing.assert_close(score_real, real.mean(1))
    torch.testing.assert_close(score_fake, fake.mean(1))


def test_chosen_negatives_are_spread_over_all(baseline_of: Made) -> None:
    energy = baseline_of("energy", 0, 1, batch_size=1000, baseline={"negatives": 64})
    numbers = torch.arange(64, dtype=torch.float64).view(1, 64, 1).repeat(2, 1, 64)
    chosen = energy._chosen(numbers, 0)
    assert chosen.shape == (2, 1000, 64)
    counts = torch.stack([own[:, 0].long().bincount(minlength=64) for own in chosen])
    assert counts.min() > 2 and counts.max() < 40
    assert not chosen[0].equal(chosen[1]) and not chosen.equal(energy._chosen(numbers, 1))


def test_a_pool_that_is_never_renewed_is_refused(baseline_of: Made) -> None:
    with pytest.raises(InputError, match=r"energy.*should have a smaller `kept` or more `negatives`: of 3 none"):
        baseline_of("energy", baseline={"negatives": 3, "kept": 0.9})
