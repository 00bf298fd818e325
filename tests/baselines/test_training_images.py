from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from baselines import Baseline
from harness.images import ImageSet, unit
from harness.training.feed import Feed
from harness.training.loop import State

Made = Callable[..., Baseline]


def places(samples: torch.Tensor, digits: ImageSet) -> list[list[int]]:
    """Which training image each sample is, to the bit."""
    images = unit(digits.train.images[np.arange(len(digits.train))])
    known = {image.tobytes(): place for place, image in enumerate(images)}
    return [[known[image.numpy().tobytes()] for image in member.float()] for member in samples]


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_samples_are_training_images_none_twice_and_others_for_other_seeds(
    precision: str, baseline_of: Made, trained_state: Callable[..., State], digits: ImageSet
) -> None:
    controls = baseline_of("training-images", 0, 1, baseline={"images": 90}, precision=precision)
    one, other = places(controls.sample(trained_state(controls), 90), digits)
    assert len(set(one)) == len(set(other)) == 90
    assert set(one) != set(other)


def test_all_training_images_are_held_after_an_epoch_and_come_again_and_again(
    baseline_of: Made, trained_state: Callable[..., State], digits: ImageSet
) -> None:
    size = len(digits.train)
    controls = baseline_of("training-images", iterations=80, baseline={"images": 10_000})
    [found] = places(controls.sample(trained_state(controls), size + 5), digits)
    assert sorted(found[:size]) == list(range(size))
    assert found[size:] == found[:5]


def test_fewer_iterations_bring_fewer_images_and_samples_walk_through_those_that_are_there(
    baseline_of: Made, digits_feed: Callable[..., Feed]
) -> None:
    controls = baseline_of("training-images", iterations=3, batch_size=20)
    feed, state = digits_feed(controls), controls.init()
    mean = controls.sample(state, 2)
    assert mean.flatten(2).equal(controls.mean_vector()[:, None].expand(-1, 2, -1))
    held = [float(controls.step(state, feed.batch(i), i)) for i in range(2)]
    assert held == [20, 40]
    assert controls.sample(state, 40, first=40).equal(controls.sample(state, 40))
