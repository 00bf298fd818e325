"""In-domain classifiers: small convolutional networks whose features and class scores stand in for Inception's.

Their weights are .safetensors files that hold their record too; those of some data sets ship with the package. After
`register` torch-fidelity knows these by name, as in `calculate_metrics(feature_extractor="classifier-mnist", ...)`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

from harness.errors import InputError, storage_error
from harness.metrics.extractors import SHIPPED, SUFFIX, WEIGHTS
from harness.runs import write_bytes, write_json

"""The names of the classifiers whose weights ship with the package."""

FEATURES, LOGITS = "64", "logits"  # torch-fidelity's names of the two layers

_WIDTHS = (16, 32, 64)  # channels after each convolution; further ones keep the last
_SMALLEST_SIDE = 3  # in pixels: pooling stops before
_RECORD = "record"  # the one key of the file's metadata: several have no fixed order, so no fixed hash

Size = Annotated[int, Field(ge=1, le=2**16)]
Accuracy = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Record:
    """What a classifier was fitted on, how well it does, and the command that makes it again.

    `content_hash` and `shape` (c, h, w) are the data set's; accuracies are fractions of its held-out images, higher
    is better.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    dataset: str
    content_hash: str
    shape: tuple[Size, Size, Size]
    classes: Size
    validation_accuracy: Accuracy
    test_accuracy: Accuracy
    steps: Annotated[int, Field(ge=1)]
    seed: int
    command: str
    versions: dict[str, str]


class Network(nn.Module):
    """Features (n, 64), after their ReLU, and class scores (n, classes) of images (n, c, h, w) float32 in [0, 1].

    Three convolutions of 3 x 3 or more, each with batch norm and ReLU, and max-pooling by two while the smaller side
    stays at 3 or more; then a linear layer to the features and one to the scores.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        layers: list[nn.Module] = []
        while len(layers) < len(_WIDTHS) or min(height, width) // 2 >= _SMALLEST_SIDE:
            pooled = min(height, width) // 2 >= _SMALLEST_SIDE
            wider = _WIDTHS[min(len(layers), len(_WIDTHS) - 1)]
            layers.append(_convolution(channels, wider, pooled=pooled))
            channels = wider
            height, width = (height // 2, width // 2) if pooled else (height, width)
        self.convolutions = nn.Sequential(*layers)
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, int(FEATURES)), nn.ReLU())
        self.logits = nn.Linear(int(FEATURES), classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        # Channels last: a third of the time on a CPU.
        features = self.features(self.convolutions(images.to(memory_format=torch.channels_last)))
        return features, self.logits(features)


def _convolution(channels: int, wider: int, *, pooled: bool) -> nn.Sequential:
    """A convolution, pooled before its batch norm and ReLU, which then cost a quarter."""
    convolution = nn.Conv2d(channels, wider, 3, padding=1, bias=False)
    return nn.Sequential(
        convolution, nn.MaxPool2d(2) if pooled else nn.Identity(), nn.BatchNorm2d(wider), nn.ReLU(inplace=True)
    ).to(memory_format=torch.channels_last)


class Classifier(FeatureExtractorBase):  # type: ignore[misc]  # torch-fidelity is untyped
    """A fitted network as torch-fidelity takes it: features "64" and "logits" of images uint8 (n, c, h, w).

    A grey one takes one channel, or three that are equal. Computes in float32 with batch norm's running averages.
    `record` is its file's record, `sha256` its file's hash. Without a path, the weights are those that ship under the
    name. The parameters' long names, and that more are passed, are torch-fidelity's.

    Errors: InputError, as for `read`; for images of another type or shape; for an internal type but float32.
    """

    def __init__(
        self,
        name: str,
        features_list: Sequence[str],
        feature_extractor_weights_path: str | None = None,
        feature_extractor_internal_dtype: str | None = None,
        **_: Any,
    ) -> None:
        super().__init__(name, list(features_list))
        if feature_extractor_internal_dtype not in (None, "float32"):
            raise InputError(f"{name} computes in float32, not {feature_extractor_internal_dtype}; leave the type out.")
        path = Path(feature_extractor_weights_path or WEIGHTS / f"{name}{SUFFIX}")
        self.network, self.record, self.sha256 = read(path)
        self.widths = tuple(int(FEATURES) if layer == FEATURES else self.record.classes for layer in features_list)
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        if images.dtype != torch.uint8:
            raise InputError(f"{self.name} takes images as uint8, not {images.dtype}; quantise them first.")
        is_tiled = self.record.shape[0] == 1 and images.ndim == 4 and images.shape[1] == 3
        if is_tiled and bool((images == images[:, :1]).all()):
            images = images[:, :1]
        if tuple(images.shape[1:]) != self.record.shape:
            raise InputError(
                f"{self.name} was fitted on images of shape {self.record.shape} and takes no others; "
                f"these are {tuple(images.shape[1:])}{' and not grey' if is_tiled else ''}."
            )
        features, logits = self.network(images.to(torch.float32) / 255)
        layers = {FEATURES: features, LOGITS: logits}
        return tuple(layers[layer] for layer in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return FEATURES, LOGITS

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return {"isc": LOGITS, "fid": FEATURES, "kid": FEATURES, "prc": FEATURES}[metric]

    @staticmethod
    def can_be_compiled() -> bool:
        return False  # it looks at the values of its input


def register() -> None:
    """Tell torch-fidelity of the shipped classifiers, by name; again does nothing."""
    for name in SHIPPED:
        if FEATURE_EXTRACTORS_REGISTRY.get(name) is not Classifier:
            register_feature_extractor(name, Classifier)


def write(path: Path, network: Network, record: Record) -> None:
    """Write a classifier's weights and record to a .safetensors file, and for people the record and hash beside it.

    Errors: as `storage_error`, where the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    content = bytes_of(tensors, {_RECORD: json.dumps(asdict(record), sort_keys=True)})
    try:
        write_bytes(path, content)
        write_json(path.with_suffix(".json"), {"sha256": hashlib.sha256(content).hexdigest(), **asdict(record)})
    except OSError as error:
        raise storage_error(error, path) from error


