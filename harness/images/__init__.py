"""Data sets: one file a source, each a function of one signature, named in SOURCES.

Every image is a value in [0, 1] after `unit`; toys are points under a recorded affine map. Nothing heavier than numpy
is imported before a source needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from harness.errors import UnknownName
from harness.images import arrays, cifar10, digits, folder, mnist, tfd, toys
from harness.images.image_set import Affine, ImageSet, OnDemandImages, Split, unit

__all__ = ["SOURCES", "Affine", "ImageSet", "OnDemandImages", "Split", "load", "unit"]

SOURCES: dict[str, Callable[[str | None, Sequence[Path]], ImageSet]] = {
    "digits": digits.load,
    "mnist": mnist.load,
    "cifar10": cifar10.load,
    "tfd": tfd.load,
    **{name: partial(toys.load, name) for name in toys.MIXTURES},
    "npz": arrays.load,
    "folder": folder.load,
}


def load(dataset: str, folders: Sequence[Path]) -> ImageSet:
    """The data set of that name: "digits", "mnist", "ring-8", "npz:FILE.npz", "folder:DIR", ...

    A path is absolute, or relative to the first of `folders` that holds it.

    Errors: UnknownName; InputError where a path is wanted and missing, or not wanted; DataMissing for absent or
    damaged files; InputError for what a user's own files hold.
    """
    source, colon, path = dataset.partition(":")
    if source not in SOURCES:
        raise UnknownName("dataset", source, SOURCES)
    return SOURCES[source](path if colon else None, folders)
