"""What holds for every data set."""

import subprocess
import sys

import numpy as np
import pytest

from harness import images
from harness.errors import InputError, UnknownName

NO_FILES = ["digits", "gaussian-1d", "ring-8", "grid-25"]


def splits_of(data):
    return [data.train, data.validation, data.test]


@pytest.fixture(scope="module", params=NO_FILES)
def data(request):
    return images.load(request.param, [])


def test_images_are_values_in_the_unit_interval(data):
    for split in splits_of(data):
        values = images.unit(split.images)
        assert values.dtype == np.float32 and values.shape == (len(split), *data.shape)
        assert values.min() >= 0 and values.max() <= 1


def test_arrays_are_writable_and_contiguous_as_torch_wants_them(data):
    assert all(split.images.flags.writeable and split.images.flags.c_contiguous for split in splits_of(data))


def test_labels_count_from_zero_to_the_number_of_classes(data):
    for split in splits_of(data):
        if data.classes is None:
            assert split.labels is None
        else:
            assert split.labels.dtype == np.int64 and split.labels.shape == (len(split),)
            assert set(split.labels.tolist()) == set(range(data.classes))


def test_a_second_load_gives_the_same_content_hash(data):
    assert images.load(data.name, []).content_hash == data.content_hash


def test_content_hashes_tell_the_data_sets_apart():
    assert len({images.load(name, []).content_hash for name in NO_FILES}) == len(NO_FILES)


def test_content_hash_sees_one_changed_pixel_one_changed_label_and_the_order_of_splits():
    pixels, labels = np.zeros((4, 1, 2, 2), np.uint8), np.arange(4)
    changed = pixels.copy()
    changed[3, 0, 1, 1] = 1
    variants = [
        [images.Split(pixels, labels), images.Split(changed)],
        [images.Split(changed), images.Split(pixels, labels)],
        [images.Split(pixels, labels), images.Split(pixels)],
        [images.Split(pixels, labels[::-1]), images.Split(changed)],
        [images.Split(pixels), images.Split(changed)],
    ]
    assert len({images.image_set.content_hash(splits) for splits in variants}) == len(variants)


def test_content_hash_ignores_byte_order_and_memory_layout():
    pixels = np.random.default_rng(0).random((3, 1, 4, 4), np.float32)
    layouts = [pixels, pixels.astype(">f4"), np.asfortranarray(pixels)]
    assert len({images.image_set.content_hash([images.Split(layout)]) for layout in layouts}) == 1


def test_unit_divides_bytes_by_255_and_leaves_float32_alone():
    pixels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(images.unit(pixels), np.arange(256, dtype=np.float32) / np.float32(255))
    values = np.array([0.25, 1], np.float32)
    assert images.unit(values) is values
    with pytest.raises(TypeError, match="float64"):
        images.unit(np.zeros(3))


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match="unknown dataset 'mnits'. Did you mean 'mnist'"):
        images.load("mnits", [])


@pytest.mark.parametrize("source", ["npz", "npz:", "folder"])
def test_a_source_that_needs_a_path_says_so(source):
    with pytest.raises(InputError, match=r"needs a path; write '(npz|folder):PATH'"):
        images.load(source, [])


@pytest.mark.parametrize("source", [*NO_FILES, "mnist", "cifar10"])
def test_a_source_that_takes_no_path_says_so(source):
    with pytest.raises(InputError, match=f"'{source}' takes no path, but 'x' was given"):
        images.load(f"{source}:x", [])


def test_importing_the_package_imports_nothing_heavy():
    heavy = "{'torch', 'torchvision', 'sklearn', 'scipy', 'pandas', 'PIL'}"
    code = f"import sys, harness.images; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
