"""digits: 1,797 handwritten digits of 8 x 8 pixels, inside scikit-learn. Nothing to download."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.images.image_set import ImageSet, Split, content_hash
from harness.images.places import refuse_path

HELD_OUT = 600  # half of them for validation, half for the test
SPLIT_SEED = 1797


def load(path: str | None, folders: Sequence[Path]) -> ImageSet:
    """The digits as float32 (n, 1, 8, 8) in steps of 1/16: train 1,197, validation 300, test 300.

    The split is fixed and stratified: each class has its share in every split, to within one image.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), the test part.
    """
    from sklearn.datasets import load_digits

    refuse_path("digits", path)
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    train, validation, test = (Split(images[part], labels[part]) for part in stratified_split(labels))
    return ImageSet(
        name="digits",
        shape=(1, 8, 8),
        train=train,
        validation=validation,
        test=test,
        content_hash=content_hash([train, validation, test]),
        classes=10,
    )


def stratified_split(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """Indices of train, validation and test, each in random order; HELD_OUT indices go to the latter two.

    Built on Philox's raw output alone: unlike the shuffles of numpy and scikit-learn it is the same in every version,
    and with it the content hash and the ids of all runs.
    """
    n = len(labels)
    noise = np.random.Philox(key=SPLIT_SEED).random_raw(n)
    # Class after class, in random order within each: every third is held out, so each class gives its share.
    by_class = np.lexsort((noise, labels))
    is_held_out = np.diff(np.arange(n + 1) * HELD_OUT // n) == 1
    held_out = by_class[is_held_out]
    parts = (by_class[~is_held_out], held_out[0::2], held_out[1::2])
    return tuple(part[np.argsort(noise[part])] for part in parts)
