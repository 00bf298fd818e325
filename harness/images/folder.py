"""folder: a user's own images as files in a folder, decoded when they are asked for."""

from __future__ import annotations

import hashlib
import io
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.errors import InputError, UnknownName
from harness.images.image_set import ImageSet, Split, content_hash
from harness.images.places import find

if TYPE_CHECKING:
    from PIL.Image import Image

SPLITS = ("train", "validation", "test")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
CHANNELS = {"L": 1, "RGB": 3}  # Pillow's names of 8-bit grey and colour
JPEG_FORMATS = ("JPEG", "MPO")

Classes = dict[Path, str | None]  # files, sorted, with the names of their classes


@dataclass(frozen=True)
class Header:
    """What one reading of an image file tells without decoding its pixels."""

    size: tuple[int, int]  # width, height
    mode: str
    format: str | None
    sha256: str


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Image files of one shape (c, h, w); indexing decodes them as uint8 (n, c, h, w)."""

    paths: tuple[Path, ...]
    file_hashes: tuple[str, ...]
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: NDArray[np.int64], /) -> NDArray[np.uint8]:
        images = np.empty((len(indices), *self.shape), np.uint8)
        for image, index in zip(images, indices, strict=True):
            image[:] = decode(self.paths[index])
        return images


def load(path: str | None, folders: Sequence[Path]) -> ImageSet:
    """The images of a folder DIR: 8-bit grey or RGB, all of one size. Other files than images are left out.

    Splits are DIR/train, DIR/validation and DIR/test. Without DIR/validation, a tenth of DIR/train is the validation
    split; without any of them DIR is split, 80 % train, 10 % validation, 10 % test, by the hash of each file's path
    inside it, so that a new file moves no other. Images that lie in subfolders (of a split or of DIR) have these as
    their classes, 0, 1, ... in the order of their names. Images are sorted by path; pixels are as stored, unrotated.

    Errors: InputError that names the file or the split; UnknownName for a folder beside the splits; DataMissing
    where DIR is absent.
    """
    folder = find("folder", path, folders=folders)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; for a file of arrays write 'npz:FILE.npz'.")
    files = split_files(folder)
    for split, members in files.items():
        if not members:
            raise InputError(f"{folder}: no images for the {split} split; put some into {folder / split}.")
    headers = {file: read_header(file) for members in files.values() for file in members}
    shape = common_shape(headers)
    classes = sorted({name for members in files.values() for name in members.values() if name is not None})
    train, validation, test = splits = [
        Split(
            ImageFiles(tuple(members), tuple(headers[file].sha256 for file in members), shape),
            labels_of(members, classes),
        )
        for members in files.values()
    ]
    return ImageSet(
        name=f"folder:{folder.name}",
        shape=shape,
        train=train,
        validation=validation,
        test=test,
        content_hash=content_hash(splits),
        classes=len(classes) or None,
        jpeg=any(header.format in JPEG_FORMATS for header in headers.values()),
    )


def split_files(folder: Path) -> dict[str, Classes]:
    """Each split's files and classes."""
    subfolders = {entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    if not subfolders.intersection(SPLITS):
        files = image_files(folder)
        return {
            "train": with_share(files, folder, low=0, high=0.8),
            "validation": with_share(files, folder, low=0.8, high=0.9),
            "test": with_share(files, folder, low=0.9, high=1),
        }
    for name in sorted(subfolders.difference(SPLITS)):
        raise UnknownName("folder", name, SPLITS, where=str(folder))
    splits = {split: image_files(folder / split) if split in subfolders else {} for split in SPLITS}
    if "validation" not in subfolders:
        files = splits["train"]
        splits["train"] = with_share(files, folder / "train", low=0, high=0.9)
        splits["validation"] = with_share(files, folder / "train", low=0.9, high=1)
    return splits


def with_share(files: Classes, folder: Path, *, low: float, high: float) -> Classes:
    """The files whose share of [0, 1), which their path inside the folder alone decides, lies in [low, high)."""
    return {file: name for file, name in files.items() if low <= share(file.relative_to(folder)) < high}


def share(path: PurePath) -> float:
    """A number in [0, 1), the hash of a path."""
    digest = hashlib.sha256(os.fsencode(path.as_posix())).digest()
    return int.from_bytes(digest[:4]) / 2**32


def image_files(folder: Path) -> Classes:
    """The images in a folder, sorted, without a class; or those in its subfolders, with these as classes.

    Errors: InputError where both are there.
    """
    files: Classes = {}
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder).parts
        if file.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in inside):
            files[file] = inside[0] if len(inside) > 1 else None
    if None in files.values() and len(set(files.values())) > 1:
        name = next(name for name in files.values() if name is not None)
        raise InputError(f"{folder} holds images and a folder of images ({name}); keep to one of the two.")
    return files


def labels_of(files: Classes, classes: Sequence[str]) -> NDArray[np.int64] | None:
    """The place of each file's class among the classes; None where files have no class."""
    numbers = {name: number for number, name in enumerate(classes)}
    labels = [numbers[name] for name in files.values() if name is not None]
    return np.array(labels, np.int64) if labels else None


def read_header(file: Path) -> Header:
    """Size, mode, format and hash of an image file."""
    with opened(file) as (content, image):
        return Header(image.size, image.mode, image.format, hashlib.sha256(content).hexdigest())


def common_shape(headers: Mapping[Path, Header]) -> tuple[int, int, int]:
    """The shape (c, h, w) that all images have.

    Errors: InputError that names the first image of another size or mode, or of one that is neither grey nor RGB.
    """
    first_file, first = next(iter(headers.items()))
    for file, header in headers.items():
        if header.mode not in CHANNELS:
            raise InputError(f"{file} has Pillow mode {header.mode!r}; convert it to 8-bit grey (L) or RGB.")
        if (header.size, header.mode) != (first.size, first.mode):
            raise InputError(f"{file} is {describe(header)}, {first_file} is {describe(first)}; make all images alike.")
    width, height = first.size
    return CHANNELS[first.mode], height, width


def describe(header: Header) -> str:
    """Width, height and mode in words."""
    return f"{header.size[0]} x {header.size[1]} pixels of mode {header.mode}"


def decode(file: Path) -> NDArray[np.uint8]:
    """The pixels of an 8-bit grey or RGB file, uint8 (c, h, w)."""
    with opened(file) as (_, image):
        pixels = np.asarray(image, np.uint8)
    return pixels.reshape(image.height, image.width, -1).transpose(2, 0, 1)


@contextmanager
def opened(file: Path) -> Iterator[tuple[bytes, Image]]:
    """A file's bytes and its image, whose pixels Pillow decodes when they are asked for.

    Errors: InputError that names a file that cannot be read or decoded.
    """
    import PIL.Image

    try:
        content = file.read_bytes()
        with PIL.Image.open(io.BytesIO(content)) as image:
            yield content, image
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, PIL.Image.DecompressionBombError) as error:
        raise InputError(f"{file} cannot be read as an image ({error}); replace it or remove it.") from error
