from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as Reference
from torch import Tensor

from baselines import Baseline
from baselines.k_means import nearest
from harness.draws import Draws
from harness.errors import InputError
from harness.images import ImageSet, unit
from harness.training.feed import Feed
from harness.training.loop import State

Made = Callable[..., Baseline]
CLUSTERS = 30


def first_images(method: Baseline, digits_feed: Callable[..., Feed], n: int) -> np.ndarray:
    """The first images that the first member sees."""
    feed, size = digits_feed(method), method.task.batch_size
    batches = [method.vectors(feed.batch(i))[0] for i in range(-(-n // size))]
    return torch.cat(batches)[:n].numpy()


@pytest.mark.parametrize("epochs", [1, 4])
def test_whole_epochs_are_iterations_of_lloyd_over_all_training_images(
    epochs: int, baseline_of: Made, digits_feed: Callable[..., Feed], digits: ImageSet
) -> None:
    images = unit(digits.train.images[np.arange(len(digits.train))]).reshape(len(digits.train), -1).astype(float)
    batches = -(-epochs * len(images) // 20)  # the last one runs into the next epoch
    method = baseline_of("k-means", 3, iterations=batches + 7)
    feed, state = digits_feed(method), method.init()
    distances = torch.stack([method.step(state, feed.batch(i), i)[0, 0] for i in range(batches + 7)])
    start = first_images(method, digits_feed, CLUSTERS)
    reference = Reference(CLUSTERS, init=start, n_init=1, max_iter=epochs, tol=0, algorithm="lloyd")
    reference.fit(images)
    np.testing.assert_allclose(state["model"]["centroids"][0], reference.cluster_centers_, atol=1e-12)
    assert state["model"]["counts"].sum() == len(images)
    assert distances[-7:].mean() * len(images) == pytest.approx(reference.inertia_, rel=0.1)


def test_less_than_an_epoch_moves_the_centroids_once(baseline_of: Made, digits_feed: Callable[..., Feed]) -> None:
    method = baseline_of("k-means", iterations=10, batch_size=20)
    feed, state = digits_feed(method), method.init()
    for iteration in range(9):
        method.step(state, feed.batch(iteration), iteration)
    images = first_images(method, digits_feed, 200)
    assert np.array_equal(state["model"]["centroids"][0], images[:CLUSTERS])
    method.step(state, feed.batch(9), 9)
    labels = nearest(torch.from_numpy(images)[None], torch.from_numpy(images[None, :CLUSTERS]))[0].numpy()
    means = [images[labels == cluster].mean(0) for cluster in range(CLUSTERS)]
    np.testing.assert_allclose(state["model"]["centroids"][0], means, atol=1e-12)


def test_the_nearest_centroid_is_the_same_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = Draws([0, 1], dtype=torch.float64)
    rows, centroids = draws.uniform("rows", 0, 50, 7), draws.uniform("centroids", 0, 9, 7)
    found = nearest(rows, centroids)
    assert found.equal(torch.cdist(rows, centroids).argmin(2))
    monkeypatch.setattr("baselines.k_means._DISTANCES", 60)
    assert nearest(rows, centroids).equal(found)


@pytest.fixture
def clusters(baseline_of: Made, trained_state: Callable[..., State]) -> Callable[..., tuple[Baseline, State]]:
    """Makes clusters of few images, the last without any."""

    def made(*, weighted: bool) -> tuple[Baseline, State]:
        method = baseline_of("k-means", 0, 1, baseline={"clusters": 5, "weighted": weighted})
        state = trained_state(method)
        state["model"]["counts"].copy_(torch.tensor([30.0, 10.0, 0.0, 60.0, 0.0]))
        return method, state

    return made


def shares(samples: Tensor, centroids: Tensor) -> list[list[float]]:
    """How often each centroid comes among the samples of each member."""
    equal = (samples.flatten(2)[:, :, None] == centroids[:, None]).all(-1)
    return equal.double().mean(1).tolist()


def test_a_centroid_is_drawn_as_often_as_images_belong_to_it(
    clusters: Callable[..., tuple[Baseline, State]],
) -> None:
    method, state = clusters(weighted=True)
    for found in shares(method.sample(state, 4000), state["model"]["centroids"]):
        assert found == pytest.approx([0.3, 0.1, 0.0, 0.6, 0.0], abs=0.03)
        assert found[2] == found[4] == 0


def test_centroids_come_in_turn_where_they_have_no_weight(clusters: Callable[..., tuple[Baseline, State]]) -> None:
    method, state = clusters(weighted=False)
    samples = method.sample(state, 10, first=3)
    assert shares(samples, state["model"]["centroids"]) == [[0.2] * 5] * 2
    assert samples[:, 2].flatten(1).equal(state["model"]["centroids"][:, 0])


def test_an_empty_cluster_stays_where_it_is(baseline_of: Made, digits_feed: Callable[..., Feed]) -> None:
    method = baseline_of("k-means", iterations=61, baseline={"clusters": 3})
    feed, state = digits_feed(method), method.init()
    method.step(state, feed.batch(0), 0)
    for total in state["sums"].values():
        total[:, 1] = 0
    state["model"]["centroids"][:, 1] = 9.0  # far from all images
    for iteration in range(1, 61):
        method.step(state, feed.batch(iteration), iteration)
    assert (state["model"]["centroids"][:, 1] == 9.0).all() and (state["model"]["counts"][:, 1] == 0).all()
    assert (state["model"]["centroids"][:, [0, 2]] < 1).all()


def test_more_clusters_than_images_are_refused(baseline_of: Made) -> None:
    with pytest.raises(InputError, match=r"clusters = 30: 1 iterations of 20 images bring fewer"):
        baseline_of("k-means", iterations=1)
    method = baseline_of("k-means", iterations=100, baseline={"clusters": 2000})
    with pytest.raises(InputError, match=r"clusters = 2000: there are \d+ training images; take less"):
        method.init()
