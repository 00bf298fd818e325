"""The numbers that networks see in the place of pixels: another scale, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from harness.errors import InputError
from harness.experiment import PreprocessingSettings
from harness.images import ImageSet, Split, unit

_GCN_NORM = 55.0  # of CIFAR-10's images in the settings of Goodfellow et al. 2014
_SMALLEST_NORM = 1e-4  # of an image that is not of one grey: less is rounding
_BLOCK = 4096
_AVERAGE: dict[str, tuple[float, float]] = {}  # by content hash: a grid's runs ask for the same again and again


class Units(Protocol):
    """A map of images (..., c, h, w) in [0, 1] to what networks see, and of what generators give to images."""

    def of_images(self, images: Tensor) -> Tensor: ...

    def images(self, values: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Original:
    """A toy's points in their original units: offset + scale * unit, per coordinate."""

    offset: tuple[float, ...]
    scale: tuple[float, ...]

    def of_images(self, images: Tensor) -> Tensor:
        return _per_channel(self.offset, images) + _per_channel(self.scale, images) * images

    def images(self, values: Tensor) -> Tensor:
        return (values - _per_channel(self.offset, values)) / _per_channel(self.scale, values)


@dataclass(frozen=True)
class GlobalContrastNormalisation:
    """Each image without its mean, at one Euclidean norm. Goodfellow et al. 2014, published settings (norm 55).

    That forgets the brightness and the contrast (the norm) of each image: `images` gives all those of the average
    training image, and cuts what leaves [0, 1]. With an image's own two numbers `restored` is the inverse.
    """

    norm: float
    brightness: float
    contrast: float

    def of_images(self, images: Tensor) -> Tensor:
        centred = images - images.mean((-3, -2, -1), keepdim=True)
        return self.norm * centred / contrast(centred)

    def images(self, values: Tensor) -> Tensor:
        return self.restored(values, self.brightness, self.contrast).clamp(0, 1)

    def restored(self, values: Tensor, brightness: float | Tensor, contrast: float | Tensor) -> Tensor:
        """Images of this brightness and contrast, not cut."""
        return values * contrast / self.norm + brightness


def contrast(centred: Tensor) -> Tensor:
    """The Euclidean norm of images (..., c, h, w) without their means, 1 where that vanishes: (..., 1, 1, 1)."""
    norms = centred.square().sum((-3, -2, -1), keepdim=True).sqrt()
    return torch.where(norms < _SMALLEST_NORM, torch.ones_like(norms), norms)


def units(settings: PreprocessingSettings | None) -> Units | None:
    """The units of a resolved experiment; None for pixels as they are."""
    if settings is None:
        return None
    constants = settings.constants or {}
    if settings.name == "original_units":
        return Original(constants["offset"], constants["scale"])
    [brightness], [contrast] = constants["brightness"], constants["contrast"]
    return GlobalContrastNormalisation(settings.norm or _GCN_NORM, brightness, contrast)


def resolved(settings: PreprocessingSettings, data: ImageSet) -> PreprocessingSettings:
    """The settings with what the data decides written in.

    Errors: InputError where the data set has no such units.
    """
    if settings.constants is not None:
        raise InputError("preprocessing.constants cannot be set; the harness fills it in.")
    if settings.name == "original_units":
        if data.affine is None:
            raise InputError(f'preprocessing "original_units" is for toys, not for {data.name}; leave it out.')
        if settings.norm is not None:
            raise InputError('preprocessing.norm belongs to the name "gcn"; leave it out.')
        constants = {"offset": data.affine.offset, "scale": data.affine.scale}
    else:
        if data.affine is not None:
            raise InputError(f'preprocessing "gcn" is for images, and {data.name} holds points; leave it out.')
        if data.content_hash not in _AVERAGE:
            _AVERAGE[data.content_hash] = _of_average_image(data.train)
        brightness, mean_contrast = _AVERAGE[data.content_hash]
        constants = {"brightness": (brightness,), "contrast": (mean_contrast,)}
    norm = None if settings.name == "original_units" else settings.norm or _GCN_NORM
    return settings.model_copy(update={"constants": constants, "norm": norm})


def _of_average_image(split: Split) -> tuple[float, float]:
    """Mean brightness and contrast of a split's images, to seven digits: sums round otherwise on other machines."""
    totals = np.zeros(2)
    for start in range(0, len(split), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(split)))
        images = torch.from_numpy(unit(split.images[block])).double()
        means = images.mean((-3, -2, -1), keepdim=True)
        totals += [means.sum().item(), contrast(images - means).sum().item()]
    brightness, mean_contrast = (float(f"{total / len(split):.7g}") for total in totals)
    return brightness, mean_contrast


def _per_channel(numbers: tuple[float, ...], images: Tensor) -> Tensor:
    return images.new_tensor(numbers).view(-1, 1, 1)
