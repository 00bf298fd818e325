from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.errors import InputError, UnknownName
from harness.images import Affine, ImageSet
from harness.metrics import features as features_module
from harness.metrics.extractors import fitting
from harness.metrics.features import Extractor, Features, default_extractor, extract, extractor, quantised
from harness.metrics.points import ALONE, Processes

LEVELS = np.arange(256, dtype=np.uint8)


def random_images(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def digits_extractor() -> Extractor:
    return extractor("classifier-digits")


def equal(one: Features, other: Features) -> bool:
    """Whether all bits agree."""
    assert one.logits is not None and other.logits is not None
    return torch.equal(one.features, other.features) and torch.equal(one.logits, other.logits)


def test_every_level_comes_back_from_the_unit_interval() -> None:
    assert (quantised(LEVELS / np.float32(255)) == LEVELS).all()


@given(arrays(np.float32, (3, 4), elements=st.floats(0, 1, width=32)))
def test_quantised_values_are_the_nearest_levels(images: NDArray[np.float32]) -> None:
    distances = np.abs(quantised(images)[..., None] - 255 * images.astype(np.float64)[..., None])
    assert quantised(images).dtype == np.uint8
    assert distances.max() <= 0.5 + 1e-5


def test_uint8_passes_as_it_is() -> None:
    assert quantised(LEVELS) is LEVELS


@pytest.mark.parametrize(
    "images",
    [
        np.array([0.0, 1.01], np.float32),
        np.array([-0.01, 1.0], np.float32),
        np.array([0.5, np.nan], np.float32),
        np.array([0.5]),
        np.array([3]),
    ],
)
def test_values_outside_the_unit_interval_and_other_types_are_refused(images: NDArray[Any]) -> None:
    with pytest.raises(InputError, match="images"):
        quantised(images)


def test_an_unknown_extractor_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="'classifier-digits'"):
        extractor("classifier-digit")


def test_a_shipped_classifier_gives_64_features_and_class_scores(digits_extractor: Extractor, digits: ImageSet) -> None:
    given_name = (digits_extractor.name, digits_extractor.resize, digits_extractor.feature_layer)
    assert given_name == ("classifier-digits", "none", "64")
    assert (digits_extractor.logits_layer, digits_extractor.classes) == ("logits", 10)
    found = extract(digits_extractor, digits.test.images)
    assert found.logits is not None
    assert (found.features.shape, found.logits.shape) == ((300, 64), (300, 10))
    assert digits.test.labels is not None
    assert float((found.logits.argmax(1).numpy() == digits.test.labels).mean()) >= 0.97


def test_a_fitted_file_gives_an_extractor_whose_name_tells_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    fitting.fit_to_file("digits", file, folders=[], steps=2)
    found = extractor(str(file))
    assert found.name == f"mine@{found.sha256[:8]}"
    assert extractor(str(file), sha256=found.sha256.upper()).sha256 == found.sha256


def test_a_classifier_with_another_hash_than_stated_or_with_other_weights_is_refused() -> None:
    with pytest.raises(InputError, match="not the stated"):
        extractor("classifier-digits", sha256="0" * 64)
    with pytest.raises(InputError, match="takes no other"):
        extractor("classifier-digits", weights=Path("other.pth"))


def test_the_default_is_the_own_classifier_for_grey_and_inception_for_colour(digits: ImageSet) -> None:
    assert default_extractor(digits) == "classifier-digits"
    assert default_extractor(replace(digits, shape=(3, 8, 8))) == "inception-v3-compat"


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ({"name": "npz:mine.npz"}, "--dataset npz:mine.npz -o"),
        ({"content_hash": "0" * 64}, "other content.*--dataset digits -o"),
        ({"shape": (1, 9, 9)}, "other content"),
        ({"shape": (2, 8, 8), "name": "npz:two.npz"}, "--dataset npz:two.npz -o"),
        ({"affine": Affine((0.0,), (1.0,))}, "points"),
    ],
)
def test_data_without_an_own_extractor_says_the_way_out(
    digits: ImageSet, difference: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        default_extractor(replace(digits, **difference))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features_module, "CLASSIFIER_BLOCK", 16)


@pytest.mark.usefixtures("small_blocks")
def test_features_depend_on_the_own_block_alone(digits_extractor: Extractor) -> None:
    images = random_images(0, 53, 1, 8, 8)
    whole = extract(digits_extractor, images)
    block = extract(digits_extractor, images[16:32])
    rest = extract(digits_extractor, images[48:])
    assert whole.logits is not None and block.logits is not None and rest.logits is not None
    assert torch.equal(whole.features[16:32], block.features) and torch.equal(whole.logits[16:32], block.logits)
    assert torch.equal(whole.features[48:], rest.features) and torch.equal(whole.logits[48:], rest.logits)


