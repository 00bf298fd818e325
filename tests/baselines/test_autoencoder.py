"""The autoencoder, and the Gaussian fitted to its codes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from baselines.autoencoder import Autoencoder, gaussian
from harness.errors import InputError
from harness.training.feed import Feed
from harness.training.loop import OfLatents, State

Made = Callable[..., Autoencoder]
FeedOf = Callable[..., Feed]
TrainedState = Callable[..., State]
TINY = {"code": 3, "hidden": [16]}


@pytest.fixture(scope="module")
def autoencoder(baseline_of: Made) -> Autoencoder:
    """A stack whose codes are counted in the last 4 of 12 iterations."""
    return baseline_of("autoencoder", 0, 1, baseline=TINY | {"phases": [2, 1]})


def test_the_gaussian_is_that_of_all_codes() -> None:
    codes = torch.randn(2, 50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 7
    mean, factor = gaussian(codes.sum(1), codes.mT @ codes, 50)
    torch.testing.assert_close(mean, codes.mean(1))
    expected = torch.stack([own.T.cov(correction=0) for own in codes])
    torch.testing.assert_close(factor @ factor.mT, expected, rtol=1e-4, atol=1e-4)
    assert factor.equal(factor.tril())


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_few_or_equal_codes_have_a_gaussian_too(spread: float) -> None:
    codes = 4 + spread * torch.randn(1, 3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, factor = gaussian(codes.sum(1), codes.mT @ codes, 3)
    assert factor.isfinite().all() and (factor.diagonal(dim1=1, dim2=2) > 0).all()
    expected = codes[0].T.cov(correction=0)
    torch.testing.assert_close((factor @ factor.mT)[0], expected, rtol=0, atol=1e-4)


def test_a_member_that_has_diverged_stops_no_other() -> None:
    codes = torch.randn(2, 50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sums, products = codes.sum(1), codes.mT @ codes
    _, alone = gaussian(sums[1:], products[1:], 50)
    sums[0], products[0] = torch.nan, torch.nan
    assert gaussian(sums, products, 50)[1][1:].equal(alone)


def test_weights_rest_while_codes_are_counted(autoencoder: Autoencoder, digits_feed: FeedOf) -> None:
    feed, state = digits_feed(autoencoder), autoencoder.init()
    for iteration in range(8):
        autoencoder.step(state, feed.batch(iteration), iteration)
    assert not state["moments"]["products"].any()
    before = {name: tensor.clone() for name, tensor in state["model"].items()}
    batches = [autoencoder.vectors(feed.batch(iteration)) for iteration in range(8, 12)]
    codes = autoencoder.encoder(before, torch.cat(batches, 1)).detach()
    for iteration in range(8, 12):
        autoencoder.step(state, digits_feed(autoencoder, iteration).batch(iteration), iteration)
    changed = {name for name, tensor in state["model"].items() if not tensor.equal(before[name])}
    assert changed == {"codes.mean", "codes.factor"}
    torch.testing.assert_close(state["model"]["codes.mean"], codes.mean(1))
    covariance = torch.stack([own.T.cov(correction=0) for own in codes])
    factor = state["model"]["codes.factor"]
    torch.testing.assert_close(factor @ factor.mT, covariance, rtol=1e-4, atol=1e-6)


def test_every_weight_is_trained(autoencoder: Autoencoder, trained_state: TrainedState) -> None:
    before, after = autoencoder.init()["model"], trained_state(autoencoder)["model"]
    assert all((before[name] != after[name]).flatten(1).any(1).all() for name in before)


def test_codes_of_samples_have_the_fitted_moments(autoencoder: Autoencoder, trained_state: TrainedState) -> None:
    state = trained_state(autoencoder)
    model = state["model"]
    z = autoencoder.latents(20_000)
    codes = model["codes.mean"][:, None] + z @ model["codes.factor"].mT
    expected = autoencoder.decoder(model, codes[:, :50]).sigmoid().detach()
    torch.testing.assert_close(autoencoder.sample(state, 50).flatten(2), expected)
    covariance = model["codes.factor"] @ model["codes.factor"].mT
    scale = covariance.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]
    found = torch.stack([own.T.cov() for own in codes.detach()])
    assert ((found - covariance).abs() < 0.05 * scale).all()


def test_samples_are_images_of_latents(autoencoder: Autoencoder, trained_state: TrainedState) -> None:
    assert isinstance(autoencoder, OfLatents)
    state, z = trained_state(autoencoder), autoencoder.latents(9, first=4)
    assert z.shape == (2, 9, 3) and autoencoder.prior.size == 3
    assert autoencoder.images_at(state, z, None, first=4).equal(autoencoder.sample(state, 9, first=4))


def test_before_the_end_codes_are_standard_normal(autoencoder: Autoencoder, trained_state: TrainedState) -> None:
    state = trained_state(autoencoder, 11)
    z = autoencoder.latents(5)
    expected = autoencoder.decoder(state["model"], z).sigmoid().detach()
    torch.testing.assert_close(autoencoder.sample(state, 5).flatten(2), expected)


def test_training_lowers_the_cross_entropy(baseline_of: Made, digits_feed: FeedOf) -> None:
    autoencoder = baseline_of("autoencoder", 0, 1, iterations=60, optimizer={"lr": 0.01}, baseline=TINY)
    feed, state = digits_feed(autoencoder), autoencoder.init()
    rows = torch.stack([autoencoder.step(state, feed.batch(i), i)[0] for i in range(60)])
    assert (rows[-10:].mean(0) < rows[:10].mean(0) - 1).all()


def test_phases_need_iterations(baseline_of: Made) -> None:
    with pytest.raises(InputError, match="iterations = 1 leaves one of 2 phases without any; take more"):
        baseline_of("autoencoder", iterations=1)
