"""The normal distribution and PPCA, both of the training images' mean and covariance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from baselines import Baseline
from baselines.baseline import Task
from baselines.gaussian import Gaussian, GaussianSettings
from baselines.ppca import Ppca, PpcaSettings
from harness.errors import InputError
from harness.training.feed import Batch, Feed
from harness.training.loop import State
from harness.training.processes import Processes

Made = Callable[..., Baseline]


def seen(method: Baseline, digits_feed: Callable[..., Feed], iterations: int) -> np.ndarray:
    """The images of so many iterations, of the first member: (n, width)."""
    feed = digits_feed(method)
    return torch.cat([method.vectors(feed.batch(i))[0] for i in range(iterations)]).numpy()


def test_the_gaussian_has_the_mean_and_covariance_of_all_images_seen(
    baseline_of: Made, digits_feed: Callable[..., Feed], trained_state: Callable[..., State]
) -> None:
    method = baseline_of("gaussian", 0, 1, iterations=70)  # into the second epoch
    images = seen(method, digits_feed, 70)
    model = trained_state(method)["model"]
    np.testing.assert_allclose(model["mean"][0], images.mean(0), atol=1e-12)
    np.testing.assert_allclose((model["root"] @ model["root"].mT)[0], np.cov(images.T), atol=1e-12)
    assert (images.std(0) == 0).any()  # pixels without variance are no difficulty
    assert model["images"].tolist() == [1400, 1400]


def test_the_history_tells_the_variance_of_the_images_so_far(
    baseline_of: Made, digits_feed: Callable[..., Feed]
) -> None:
    method = baseline_of("gaussian")
    feed, state = digits_feed(method), method.init()
    for iteration in range(3):
        [[variance]] = method.step(state, feed.batch(iteration), iteration)
        images = seen(method, digits_feed, iteration + 1)
        assert float(variance) == pytest.approx(images.var(0, ddof=1).sum())


def test_a_snapshot_before_the_end_is_of_the_images_up_to_then(
    baseline_of: Made, digits_feed: Callable[..., Feed], trained_state: Callable[..., State]
) -> None:
    method = baseline_of("gaussian")
    images = seen(method, digits_feed, 5)
    model = method.sampler(trained_state(method, 5))["model"]
    np.testing.assert_allclose(model["mean"][0], images.mean(0), atol=1e-12)
    np.testing.assert_allclose((model["root"] @ model["root"].mT)[0], np.cov(images.T), atol=1e-12)
    mean_image = method.sample(method.init(), 3)
    assert mean_image.flatten(2).allclose(method.mean_vector()[:, None])


@pytest.mark.parametrize("components", [1, 5, 60, 63])
def test_ppca_is_that_of_scikit_learn(
    components: int, baseline_of: Made, digits_feed: Callable[..., Feed], trained_state: Callable[..., State]
) -> None:
    method = baseline_of("ppca", iterations=60, baseline={"components": components})
    reference = PCA(components, svd_solver="full").fit(seen(method, digits_feed, 60))
    model = {name: tensor[0].numpy() for name, tensor in trained_state(method)["model"].items()}
    np.testing.assert_allclose(model["mean"], reference.mean_, atol=1e-12)
    np.testing.assert_allclose(model["noise_std"] ** 2, reference.noise_variance_, atol=1e-12)
    covariance = model["weight"] @ model["weight"].T + model["noise_std"] ** 2 * np.eye(64)
    np.testing.assert_allclose(covariance, reference.get_covariance(), atol=1e-12)


POINTS = torch.tensor([[0.30, 0.42], [0.52, 0.50], [0.44, 0.58], [0.56, 0.62]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("of", "settings", "expected"),
    [
        (Gaussian, GaussianSettings(), np.cov(POINTS.T)),
        (Ppca, PpcaSettings(components=1), np.cov(POINTS.T)),
        (Ppca, PpcaSettings(components=1, noise=False), None),
    ],
)
def test_samples_have_the_covariance_of_the_model(
    of: type[Baseline], settings: GaussianSettings | PpcaSettings, expected: np.ndarray | None
) -> None:
    points = 0.5 + (POINTS - POINTS.mean(0)) / 2  # far enough from the ends of [0, 1]
    task = Task(
        seeds=(0,),
        image_shape=(2, 1, 1),
        mean_image=points.mean(0).view(2, 1, 1),
        training_images=4,
        iterations=1,
        batch_size=4,
        optimizer=None,
        processes=Processes("float64"),
    )
    method = of(settings, task)
    state = method.init()
    method.step(state, Batch(points.view(1, 4, 2, 1, 1)), 0)
    samples = method.sample(state, 40_000).flatten(2)[0].numpy()
    np.testing.assert_allclose(samples.mean(0), points.mean(0), atol=2e-3)
    if expected is None:  # on a line, with the first direction's variance less the noise's
        values = np.linalg.eigvalsh(np.cov(points.T))
        expected = np.diff(values)[0] * 4
        np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(samples.T)) * 4, [0, expected], atol=5e-4)
    else:
        np.testing.assert_allclose(np.cov(samples.T) * 4, expected, atol=5e-4)


def test_as_many_components_as_numbers_are_refused(baseline_of: Made) -> None:
    with pytest.raises(InputError, match=r"components = 64: images have 64 numbers; take at most 63"):
        baseline_of("ppca", baseline={"components": 64})
