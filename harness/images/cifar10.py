"""cifar10: 60,000 colour photographs of 32 x 32 pixels, from the six original batches."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataMissing
from harness.images.download import found
from harness.images.image_set import ImageSet, Split, content_hash
from harness.images.places import refuse_path

BATCHES = Path("cifar-10-batches-py")  # as the archive and torchvision have it

# md5 of the files, as torchvision has them.
TRAIN = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
}
VALIDATION = {"data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb"}
TEST = {"test_batch": "40351d587109b95175f43aff81a1287e"}
FILES = TRAIN | VALIDATION | TEST

Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (n, 3, 32, 32) and labels (n,)."""


def load(path: str | None, folders: Sequence[Path]) -> ImageSet:
    """CIFAR-10 as uint8 (n, 3, 32, 32): train 40,000, validation the last 10,000 training images, test 10,000.

    The six batches of the version for Python are looked for in cifar-10-batches-py under each of `folders`, and only
    read; where none has all of them, torchvision downloads them into the first.

    Errors: DataMissing where a file is damaged (before anything is downloaded), or none is there and none can be
    downloaded.

    Source: A. Krizhevsky, Learning multiple layers of features from tiny images (2009). The split is that of the
    published settings of Goodfellow et al. (2014): batches 1 to 4, and batch 5.
    """
    refuse_path("cifar10", path)
    batches = found("CIFAR-10", list(FILES), layout=BATCHES, folders=folders, read=read_files, fetch=fetch)
    train, validation, test = (split(batches, names) for names in (TRAIN, VALIDATION, TEST))
    return ImageSet(
        name="cifar10",
        shape=(3, 32, 32),
        train=train,
        validation=validation,
        test=test,
        content_hash=content_hash([train, validation, test]),
        classes=10,
    )


def split(batches: Mapping[str, Batch], names: Iterable[str]) -> Split:
    """The images and labels of some batches, in order."""
    images, labels = zip(*(batches[name] for name in names), strict=True)
    # Joined, batches keep the layout that they were pickled in.
    return Split(np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels))


def read_files(folder: Path) -> dict[str, Batch]:
    """Those of the batches that lie in a folder, by name.

    Errors: DataMissing for a file that is not exactly CIFAR-10's.
    """
    batches = {}
    for name, md5 in FILES.items():
        file = folder / name
        if not file.exists():
            continue
        try:
            content = file.read_bytes()
        except OSError as error:
            raise DataMissing(f"{file} cannot be read ({error}); delete it or replace it by the original.") from error
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            raise DataMissing(f"{file} is not CIFAR-10's file of that name; delete it or replace it by the original.")
        batches[name] = read_batch(content)
    return batches


def read_batch(content: bytes) -> Batch:
    """The images and labels in the bytes of a batch, a pickle of Python 2.

    Errors: pickle.UnpicklingError where it names anything but what makes numpy's arrays.
    """
    batch = _ArraysAlone(io.BytesIO(content), encoding="latin1").load()
    return batch["data"].reshape(-1, 3, 32, 32), np.array(batch["labels"], np.int64)


class _ArraysAlone(pickle.Unpickler):
    """Unpickles arrays and plain values.

    torchvision trusts an md5, which tells damage but was not made to hold off those who forge; a pickle that can name
    nothing but an array runs nobody's code, whatever its hash.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"a batch of images has no use for {module}.{name}")
        return _ALLOWED[module, name]


def _array(kind: type, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """What numpy's pickles start an array from."""
    return np.ndarray(shape, dtype)


_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _array,
}


def fetch(folder: Path) -> None:
    """Let torchvision download and unpack CIFAR-10's archive into a folder; nothing is unpickled."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_and_extract_archive

    download_and_extract_archive(CIFAR10.url, folder, filename=CIFAR10.filename, md5=CIFAR10.tgz_md5)
