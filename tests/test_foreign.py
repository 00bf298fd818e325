"""Samples from elsewhere: each source gives what it holds, and says what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.export import Dim

from harness import foreign
from harness.errors import InputError, UnknownName
from harness.foreign import read
from harness.images import ImageSet, Split, unit

Array = NDArray[Any]

BYTES = np.random.default_rng(0).integers(0, 256, (7, 1, 4, 6), dtype=np.uint8)
FLOATS = BYTES.astype(np.float32) / 255
RGB = np.random.default_rng(1).integers(0, 256, (7, 3, 4, 6), dtype=np.uint8)


def image_set(images: Array, *, jpeg: bool = False) -> ImageSet:
    """A data set of these images in each split: all, the first half, all but the first."""
    splits = Split(images), Split(images[: len(images) // 2]), Split(images[1:])
    channels, height, width = images.shape[1:]
    return ImageSet("tiny", (channels, height, width), *splits, content_hash="0", jpeg=jpeg)


TINY = image_set(BYTES)


def saved(path: Path, array: Array) -> str:
    if path.suffix == ".npz":
        np.savez(path, images=array)
    else:
        np.save(path, array)
    return str(path)


def pictures(path: Path, images: Array, *, first: int = 0, suffix: str = ".png") -> str:
    """A folder of images (n, c, h, w) as files."""
    path.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images, start=first):
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        Image.fromarray(pixels).save(path / f"{number:05}{suffix}")
    return str(path)


def sorted_rows(images: Array) -> list[bytes]:
    return sorted(image.tobytes() for image in images)


# Images of the data set


def test_training_images_are_random_ones_each_once_before_any_twice() -> None:
    found = read("training-images", TINY, 14, seed=1)
    assert found.images.dtype == np.uint8 and not (found.images[:7] == BYTES).all()
    for half in (found.images[:7], found.images[7:]):
        assert sorted_rows(half) == sorted_rows(BYTES)
    assert not (read("training-images", TINY, 14, seed=2).images == found.images).all()


def test_training_images_are_all_where_no_number_is_asked_for_but_ten_thousand_at_most() -> None:
    assert sorted_rows(read("training-images", TINY, None).images) == sorted_rows(BYTES)
    many = image_set(np.zeros((10_005, 1, 1, 1), np.uint8))
    assert len(read("training-images", many, None).images) == len(read("test-images", many, None).images) == 10_000


def test_images_of_other_splits_are_their_first() -> None:
    assert (read("test-images", TINY, None).images == BYTES[1:]).all()
    assert (read("test-images", TINY, 3).images == BYTES[1:4]).all()
    assert (read("validation-images", TINY, 2).images == BYTES[:2]).all()
    with pytest.raises(InputError, match=r"validation-images of tiny holds 3 images, 4 were asked for"):
        read("validation-images", TINY, 4)


def test_images_of_a_jpeg_data_set_are_marked() -> None:
    for source in (*foreign.COMPANIONS, "test-images"):
        assert read(source, image_set(BYTES, jpeg=True), 2).jpeg
        assert not read(source, TINY, 2).jpeg


def test_k_means_gives_means_of_training_images(digits: ImageSet) -> None:
    found = read("k-means", digits, 100)
    assert found.images.shape == (100, 1, 8, 8) and found.images.dtype == np.float32
    assert found.images.min() >= 0 and found.images.max() <= 1
    assert found.source == "k-means, 100 centroids"
    images = unit(digits.train.images[np.arange(len(digits.train))])
    apart = [
        torch.cdist(torch.from_numpy(images.reshape(-1, 64)), torch.from_numpy(centres.reshape(-1, 64))).amin(1).mean()
        for centres in (found.images, read("training-images", digits, 100).images)
    ]
    assert apart[0] < 0.85 * apart[1]


def test_k_means_follows_its_seed(digits: ImageSet) -> None:
    first, same, other = (foreign.k_means(digits, 20, seed=seed) for seed in (0, 0, 1))
    assert (first == same).all() and (first != other).any()


def test_k_means_has_at_most_half_as_many_centroids_as_training_images(digits: ImageSet) -> None:
    assert len(foreign.k_means(digits, 10_000)) == 1197 // 2
    for n, count in ((2000, 2000), (None, 1197)):
        found = read("k-means", digits, n)
        assert (len(found.images), found.source) == (count, f"k-means, {1197 // 2} centroids")
        assert (found.images[1197 // 2 : 1197 - 1] == found.images[: 1197 // 2]).all()


def test_the_gaussian_has_the_moments_of_the_training_images(digits: ImageSet) -> None:
    drawn = foreign.gaussian(digits, 20_000).reshape(20_000, -1)
    images = unit(digits.train.images[np.arange(len(digits.train))]).reshape(-1, 64)
    inner = np.abs(images.mean(0) - 0.5) < 0.2  # pixels that are hardly ever cut off at 0 and 1
    assert inner.sum() > 10
    assert np.abs(drawn.mean(0) - images.mean(0))[inner].max() < 0.03
    correlations = [np.corrcoef(points[:, inner].T) for points in (drawn, images)]
    assert np.abs(correlations[0] - correlations[1]).max() < 0.1
    assert drawn.min() >= 0 and drawn.max() <= 1
    assert (foreign.gaussian(digits, 5) == foreign.gaussian(digits, 9)[:5]).all()


def test_a_companion_is_what_its_source_reads(digits: ImageSet) -> None:
    for name in foreign.COMPANIONS:
        assert (foreign.companion(name, digits, 30, seed=3) == read(name, digits, 30, seed=3).images).all()
    with pytest.raises(UnknownName, match="Did you mean 'k-means'"):
        foreign.companion("kmeans", digits, 30)


# Files of arrays


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
@pytest.mark.parametrize("array", [BYTES, FLOATS, FLOATS.astype(np.float64), FLOATS.astype(np.float16)])
def test_a_file_gives_its_images(tmp_path: Path, suffix: str, array: Array) -> None:
    source = saved(tmp_path / f"own{suffix}", array)
    found = read(source, TINY, None)
    assert found.images.dtype == (np.uint8 if array is BYTES else np.float32)
    assert (found.images == array.astype(found.images.dtype)).all()
    assert (found.source, found.jpeg) == (source, False)
    assert (read(source, TINY, 3).images == found.images[:3]).all()


@pytest.mark.parametrize("array", [BYTES[:, 0], np.moveaxis(BYTES, 1, 3), FLOATS[:, 0]])
def test_other_orders_of_axes_are_taken(tmp_path: Path, array: Array) -> None:
    assert read(saved(tmp_path / "own.npy", array), TINY, None).images.shape == BYTES.shape


def test_a_file_gives_ten_thousand_where_no_number_is_asked_for(tmp_path: Path) -> None:
    data = image_set(np.zeros((4, 1, 1, 1), np.uint8))
    source = saved(tmp_path / "own.npy", np.zeros((10_003, 1, 1, 1), np.uint8))
    assert len(read(source, data, None).images) == 10_000
    assert len(read(source, data, 10_003).images) == 10_003


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (BYTES[:1], r"own\.npy holds 1 images; metrics need at least 2"),
        (BYTES[:0], r"own\.npy holds no images \(shape \(0, 1, 4, 6\)\)"),
        (RGB, r"own\.npy holds images of shape \(3, 4, 6\).* they are RGB, convert them to grey"),
        (BYTES[..., :3], r"own\.npy holds images of shape \(1, 4, 3\), those of tiny have \(1, 4, 6\); resize"),
        (BYTES.reshape(7, -1), r"own\.npy: shape \(7, 24\); images are"),
        (BYTES.astype(np.int64), r"own\.npy holds values of type int64; give uint8, or floats"),
        (2 * FLOATS - 1, r"own\.npy holds values from -1 to .*look like \[-1, 1\]: rescale them by \(x \+ 1\) / 2"),
        (255 * FLOATS, r"look like \[0, 255\]: store them as uint8"),
        (3 * FLOATS - 2, r"own\.npy holds values from -2 to .*; images lie in \[0, 1\]\. Rescale them"),
        (np.where(FLOATS > 0.9, np.nan, FLOATS), r"own\.npy holds values from nan to nan.*Leave out"),
        (np.array([{}, {}]), r"own\.npy is no \.npz or \.npy file of plain numbers"),
    ],
)
def test_arrays_that_are_not_images_of_the_data_set_are_refused(tmp_path: Path, array: Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(saved(tmp_path / "own.npy", array), TINY, None)


def test_more_than_a_file_holds_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"own\.npz holds 7 images, 8 were asked for; ask for at most 7"):
        read(saved(tmp_path / "own.npz", BYTES), TINY, 8)


def test_files_that_are_damaged_or_of_another_kind_are_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path / "own.npz", BYTES)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "own.npz").read_bytes()[:200])
    (tmp_path / "own.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    for name in ("cut.npz", "own.pkl"):
        with pytest.raises(InputError, match=f"{name} is no .npz or .npy file of plain numbers, or is damaged"):
            read(str(tmp_path / name), TINY, None)
    np.savez(tmp_path / "other.npz", samples=BYTES, labels=BYTES)
    with pytest.raises(InputError, match="other.npz has no array `images`; it holds: samples, labels"):
        read(str(tmp_path / "other.npz"), TINY, None)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.npz does not exist; give a file or a folder, or one of: training-im"):
        read(str(tmp_path / "gone.npz"), TINY, None)
    with pytest.raises(UnknownName, match="Did you mean 'training-images'"):
        read("training_images", TINY, None)


@pytest.mark.parametrize("source", ["training-images", "k-means", "own.npz", "own.pt2"])
def test_fewer_than_two_samples_are_refused_before_anything_is_read(source: str) -> None:
    with pytest.raises(InputError, match=f"{source}: 1 samples asked for; metrics need at least 2"):
        read(source, TINY, 1)


# Folders


def test_a_folder_gives_its_images_in_the_order_of_their_paths(tmp_path: Path) -> None:
    source = pictures(tmp_path / "own", BYTES)
    (tmp_path / "own" / "notes.txt").write_text("no image")
    found = read(source, TINY, None)
    assert (found.images == BYTES).all() and found.images.dtype == np.uint8
    assert (found.source, found.jpeg) == (source, False)
    assert (read(source, TINY, 3).images == BYTES[:3]).all()


def test_colour_comes_channels_first(tmp_path: Path) -> None:
    assert (read(pictures(tmp_path / "own", RGB), image_set(RGB), None).images == RGB).all()


def test_subfolders_are_read_all_or_at_random(tmp_path: Path) -> None:
    images = np.arange(240, dtype=np.uint8).reshape(10, 1, 4, 6)
    pictures(tmp_path / "own" / "a" / "b", images[:5])
    source = pictures(tmp_path / "own" / "c", images[5:])
    assert (read(source + "/..", TINY, None).images == images).all()
    drawn = [read(str(tmp_path / "own"), TINY, 5, seed=seed).images for seed in (0, 0, 1)]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()
    places = drawn[0][:, 0, 0, 0] // 24
    assert len(set(places.tolist())) == 5 and places.max() >= 5 > places.min()


def test_jpeg_files_are_told_of(tmp_path: Path) -> None:
    pictures(tmp_path / "own", BYTES)
    source = pictures(tmp_path / "own", BYTES, first=10, suffix=".jpg")
    assert read(source, TINY, None).jpeg
    assert not read(source, TINY, 7).jpeg


def test_folders_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    mixed = pictures(tmp_path / "mixed", BYTES)
    pictures(tmp_path / "mixed", BYTES[..., :5], first=10)
    damaged = pictures(tmp_path / "damaged", BYTES)
    (tmp_path / "damaged" / "00003.png").write_bytes(b"\x89PNG no more")
    (tmp_path / "empty").mkdir()
    for source, data, message in [
        (mixed, TINY, r"00010\.png is 5 x 4 pixels.*make all images alike"),
        (damaged, TINY, r"damaged/00003\.png cannot be read as an image"),
        (str(tmp_path / "empty"), TINY, r"empty holds 0 images; metrics need at least 2"),
        (pictures(tmp_path / "grey", BYTES), image_set(RGB), r"grey holds .*they are grey, convert them to RGB"),
        (pictures(tmp_path / "small", BYTES[..., :3]), TINY, r"small holds images of shape \(1, 4, 3\).*resize"),
    ]:
        with pytest.raises(InputError, match=message):
            read(source, data, None)
    with pytest.raises(InputError, match=r"grey holds 7 images, 9 were asked for"):
        read(str(tmp_path / "grey"), TINY, 9)


# Exported generators


class Pixels(torch.nn.Module):
    """Latents (batch, 4, 6) become pixels, by a function that shows them."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, latents: Tensor) -> Any:
        return self.function(latents[:, None])