@pytest.mark.usefixtures("small_blocks")
def test_every_batch_of_the_network_has_the_blocks_size(digits_extractor: Extractor) -> None:
    sizes = []
    hook = digits_extractor.network.register_forward_pre_hook(lambda _, batch: sizes.append(len(batch[0])))
    extract(digits_extractor, random_images(0, 2, 21, 1, 8, 8))
    hook.remove()
    assert sizes == [16] * 4


@pytest.mark.usefixtures("small_blocks")
def test_members_have_the_features_they_have_alone(digits_extractor: Extractor) -> None:
    images = random_images(1, 3, 37, 1, 8, 8)
    together = extract(digits_extractor, images)
    assert together.logits is not None
    assert together.features.shape == (3, 37, 64)
    for member in range(3):
        own = Features(together.features[member], together.logits[member])
        assert equal(own, extract(digits_extractor, images[member]))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("count", [2, 3, 9])  # of 9, two have no block
@pytest.mark.parametrize("shape", [(107, 1, 8, 8), (3, 37, 1, 8, 8)])
def test_any_number_of_processes_gives_the_same_bits(
    digits_extractor: Extractor,
    in_threads: Callable[..., list[Features]],
    count: int,
    shape: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(features_module, "_ROWS_PER_TOTAL", 20)
    images = random_images(2, *shape)
    alone = extract(digits_extractor, images)
    for shared in in_threads(count, lambda processes: extract(digits_extractor, images, processes=processes)):
        assert equal(shared, alone)


@pytest.mark.usefixtures("small_blocks")
def test_processes_share_the_blocks(digits_extractor: Extractor) -> None:
    batches = []
    hook = digits_extractor.network.register_forward_pre_hook(lambda *_: batches.append(1))
    extract(digits_extractor, random_images(3, 80, 1, 8, 8), processes=Processes(1, 2, lambda values: values))
    hook.remove()
    assert len(batches) == 2


def test_a_negative_zero_loses_its_sign_as_it_does_in_a_sum() -> None:
    gathered = features_module._gathered(torch.full((1, 2, 3), -0.0), ALONE, torch.device("cpu"))
    assert not gathered.signbit().any()


def test_arrays_tensors_and_images_on_demand_agree(digits_extractor: Extractor) -> None:
    images = random_images(4, 30, 1, 8, 8)
    unit = images / np.float32(255)

    class OnDemand:
        file_hashes: tuple[str, ...] = ()

        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, indices: NDArray[np.int64], /) -> NDArray[np.uint8]:
            return images[indices]

    expected = extract(digits_extractor, images)
    for given_images in (unit, torch.from_numpy(unit), torch.from_numpy(images), OnDemand()):
        assert equal(extract(digits_extractor, given_images), expected)


class ChannelMeans(nn.Module):
    """The mean of each channel, of images of three."""

    def forward(self, images: Tensor) -> tuple[Tensor]:
        assert images.shape[1:] == (3, 8, 8)
        return (images.float().mean((2, 3)),)


COLOUR = Extractor("means", "0", "none", ("means",), (3,), None, ChannelMeans(), torch.device("cpu"))


def test_grey_images_are_tiled_for_a_network_of_three_channels() -> None:
    images = random_images(5, 60, 1, 8, 8)
    found = extract(COLOUR, images)
    assert found.logits is None
    expected = torch.from_numpy(images).float().mean((2, 3)).repeat(1, 3)
    torch.testing.assert_close(found.features, expected)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 1, 9, 9), r"\(1, 8, 8\).*\(1, 9, 9\)"),
        ((4, 3, 8, 8), r"\(1, 8, 8\).*\(3, 8, 8\)"),
        ((4, 8, 8), r"\(n, c, h, w\)"),
        ((0, 1, 8, 8), "no images"),
        ((2, 0, 1, 8, 8), "no images"),
        ((0, 2, 1, 8, 8), "no images"),
    ],
)
def test_images_of_another_shape_and_none_are_refused(
    digits_extractor: Extractor, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        extract(digits_extractor, random_images(6, *shape))


def test_two_channels_are_refused_by_a_network_of_three() -> None:
    with pytest.raises(InputError, match="2 channels"):
        extract(COLOUR, random_images(7, 4, 2, 8, 8))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_agrees_with_the_cpu(digits_extractor: Extractor, digits: ImageSet) -> None:
    on_cuda = extract(extractor("classifier-digits", device="cuda"), digits.test.images)
    torch.testing.assert_close(
        on_cuda.features, extract(digits_extractor, digits.test.images).features, rtol=1e-4, atol=1e-4
    )


def test_any_number_of_threads_gives_the_same_bits(digits_extractor: Extractor) -> None:
    images = random_images(5, 1200, 1, 8, 8)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(extract(digits_extractor, images))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert equal(found[0], found[1]) and equal(found[0], found[2])
