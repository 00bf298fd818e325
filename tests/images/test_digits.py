import numpy as np

from harness import images
from harness.images.digits import stratified_split

# Runs are identified by it: a change of the split would orphan every run on digits.
CONTENT_HASH = "b0ed01139b4a37a4231e4ac9538310114bc2dfc3ef9409d5fac8ee8dfa3f4145"


def test_digits_have_their_pinned_content():
    assert images.load("digits", []).content_hash == CONTENT_HASH


def test_digits_come_in_three_splits_that_share_no_image():
    data = images.load("digits", [])
    splits = [{image.tobytes() for image in split.images} for split in (data.train, data.validation, data.test)]
    assert [len(split) for split in splits] == [1197, 300, 300]
    assert len(set.union(*splits)) == 1797


def test_digits_keep_all_17_grey_levels():
    values = np.unique(images.load("digits", []).train.images)
    np.testing.assert_array_equal(values, np.arange(17, dtype=np.float32) / 16)


def test_the_split_gives_every_class_its_share():
    labels = np.random.default_rng(3).integers(0, 7, size=1797)
    for part, size in zip(stratified_split(labels), (1197, 300, 300), strict=True):
        expected = np.bincount(labels) * size / 1797
        assert np.abs(np.bincount(labels[part]) - expected).max() <= 1


def test_the_split_is_in_random_order():
    labels = images.load("digits", []).train.labels
    assert np.mean(labels[1:] == labels[:-1]) < 0.15
