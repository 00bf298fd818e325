import io
import zipfile

import numpy as np
import pytest

from harness import images
from harness.errors import DataMissing, InputError, UnknownName

GREY = np.random.default_rng(1).integers(0, 256, size=(30, 6, 5), dtype=np.uint8)
RGB = np.random.default_rng(2).integers(0, 256, size=(30, 6, 5, 3), dtype=np.uint8)


def load(folder, **arrays):
    np.savez(folder / "own.npz", **arrays)
    return images.load("npz:own.npz", [folder])


def test_grey_images_come_back_with_one_channel(tmp_path):
    data = load(tmp_path, train_images=GREY, test_images=GREY[:4])
    assert data.shape == (1, 6, 5) and data.name == "npz:own.npz" and data.classes is None
    np.testing.assert_array_equal(data.test.images, GREY[:4, None])


@pytest.mark.parametrize("axes", [(0, 1, 2, 3), (0, 3, 1, 2)])
def test_channels_may_be_last_or_first(tmp_path, axes):
    stored = RGB.transpose(axes)
    data = load(tmp_path, train_images=stored, test_images=stored)
    assert data.shape == (3, 6, 5) and data.test.images.flags.c_contiguous
    np.testing.assert_array_equal(data.test.images, RGB.transpose(0, 3, 1, 2))


def test_three_axes_that_could_be_channels_are_read_as_channels_first(tmp_path):
    stored = np.zeros((4, 3, 6, 1), np.uint8)
    assert load(tmp_path, train_images=stored, test_images=stored).shape == (3, 6, 1)


def test_without_validation_images_the_last_tenth_of_train_is_taken(tmp_path):
    labels = np.arange(30, dtype=np.int32)
    data = load(tmp_path, train_images=GREY, train_labels=labels, test_images=GREY, test_labels=labels)
    np.testing.assert_array_equal(data.train.images, GREY[:27, None])
    np.testing.assert_array_equal(data.validation.images, GREY[27:, None])
    assert data.validation.labels.tolist() == [27, 28, 29] and data.classes == 30


def test_validation_images_are_taken_where_they_are_given(tmp_path):
    data = load(tmp_path, train_images=GREY, validation_images=GREY[:7], test_images=GREY[:4])
    assert [len(data.train), len(data.validation), len(data.test)] == [30, 7, 4]


def test_float64_images_become_float32(tmp_path):
    data = load(tmp_path, train_images=GREY / 255, test_images=GREY / 255)
    assert data.train.images.dtype == np.float32
    np.testing.assert_allclose(data.test.images, images.unit(GREY)[:, None], atol=1e-7)


def test_class_names_are_ignored_even_when_they_are_objects(tmp_path):
    names = np.array(["cat", None], dtype=object)
    assert len(load(tmp_path, train_images=RGB, test_images=RGB, class_names=names).train) == 27


def test_digits_saved_as_npz_have_the_content_hash_of_digits(tmp_path):
    digits = images.load("digits", [])
    arrays = {}
    for name in ("train", "validation", "test"):
        split = getattr(digits, name)
        arrays |= {f"{name}_images": split.images, f"{name}_labels": split.labels}
    assert load(tmp_path, **arrays).content_hash == digits.content_hash


def test_the_content_hash_knows_nothing_of_the_path(tmp_path):
    first = load(tmp_path, train_images=GREY, test_images=GREY)
    (tmp_path / "own.npz").rename(tmp_path / "other.npz")
    assert images.load(f"npz:{tmp_path}/other.npz", []).content_hash == first.content_hash


def test_the_first_folder_that_holds_the_file_is_taken(tmp_path):
    for name, n in (("a", 10), ("b", 20)):
        (tmp_path / name).mkdir()
        load(tmp_path / name, train_images=GREY[:n], test_images=GREY)
    folders = [tmp_path / "none", tmp_path / "b", tmp_path / "a"]
    assert len(images.load("npz:own.npz", folders).train) == 18


def test_a_missing_file_names_the_places_looked_at(tmp_path):
    with pytest.raises(DataMissing, match=r"nothing at .*a/x\.npz or .*b/x\.npz"):
        images.load("npz:x.npz", [tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_images": GREY}, "has no key test_images"),
        ({"test_images": GREY}, "has no key train_images"),
        ({"train_images": GREY, "val_images": GREY}, "unknown key 'val_images'"),
        ({"train_images": GREY.astype(np.int64)}, "key train_images: dtype int64"),
        ({"train_images": GREY * 1.0}, r"key train_images: values from 0 to 255; floats lie in \[0, 1\]"),
        ({"train_images": GREY / 255 - 0.5}, "values from -0.5 to 0.5"),
        ({"train_images": np.full((3, 2, 2), np.nan)}, "values from nan to nan"),
        ({"train_images": GREY[0]}, r"key train_images: shape \(6, 5\)"),
        ({"train_images": GREY[:0]}, r"shape \(0, 6, 5\)"),
        ({"train_images": np.zeros((3, 6, 5, 4), np.uint8)}, "neither the second axis nor the last"),
        ({"train_images": np.array([GREY, None], dtype=object)}, "key train_images: Object arrays cannot be loaded"),
        ({"train_images": GREY, "test_images": GREY[:, :5]}, r"test_images holds uint8 images of shape \(1, 5, 5\)"),
        ({"train_images": GREY, "test_images": GREY / 255}, "test_images holds float32 images"),
        ({"train_images": GREY[:1], "test_images": GREY}, "train_images has one image"),
        ({"train_images": GREY, "test_images": GREY, "test_labels": np.arange(4)}, "4 labels for the 30 images"),
        ({"train_images": GREY, "test_images": GREY, "validation_labels": np.arange(4)}, "4 labels for the 0 images"),
        ({"train_images": GREY, "test_images": GREY, "test_labels": np.ones(30)}, "key test_labels: dtype float64"),
        ({"train_images": GREY, "test_images": GREY, "test_labels": np.arange(30) - 1}, "test_labels: label -1"),
    ],
)
def test_a_bad_array_is_refused_with_file_and_key(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path, **arrays)
    assert "own.npz" in str(caught.value)


def test_a_misspelt_key_names_the_nearest(tmp_path):
    with pytest.raises(UnknownName, match="Did you mean 'validation_images'"):
        load(tmp_path, train_images=GREY, valid_images=GREY)


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04 the start of one"])
def test_a_file_that_is_no_npz_is_refused(tmp_path, content):
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"own\.npz cannot be read as an \.npz file"):
        images.load("npz:own.npz", [tmp_path])


def test_a_single_array_is_refused(tmp_path):
    np.save(tmp_path / "own.npy", GREY)
    with pytest.raises(InputError, match="is a single array"):
        images.load("npz:own.npy", [tmp_path])


def test_damaged_values_are_refused_with_their_key(tmp_path):
    np.savez_compressed(tmp_path / "own.npz", train_images=GREY, test_images=GREY)
    content = bytearray((tmp_path / "own.npz").read_bytes())
    content[300:340] = bytes(40)
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"own\.npz, key train_images"):
        images.load("npz:own.npz", [tmp_path])


def test_a_header_that_is_no_header_is_refused_with_its_key(tmp_path):
    array = io.BytesIO()
    np.save(array, GREY)
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive:
        archive.writestr("train_images.npy", array.getvalue().replace(b"5), }", b"5),  "))
    with pytest.raises(InputError, match=r"own\.npz, key train_images"):
        images.load("npz:own.npz", [tmp_path])