def squashed(latents: Tensor) -> Tensor:
    return latents.sigmoid()


def exported(
    path: Path,
    function: Callable[[Tensor], Any] = squashed,
    *,
    batch: Any = "any",
    dtype: torch.dtype = torch.float32,
) -> str:
    """A generator for batches of any size, of a dimension's sizes, or (None) of 4."""
    dynamic = None if batch is None else ({0: Dim("batch") if batch == "any" else batch},)
    example = (torch.zeros(4, 4, 6, dtype=dtype),)
    torch.export.save(torch.export.export(Pixels(function).eval(), example, dynamic_shapes=dynamic), path)
    return str(path)


def latents_of(images: Array) -> Array:
    return np.asarray(np.log(images / (1 - images)))


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> str:
    return exported(tmp_path_factory.mktemp("generator") / "own.pt2")


def test_a_generator_is_loaded_only_where_its_code_is_trusted(generator: str) -> None:
    with pytest.raises(InputError, match=r"own\.pt2 is an exported program.*may run code.*--trust-code"):
        read(generator, TINY, 10)


def test_a_generator_gives_images_of_normal_latents_or_uniform_ones(generator: str) -> None:
    normal, uniform = (read(generator, TINY, 600, trust_code=True, latent=name) for name in ("normal", "uniform"))
    assert normal.images.shape == (600, 1, 4, 6) and normal.images.dtype == np.float32
    assert normal.source == f"{generator}, normal latents, seed 0"
    for found, deviation, largest in ((normal, 1, 5.5), (uniform, 3**-0.5, 1)):
        latents = latents_of(found.images)
        assert abs(latents.mean()) < 0.05 and abs(latents.std() - deviation) < 0.02
        assert 0.9 * largest - 1.2 < np.abs(latents).max() < 1.001 * largest


