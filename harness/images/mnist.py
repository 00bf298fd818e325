"""mnist: 70,000 handwritten digits of 28 x 28 pixels, from the four original files."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataMissing
from harness.images.download import found
from harness.images.image_set import ImageSet, Split, content_hash
from harness.images.places import refuse_path

RAW = Path("MNIST", "raw")  # torchvision's layout

# The unpacked files: sha256 and the shape of the array behind the header.
FILES: dict[str, tuple[str, tuple[int, ...]]] = {
    "train-images-idx3-ubyte": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        (60_000, 1, 28, 28),
    ),
    "train-labels-idx1-ubyte": ("65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", (60_000,)),
    "t10k-images-idx3-ubyte": (
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        (10_000, 1, 28, 28),
    ),
    "t10k-labels-idx1-ubyte": ("ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", (10_000,)),
}


def load(path: str | None, folders: Sequence[Path]) -> ImageSet:
    """MNIST as uint8 (n, 1, 28, 28): train the first 50,000 training images, validation their last 10,000, test 10,000.

    The four files are looked for in MNIST/raw under each of `folders`, packed (.gz) or unpacked, and only read; where
    none has all of them, torchvision downloads them into the first.

    Errors: DataMissing where a file is damaged (before anything is downloaded), or none is there and none can be
    downloaded.

    Source: Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits. The split is that of Goodfellow
    et al. (2014).
    """
    refuse_path("mnist", path)
    packed = [f"{name}.gz" for name in FILES]
    arrays = found("MNIST", packed, layout=RAW, folders=folders, read=read_files, fetch=fetch)
    images, test_images = arrays["train-images-idx3-ubyte"], arrays["t10k-images-idx3-ubyte"]
    labels, test_labels = (arrays[f"{part}-labels-idx1-ubyte"].astype(np.int64) for part in ("train", "t10k"))
    train = Split(images[:50_000], labels[:50_000])
    validation = Split(images[50_000:], labels[50_000:])
    test = Split(test_images, test_labels)
    return ImageSet(
        name="mnist",
        shape=(1, 28, 28),
        train=train,
        validation=validation,
        test=test,
        content_hash=content_hash([train, validation, test]),
        classes=10,
    )


def read_files(raw: Path) -> dict[str, NDArray[np.uint8]]:
    """The arrays of those of MNIST's files that lie in a folder; a packed file is taken before an unpacked one.

    Errors: DataMissing for a file that is not exactly MNIST's.
    """
    arrays = {}
    for name, (sha256, shape) in FILES.items():
        packed = raw / f"{name}.gz"
        file = packed if packed.exists() else raw / name
        if not file.exists():
            continue
        try:
            content = gzip.decompress(file.read_bytes()) if file == packed else file.read_bytes()
        except (OSError, EOFError, zlib.error) as error:
            raise DataMissing(f"{file} cannot be read ({error}); delete it or replace it by the original.") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise DataMissing(f"{file} is not MNIST's file of that name; delete it or replace it by the original.")
        # A header of four bytes and four a dimension comes before the values. A copy, because bytes are read-only.
        arrays[name] = np.frombuffer(content, np.uint8)[-int(np.prod(shape)) :].reshape(shape).copy()
    return arrays


def fetch(folder: Path) -> None:
    """Let torchvision download MNIST into a folder."""
    from torchvision.datasets import MNIST

    MNIST(folder, download=True)
