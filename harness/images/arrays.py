"""npz: a user's own images as arrays in one .npz file."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from harness.errors import InputError, UnknownName
from harness.images.image_set import ImageSet, Split, content_hash, count_classes
from harness.images.places import find

IMAGE_KEYS = ("train_images", "validation_images", "test_images")
LABEL_KEYS = ("train_labels", "validation_labels", "test_labels")
CHANNELS = (1, 3)

# What numpy and zipfile raise for a file that is damaged or no .npz, found by changing random bytes of one.
DAMAGED = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, tokenize.TokenError)


def load(path: str | None, folders: Sequence[Path]) -> ImageSet:
    """The images of an .npz file: keys train_images, test_images and, if wanted, validation_images and *_labels.

    Images are uint8, or floats in [0, 1] (which become float32), of shape (n, h, w), (n, h, w, c) or (n, c, h, w).
    Four axes are channels last where the last has length 1 or 3 and the second has not, else channels first. Labels
    are integers from 0, shape (n,). Without validation_images the last tenth of the training images is the validation
    split. Keys with other endings (class_names, say) are ignored, and never unpickled.

    Errors: InputError that names file and key; DataMissing where there is no such file.
    """
    file = find("npz", path, folders=folders)
    arrays = read_arrays(file)
    images = {key: as_images(arrays[key], where=f"{file}, key {key}") for key in IMAGE_KEYS if key in arrays}
    labels = {key: as_labels(arrays[key], where=f"{file}, key {key}") for key in LABEL_KEYS if key in arrays}
    for key in ("train_images", "test_images"):
        if key not in images:
            raise InputError(f"{file} has no key {key}; add it, an array of shape (n, h, w) or (n, h, w, c).")
    first = images["train_images"]
    for key, array in images.items():
        if (array.shape[1:], array.dtype) != (first.shape[1:], first.dtype):
            raise InputError(
                f"{file}: {key} holds {array.dtype} images of shape {array.shape[1:]} (channels first), train_images "
                f"{first.dtype} ones of shape {first.shape[1:]}; make them alike."
            )
    for label_key, image_key in zip(LABEL_KEYS, IMAGE_KEYS, strict=True):
        if label_key in labels and len(labels[label_key]) != len(images.get(image_key, ())):
            raise InputError(
                f"{file}: {label_key} has {len(labels[label_key])} labels for the {len(images.get(image_key, ()))} "
                f"images of {image_key}; give one label an image."
            )
    train = Split(first, labels.get("train_labels"))
    if "validation_images" in images:
        validation = Split(images["validation_images"], labels.get("validation_labels"))
    else:
        train, validation = split_last_tenth(first, labels.get("train_labels"), where=str(file))
    test = Split(images["test_images"], labels.get("test_labels"))
    splits = (train, validation, test)
    channels, height, width = first.shape[1:]
    return ImageSet(
        name=f"npz:{file.name}",
        shape=(channels, height, width),
        train=train,
        validation=validation,
        test=test,
        content_hash=content_hash(splits),
        classes=count_classes(splits),
    )


def read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file's known keys. Nothing in it is unpickled.

    Errors: InputError for a file that is no .npz or is damaged, for arrays of objects, and for an unknown key of
    images, which would otherwise be left out in silence.
    """
    try:
        # Opened here, because numpy leaves a file that it cannot read open.
        with open(file, "rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, NpzFile):
                raise InputError(f"{file} is a single array, not an .npz file; write it with numpy.savez.")
            for key in archive.files:
                if key.endswith("images") and key not in IMAGE_KEYS:
                    raise UnknownName("key", key, IMAGE_KEYS, where=str(file))
            known = [key for key in archive.files if key in IMAGE_KEYS + LABEL_KEYS]
            return {key: read_array(archive, key, file=file) for key in known}
    except DAMAGED as error:
        raise InputError(f"{file} cannot be read as an .npz file ({error}); write it with numpy.savez.") from error


def read_array(archive: NpzFile, key: str, *, file: Path) -> NDArray[Any]:
    """One array of an open .npz file."""
    try:
        array: NDArray[Any] = archive[key]
    except DAMAGED as error:
        raise InputError(f"{file}, key {key}: {error}; write plain arrays of numbers.") from error
    return array


def as_images(array: NDArray[Any], *, where: str) -> NDArray[Any]:
    """Images as uint8 or float32 (n, c, h, w); `where` names them in the errors."""
    if array.ndim not in (3, 4) or array.size == 0:
        raise InputError(f"{where}: shape {array.shape}; images are (n, h, w), (n, h, w, c) or (n, c, h, w).")
    if np.issubdtype(array.dtype, np.floating):
        smallest, largest = array.min(), array.max()
        # Written so that NaN fails.
        if not (smallest >= 0 and largest <= 1):
            raise InputError(
                f"{where}: values from {smallest:g} to {largest:g}; floats lie in [0, 1] (else store uint8)."
            )
        array = array.astype(np.float32)
    elif array.dtype != np.uint8:
        raise InputError(f"{where}: dtype {array.dtype}; images are uint8 or floats in [0, 1].")
    if array.ndim == 3:
        array = array[:, None]
    elif array.shape[1] not in CHANNELS and array.shape[3] in CHANNELS:
        array = np.moveaxis(array, 3, 1)
    elif array.shape[1] not in CHANNELS:
        raise InputError(f"{where}: shape {array.shape}; neither the second axis nor the last is 1 or 3 channels.")
    return np.ascontiguousarray(array)


def as_labels(array: NDArray[Any], *, where: str) -> NDArray[np.int64]:
    """Labels as int64 (n,); `where` names them in the errors."""
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"{where}: dtype {array.dtype}, shape {array.shape}; labels are integers of shape (n,).")
    labels = array.astype(np.int64)
    if len(labels) and labels.min() < 0:
        raise InputError(f"{where}: label {labels.min()}; labels count from 0.")
    return labels


def split_last_tenth(images: NDArray[Any], labels: NDArray[np.int64] | None, *, where: str) -> tuple[Split, Split]:
    """Train and validation, the latter being the last tenth (one image at least)."""
    n = len(images) - max(1, len(images) // 10)
    if n == 0:
        raise InputError(f"{where}: train_images has one image; give two or more, or add validation_images.")
    if labels is None:
        return Split(images[:n]), Split(images[n:])
    return Split(images[:n], labels[:n]), Split(images[n:], labels[n:])