def test_ten_thousand_are_generated_where_no_number_is_asked_for(generator: str) -> None:
    assert len(read(generator, TINY, None, trust_code=True).images) == 10_000


def test_latents_follow_the_seed_and_not_the_number(generator: str) -> None:
    many, few, other = (
        read(generator, TINY, n, trust_code=True, seed=seed).images for n, seed in ((300, 0), (10, 0), (10, 1))
    )
    assert (many[:10] == few).all() and (few != other).all()
    assert len({image.tobytes() for image in many}) == 300


@pytest.mark.parametrize("batch", [None, Dim("batch", max=7), Dim("batch", min=3, max=400)])
def test_a_fixed_or_limited_batch_gives_the_same_images(generator: str, tmp_path: Path, batch: Any) -> None:
    limited = exported(tmp_path / "limited.pt2", batch=batch)
    found = [read(source, TINY, 10, trust_code=True).images for source in (generator, limited)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


def test_latents_of_free_shape_are_refused(tmp_path: Path) -> None:
    example, free = (torch.zeros(4, 4, 6),), ({0: Dim("batch"), 2: Dim("width")},)
    torch.export.save(torch.export.export(Pixels(squashed), example, dynamic_shapes=free), tmp_path / "free.pt2")
    with pytest.raises(InputError, match=r"free\.pt2 takes latents .*; fix all axes but the first"):
        read(str(tmp_path / "free.pt2"), TINY, 10, trust_code=True)


def test_a_generator_in_float64_is_given_its_own_type(tmp_path: Path) -> None:
    weights = torch.eye(6, dtype=torch.float64)
    source = exported(tmp_path / "double.pt2", lambda latents: squashed(latents @ weights), dtype=torch.float64)
    assert read(source, TINY, 5, trust_code=True).images.dtype == np.float32


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (torch.tanh, r"what .*own\.pt2 generates holds values from -.*look like \[-1, 1\]"),
        (lambda latents: latents.sigmoid().log().log(), r"generates holds values from nan"),
        (lambda latents: latents.sigmoid()[..., :3], r"generates holds images of shape \(1, 4, 3\)"),
        (lambda latents: latents.mean(), r"own\.pt2 does not give an image a latent"),
        (lambda latents: (latents, latents), r"own\.pt2 does not give an image a latent"),
    ],
)
def test_generators_of_something_else_are_refused(
    tmp_path: Path, function: Callable[[Tensor], Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read(exported(tmp_path / "own.pt2", function), TINY, 10, trust_code=True)


class Sum(torch.nn.Module):
    """Takes two inputs."""

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        return one + two


def test_a_generator_of_two_inputs_or_of_integers_is_refused(tmp_path: Path) -> None:
    both = torch.zeros(4, 6), torch.zeros(4, 6)
    torch.export.save(torch.export.export(Sum(), both), tmp_path / "two.pt2")
    exported(tmp_path / "whole.pt2", batch=None, dtype=torch.int64)
    for name in ("two.pt2", "whole.pt2"):
        with pytest.raises(InputError, match=f"{name} takes other input than one tensor of floats"):
            read(str(tmp_path / name), TINY, 10, trust_code=True)


def test_files_that_are_no_generators_are_refused(tmp_path: Path, generator: str) -> None:
    (tmp_path / "text.pt2").write_text("no program")
    np.savez(tmp_path / "arrays.npz", images=BYTES)
    (tmp_path / "arrays.npz").rename(tmp_path / "arrays.pt2")
    for name, message in (("text.pt2", "is no exported program, or is damaged"), ("arrays.pt2", "cannot be loaded")):
        with pytest.raises(InputError, match=f"{name} {message}"):
            read(str(tmp_path / name), TINY, 10, trust_code=True)
    with pytest.raises(UnknownName, match="Did you mean 'normal'"):
        read(generator, TINY, 10, trust_code=True, latent="norml")
