from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from harness import images
from harness.errors import InputError
from harness.experiment import Experiment, PreprocessingSettings, validate
from harness.images import ImageSet, unit
from harness.plan import resolved
from harness.training.feed import Feed, TrainingImages
from harness.training.gan import Gan
from harness.training.processes import Processes
from harness.training.units import GlobalContrastNormalisation, contrast, units
from harness.training.units import resolved as with_constants

GCN = {"name": "gcn"}
LINEAR = {"output": "linear"}


def of(name: str, data: ImageSet) -> PreprocessingSettings:
    return with_constants(validate(PreprocessingSettings, {"name": name}, where="test"), data)


def test_normalised_images_have_no_mean_and_the_published_norm(digits: ImageSet) -> None:
    seen_as = units(of("gcn", digits))
    assert seen_as is not None
    x = torch.from_numpy(unit(digits.train.images[np.arange(100)])).double()
    y = seen_as.of_images(x)
    assert y.mean((1, 2, 3)).abs().max() < 1e-12
    torch.testing.assert_close(y.flatten(1).norm(dim=1), torch.full((100,), 55.0, dtype=torch.float64))


def test_an_images_own_brightness_and_contrast_restore_it(digits: ImageSet) -> None:
    seen_as = units(of("gcn", digits))
    assert isinstance(seen_as, GlobalContrastNormalisation)
    x = torch.from_numpy(unit(digits.train.images[np.arange(100)])).double()
    brightness = x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(seen_as.restored(seen_as.of_images(x), brightness, contrast(x - brightness)), x)


def test_the_constants_are_those_of_the_average_training_image(digits: ImageSet) -> None:
    constants = of("gcn", digits).constants
    assert constants is not None
    x = unit(digits.train.images[np.arange(len(digits.train))]).astype(np.float64).reshape(len(digits.train), -1)
    norms = np.linalg.norm(x - x.mean(1, keepdims=True), axis=1)
    assert constants["brightness"][0] == pytest.approx(x.mean(), rel=1e-6)
    assert constants["contrast"][0] == pytest.approx(norms.mean(), rel=1e-6)


def test_an_image_of_one_grey_becomes_zeros() -> None:
    grey = torch.full((2, 1, 3, 3), 0.7)
    assert GlobalContrastNormalisation(55.0, 0.5, 1.0).of_images(grey).abs().max() < 1e-3


def test_points_go_to_their_original_units_and_back() -> None:
    ring = images.load("ring-8", [])
    seen_as = units(of("original_units", ring))
    assert seen_as is not None
    x = torch.from_numpy(ring.train.images[:200])
    y = seen_as.of_images(x)
    assert (y.view(200, 2).norm(dim=1) - 2).abs().max() < 0.2 * math.sqrt(2)
    torch.testing.assert_close(seen_as.images(y), x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_networks_see_the_units_and_samples_are_images(
    placement: str, digits: ImageSet, gan_of: Callable[..., Gan], feed_of: Callable[..., Feed]
) -> None:
    gan = gan_of({"preprocessing": GCN, "generator": {"hidden": [12], **LINEAR}})
    seen = feed_of(gan, 1, placement=placement).batch(0).images
    torch.testing.assert_close(seen.flatten(2).norm(dim=2), torch.full((1, 20), 55.0, dtype=torch.float64))
    state = gan.init()
    gan.step(state, feed_of(gan, 1).batch(0), 0)
    samples = gan.sample(state, 50)
    assert samples.min() >= 0 and samples.max() <= 1


def test_training_images_as_an_experiment_wants_them(digits: ImageSet, resolve: Callable[..., Experiment]) -> None:
    plain, normalised = (
        TrainingImages.of(experiment, digits.train, Processes())
        for experiment in (resolve(), resolve(preprocessing=GCN, generator=LINEAR))
    )
    assert plain.units is None and plain.labels is None
    assert normalised.resident is not None and normalised.resident.min() < -1


def test_a_discriminator_does_not_move_what_is_no_image_in_the_unit_interval(
    resolve: Callable[..., Experiment],
) -> None:
    dcgan = {"model": "dcgan", "generator": {}, "discriminator": {}}
    assert resolve(**dcgan).discriminator.model["signed_input"] is True
    normalised = resolve(**dcgan | {"generator": LINEAR}, preprocessing=GCN)
    assert normalised.discriminator.model["signed_input"] is False


@pytest.mark.parametrize(
    ("dataset", "settings", "message"),
    [
        ("digits", {"preprocessing": {"name": "original_units"}}, "for toys"),
        ("ring-8", {"preprocessing": GCN}, "for images"),
        ("ring-8", {"preprocessing": {"name": "original_units", "norm": 2.0}}, 'belongs to the name "gcn"'),
        ("digits", {"preprocessing": GCN}, 'output = "linear"'),
        ("digits", {"preprocessing": GCN, "generator": LINEAR, "loss": "began"}, "gives pixels in"),
        ("digits", {"preprocessing": GCN | {"constants": {"brightness": [0.5]}}}, "constants cannot be set"),
        (
            "digits",
            {"model": "dcgan", "preprocessing": GCN, "generator": LINEAR, "discriminator": {"signed_input": True}},
            "signed_input moves images",
        ),
        ("digits", {"generator": LINEAR}, "add a preprocessing without bounds"),
    ],
)
def test_what_does_not_fit_is_refused(dataset: str, settings: dict[str, object], message: str) -> None:
    data = {"dataset": dataset, "model": "mlp", "iterations": 1, "optimizer": {"lr": 0.1}} | settings
    with pytest.raises(InputError, match=message):
        resolved(validate(Experiment, data, where="test"), images.load(dataset, []))
