"""What every data set is: three splits of images with values in [0, 1], and the hash of their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class OnDemandImages(Protocol):
    """Images that are decoded when they are asked for: an array's `len` and indexing, uint8 (n, c, h, w)."""

    @property
    def file_hashes(self) -> Sequence[str]:
        """sha256 of each image's file, in the order of the images."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: NDArray[np.int64], /) -> NDArray[np.uint8]: ...


@dataclass(frozen=True, eq=False)
class Split:
    """Images (n, c, h, w), uint8 or float32 in [0, 1], and their labels int64 (n,) where they have any."""

    images: NDArray[Any] | OnDemandImages
    labels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Affine:
    """A map of points to the unit cube and back, per coordinate: original = offset + scale * unit."""

    offset: tuple[float, ...]
    scale: tuple[float, ...]

    def original(self, images: NDArray[Any]) -> NDArray[np.float64]:
        """Points in original units, float64 (n, d), of images (n, d, 1, 1) in [0, 1]."""
        unit_points = images.reshape(len(images), len(self.offset)).astype(np.float64)
        points: NDArray[np.float64] = np.asarray(self.offset) + np.asarray(self.scale) * unit_points
        return points

    def images(self, points: NDArray[np.float64]) -> NDArray[np.float32]:
        """Images (n, d, 1, 1), float32, of points (n, d) in original units; the cube's points have values in [0, 1]."""
        unit_points: NDArray[np.float64] = (points - np.asarray(self.offset)) / np.asarray(self.scale)
        return unit_points.astype(np.float32).reshape(*points.shape, 1, 1)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A data set in three splits that share no image.

    `shape` is (c, h, w). `content_hash` is the sha256 of what a trained function depends on: images and labels of all
    splits, in order, never names or paths. `affine` is set for toys, whose points it maps to original units. `classes`
    is None where there are no labels. `jpeg` says that images came from JPEG files, so are not what a lossless copy
    holds.
    """

    name: str
    shape: tuple[int, int, int]
    train: Split
    validation: Split
    test: Split
    content_hash: str
    affine: Affine | None = None
    classes: int | None = None
    jpeg: bool = False


def unit(images: NDArray[Any]) -> NDArray[np.float32]:
    """Images as float32 in [0, 1]: uint8 is divided by 255, float32 passes as it is. Any shape.

    Errors: TypeError for another dtype.
    """
    if images.dtype == np.float32:
        return images
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    raise TypeError(f"images are uint8 or float32, not {images.dtype}")


def content_hash(splits: Iterable[Split]) -> str:
    """sha256, in hexadecimal, of the splits' images and labels: dtypes, shapes and bytes, or the hashes of files."""
    digest = hashlib.sha256()
    for split in splits:
        for part in (split.images, split.labels):
            if part is None:
                digest.update(b"none;")
            elif isinstance(part, np.ndarray):
                # Little-endian bytes, so that every machine finds the same hash.
                content = np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("<"))
                digest.update(f"{content.dtype.str} {content.shape};".encode())
                digest.update(content.data)
            else:
                digest.update(f"files {len(part)};{''.join(part.file_hashes)}".encode())
    return digest.hexdigest()


def count_classes(splits: Iterable[Split]) -> int | None:
    """One more than the largest label of all splits; None where no split has labels."""
    labels = [split.labels for split in splits if split.labels is not None]
    return 1 + max(int(part.max()) for part in labels) if labels else None