def read(path: Path) -> tuple[Network, Record, str]:
    """The classifier in a .safetensors file that `write` wrote, its record, and the file's sha256.

    Errors: InputError for a file that cannot be read, holds something else, or is not the one that the record beside
    it describes.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the classifier {path}: {error.strerror}.") from error
    sha256 = hashlib.sha256(content).hexdigest()
    _check_beside(path, sha256)
    try:
        tensors = tensors_of(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        record = TypeAdapter(Record).validate_json(header["__metadata__"][_RECORD])
        with torch.device("meta"):  # its initial values would be drawn in vain, from a generator that is not ours
            network = Network(record.shape, record.classes)
        network.load_state_dict(tensors, assign=True)
    except (SafetensorError, KeyError, ValidationError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{path} holds no classifier that `harness extractor fit` wrote ({type(error).__name__}: {reason}); "
            "fit it again."
        ) from error
    return network.float().to(memory_format=torch.channels_last), record, sha256


def check_output(path: Path) -> None:
    """Refuse a name beside which `write` would replace a .json file that is no record of a classifier."""
    beside = path.with_suffix(".json")
    try:
        _hash_beside(path)
    except InputError:
        raise InputError(f"{beside} is something else and would be replaced; give another name.") from None


def _check_beside(path: Path, sha256: str) -> None:
    """Refuse a file that is not the one whose hash lies beside it, if any does."""
    expected = _hash_beside(path)
    if expected not in (None, sha256):
        raise InputError(
            f"{path} is damaged: its sha256 is {sha256}, {path.with_suffix('.json').name} beside it says {expected}."
        )


def _hash_beside(path: Path) -> str | None:
    """The hash in the record beside a file, None where there is no record."""
    beside = path.with_suffix(".json")
    try:
        return str(json.loads(beside.read_bytes())["sha256"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{beside}, the record of {path.name}, cannot be read; delete it or fit again.") from error
