"""tfd: the Toronto Face Database, grey faces of 48 x 48 pixels, from the file that its keepers give to researchers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataMissing, InputError
from harness.images import matlab
from harness.images.image_set import ImageSet, Split, content_hash

FILE = "TFD_48x48.mat"
SIDE = 48
FOLDS = 5
UNLABELLED, TRAIN, VALIDATION, TEST = range(4)
"""What a fold may say of an image."""
NO_EXPRESSION, EXPRESSIONS = -1, range(1, 8)


def load(path: str | None, folders: Sequence[Path]) -> ImageSet:
    """TFD in one of its five folds, "tfd:0" to "tfd:4", as uint8 (n, 1, 48, 48); "tfd" is fold 0.

    Train is the unlabelled images, the same in all folds; the images that the fold labels for training are left out.
    The labels of validation and test are the seven expressions, 0 to 6. Images are in the file's order. TFD_48x48.mat
    is looked for in each of `folders`, with `images` (n, 48, 48), `folds` (n, 5) of 0 unlabelled, 1 train, 2
    validation, 3 test, and `labs_ex` (n,) of 1 to 7, or -1.

    Errors: InputError for a fold that is none; DataMissing where there is no such file, or what it holds is not that.

    Source: J. Susskind, A. Anderson, G. Hinton, The Toronto face database, UTML TR 2010-001. The layout is the one that
    pylearn2's loader reads, whose default is fold 0; the published settings of Goodfellow et al. (2014) train on its
    set 'unlabeled'.
    """
    fold = fold_of(path)
    file = find(folders)
    images, parts, expressions = read(file, fold)
    train, validation, test = splits = [part(images, expressions, parts == of) for of in (UNLABELLED, VALIDATION, TEST)]
    for name, split in zip(("unlabelled", "validation", "test"), splits, strict=True):
        if not len(split):
            raise DataMissing(f"{file}: fold {fold} has no {name} images; replace the file by the original.")
    return ImageSet(
        name=f"tfd:{fold}",
        shape=(1, SIDE, SIDE),
        train=train,
        validation=validation,
        test=test,
        content_hash=content_hash(splits),
        classes=len(EXPRESSIONS) if test.labels is not None else None,
    )


def fold_of(path: str | None) -> int:
    """The fold that follows the colon of a data set's name."""
    if path is None:
        return 0
    if path not in map(str, range(FOLDS)):
        raise InputError(
            f"data set 'tfd:{path}': its folds are 0 to {FOLDS - 1}; write 'tfd:0', or 'tfd' for the same."
        )
    return int(path)


def find(folders: Sequence[Path]) -> Path:
    """The file in the first of the folders that holds it."""
    places = [folder / FILE for folder in (folders or [Path()])]
    for place in places:
        if place.exists():
            return place
    raise DataMissing(
        f"the Toronto Face Database is not public: get {FILE} from its keepers and put it into {places[0].parent}, or "
        "give the folder that holds it with --data or HARNESS_DATA."
    )


def part(images: NDArray[np.uint8], expressions: NDArray[np.int64], mask: NDArray[np.bool_]) -> Split:
    """The images under a mask, and their labels where all have one."""
    labels = expressions[mask]
    has_all = len(labels) and (labels != NO_EXPRESSION).all()
    return Split(np.ascontiguousarray(images[mask, None]), labels - EXPRESSIONS.start if has_all else None)


def read(file: Path, fold: int) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """The images (n, 48, 48), what the fold says of each (n,), and their expressions (n,)."""
    arrays = read_arrays(file)
    images, folds, expressions = (arrays[key] for key in ("images", "folds", "labs_ex"))
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE):
        raise wrong(file, "images", images, f"uint8 of shape (n, {SIDE}, {SIDE})")
    n = len(images)
    if folds.shape != (n, FOLDS) or not is_of(folds, range(TEST + 1)):
        raise wrong(file, "folds", folds, f"whole numbers from 0 to {TEST} of shape ({n}, {FOLDS})")
    # A MATLAB vector has two axes.
    if expressions.shape not in ((n, 1), (1, n)) or not is_of(expressions, (NO_EXPRESSION, *EXPRESSIONS)):
        raise wrong(file, "labs_ex", expressions, f"{n} whole numbers from 1 to {EXPRESSIONS[-1]}, or {NO_EXPRESSION}")
    return images, folds[:, fold].astype(np.int64), expressions.ravel().astype(np.int64)


def read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays `images`, `folds` and `labs_ex`."""
    try:
        arrays = matlab.arrays(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DataMissing(f"{file} cannot be read as a .mat file ({error}); replace it by the original.") from error
    for key in ("images", "folds", "labs_ex"):
        if key not in arrays:
            raise DataMissing(f"{file} has no array of numbers {key}; replace it by the original.")
    return arrays


def is_of(array: NDArray[Any], values: Sequence[int]) -> bool:
    """Whether an array holds numbers, all of them among `values`."""
    return array.dtype.kind in "iuf" and bool(np.isin(array, values).all())


def wrong(file: Path, key: str, array: NDArray[Any], right: str) -> DataMissing:
    """What to say of an array that is not TFD's."""
    return DataMissing(
        f"{file}: {key} holds {array.dtype} of shape {array.shape}, where TFD has {right}; replace it by the original."
    )
