"""Features and class scores of images: what every metric but Parzen's compares.

Images become uint8 by one function, `quantised`, and go through an extractor in blocks of a fixed size, because the
kernels of float32 products depend on a batch's shape: so an image's features do not depend on how many processes
share the work, nor on other members.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.errors import InputError, UnknownName
from harness.images import ImageSet, OnDemandImages
from harness.metrics.extractors import SHIPPED, SUFFIX, WEIGHTS
from harness.metrics.points import ALONE, Processes
from harness.singly import map_singly

if TYPE_CHECKING:  # torch-fidelity takes seconds to import: only what uses an extractor waits for it
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase

    from harness.metrics.extractors.classifier import Classifier

Images = NDArray[Any] | OnDemandImages | Tensor

CLASSIFIER_BLOCK = 500
PRETRAINED_BLOCK = 50
_ROWS_PER_TOTAL = 4096


@dataclass(frozen=True)
class Extractor:
    """A network that gives images features, and all about it that a metric's key must say.

    `name` tells its weights too: those that are not the published or shipped ones follow as "@" and the first eight
    digits of their sha256. `resize` is what the network does to an image's size. `layers` and `widths` are those of
    the network's outputs in order: the features and, where it has class scores, the scores. `shape` is the only image
    shape (c, h, w) it takes, None where it takes any.
    """

    name: str
    sha256: str
    resize: str
    layers: tuple[str, ...]
    widths: tuple[int, ...]
    shape: tuple[int, int, int] | None
    network: FeatureExtractorBase
    device: torch.device

    @property
    def feature_layer(self) -> str:
        return self.layers[0]

    @property
    def logits_layer(self) -> str | None:
        """The layer of class scores; None where there are none, so no Inception score."""
        return self.layers[1] if len(self.layers) > 1 else None

    @property
    def classes(self) -> int | None:
        return self.widths[1] if len(self.widths) > 1 else None

    @property
    def block(self) -> int:
        """How many images go through the network at once."""
        return PRETRAINED_BLOCK if self.shape is None else CLASSIFIER_BLOCK


@dataclass(frozen=True, eq=False)
class Features:
    """Features float32 (n, d), or (m, n, d) of members, on the CPU, and class scores (.., classes) where there are."""

    features: Tensor
    logits: Tensor | None


def quantised(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Images as uint8, any shape: float32 in [0, 1] is multiplied by 255 and rounded to nearest; uint8 passes as it is.

    The one such function: all that is evaluated, and all that classifiers are fitted on, goes through it.

    Errors: InputError for another type, and for values outside [0, 1] or NaN.
    """
    if images.dtype == np.uint8:
        return images
    if images.dtype != np.float32:
        raise InputError(f"images are uint8 or float32 in [0, 1], not {images.dtype}; convert them first.")
    if images.size and not (images.min() >= 0 and images.max() <= 1):
        raise InputError(
            f"images have values from {images.min():g} to {images.max():g}, not in [0, 1]; rescale them first."
        )
    return np.rint(images * np.float32(255)).astype(np.uint8)


def check_name(name: str) -> None:
    """Errors: UnknownName for what is neither a named extractor nor a .safetensors file."""
    if Path(name).suffix != SUFFIX and name not in (known := names()):
        raise UnknownName("extractor", name, [*known, f"a {SUFFIX} file of `harness extractor fit`"])


def names() -> list[str]:
    """The extractors that have names: classifiers that ship, and those that torch-fidelity knows."""
    from harness.metrics.extractors.pretrained import NAMES

    return [*SHIPPED, *NAMES]


def extractor(
    name: str,
    *,
    folders: Sequence[Path] = (),
    weights: Path | None = None,
    sha256: str | None = None,
    trust_code: bool = False,
    device: torch.device | str = "cpu",
) -> Extractor:
    """The extractor of a name: one of `names`, or a .safetensors file with a fitted classifier.

    `folders`, `weights`, `sha256` and `trust_code` are as for `pretrained`; a classifier takes none of them but
    `sha256`, which its file must then have.

    Errors: UnknownName; InputError, as for `pretrained` and `classifier.read`.
    """
    place = torch.device(device)
    if name not in SHIPPED and Path(name).suffix != SUFFIX:
        return _pretrained(name, folders, weights, sha256, trust_code, place)
    if weights is not None:
        raise InputError(f"the extractor {name!r} has weights of its own and takes no other; leave {weights} out.")
    network = _classifier(name)
    if sha256 is not None and sha256.lower() != network.sha256:
        raise InputError(f"the extractor {name!r} has the sha256 {network.sha256}, not the stated {sha256}.")
    return Extractor(
        name=network.name,
        sha256=network.sha256,
        resize="none",
        layers=tuple(network.features_list),
        widths=network.widths,
        shape=network.record.shape,
        network=network.to(place),
        device=place,
    )


def _pretrained(
    name: str,
    folders: Sequence[Path],
    weights: Path | None,
    sha256: str | None,
    trust_code: bool,
    device: torch.device,
) -> Extractor:
    from harness.metrics.extractors.pretrained import pretrained, resize

    check_name(name)
    loaded = pretrained(name, folders=folders, weights=weights, sha256=sha256, trust_code=trust_code)
    return Extractor(
        name=name if loaded.is_known else f"{name}@{loaded.sha256[:8]}",
        sha256=loaded.sha256,
        resize=resize(loaded.network),
        layers=loaded.layers,
        widths=loaded.widths,
        shape=None,
        network=loaded.network.to(device),
        device=device,
    )


def _classifier(name: str) -> Classifier:
    """A shipped classifier by its name, or one in a file, whose name then tells its hash."""
    from harness.metrics.extractors.classifier import FEATURES, LOGITS, Classifier

    layers = (FEATURES, LOGITS)
    if name in SHIPPED:
        return Classifier(name, layers)
    path = Path(name)
    network = Classifier(path.stem, layers, str(path))
    network.name = f"{path.stem}@{network.sha256[:8]}"
    return network


def default_extractor(data: ImageSet) -> str:
    """The name of the extractor that suits a data set: its own classifier for grey images, Inception for colour.

    Errors: InputError for points, and for other images without a classifier that ships; it says how to fit one.
    """
    if data.affine is not None:
        raise InputError(f"data set {data.name!r} holds points, not images; no extractor suits them.")
    if data.shape[0] == 3:
        return "inception-v3-compat"
    name = f"classifier-{data.name}"
    if name not in SHIPPED and data.train.labels is None:
        raise InputError(
            f"no classifier of data set {data.name!r} ships with the package, and it has no labels to fit one to; name "
            "another extractor, inception-v3-compat for one."
        )
    way_out = (
        f"fit one with `harness extractor fit --dataset {data.name} -o classifier.safetensors` and name that file as "
        "the extractor"
    )
    if name not in SHIPPED:
        raise InputError(f"no classifier of data set {data.name!r} ships with the package; {way_out}.")
    from harness.metrics.extractors import classifier

    _, record, _ = classifier.read(WEIGHTS / f"{name}{SUFFIX}")
    if (record.content_hash, record.shape) != (data.content_hash, data.shape):
        raise InputError(f"{name} was fitted on other content than this data set {data.name!r} has; {way_out}.")
    return name


def extract(extractor: Extractor, images: Images, *, processes: Processes = ALONE) -> Features:
    """Features and class scores of images (n, c, h, w), or of members' images (m, n, c, h, w), in their order.

    Images are uint8, or float32 in [0, 1]; grey ones are tiled to RGB for a network of three channels. Blocks of
    `extractor.block` lie within a member, the last one padded with black. Every process passes all images, evaluates
    whole blocks, and gets the features of all, the same bits for any number of processes and of threads.

    Errors: InputError for images of another type, range or shape than the extractor takes, and for none.
    """
    given = images.detach().cpu().numpy() if isinstance(images, Tensor) else images
    has_members = isinstance(given, np.ndarray) and given.ndim == 5
    members: Any = given if has_members else [given]
    if not len(members) or not len(members[0]):
        raise InputError("there are no images to extract features from.")
    count = len(members[0])
    outputs = [torch.zeros(len(members), count, width) for width in extractor.widths]
    blocks = [(member, start) for member in range(len(members)) for start in range(0, count, extractor.block)]

    def evaluate(block: tuple[int, int]) -> None:
        member, start = block
        rows = np.arange(start, min(start + extractor.block, count))
        for output, values in zip(outputs, _evaluated(extractor, members[member][rows]), strict=True):
            output[member, rows] = values

    map_singly(evaluate, blocks[processes.rank :: processes.count], extractor.device)
    gathered = [_gathered(output, processes, extractor.device) for output in outputs]
    features, *logits = gathered if has_members else [output[0] for output in gathered]
    return Features(features, logits[0] if logits else None)


def _evaluated(extractor: Extractor, images: NDArray[Any]) -> list[Tensor]:
    """The network's outputs for at most a block of images, each (n, width) float32 on the CPU."""
    pixels = torch.from_numpy(quantised(_fitting(extractor, images)))
    padded = torch.cat([pixels, pixels.new_zeros(extractor.block - len(pixels), *pixels.shape[1:])])
    with torch.inference_mode(), _exact(extractor.device):
        outputs = extractor.network(padded.to(extractor.device))
    return [output[: len(pixels)].to("cpu", torch.float32) for output in outputs]


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """On a GPU: the same bits each time, and products of no fewer digits than a CPU's, whatever was set before."""
    if device.type == "cpu":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _fitting(extractor: Extractor, images: NDArray[Any]) -> NDArray[Any]:
    """Images of the shape that the extractor takes: as they are, or grey tiled to RGB."""
    if images.ndim != 4:
        raise InputError(f"images have the shape (n, c, h, w), not {images.shape}; reshape them first.")
    shape = images.shape[1:]
    if extractor.shape is not None and shape != extractor.shape:
        raise InputError(
            f"{extractor.name} was fitted on images of shape {extractor.shape} and takes no others; these are {shape}."
        )
    if extractor.shape is None and shape[0] not in (1, 3):
        raise InputError(f"{extractor.name} takes grey or RGB images; these have {shape[0]} channels.")
    return images if extractor.shape or shape[0] == 3 else np.repeat(images, 3, axis=1)


def _gathered(values: Tensor, processes: Processes, device: torch.device) -> Tensor:
    """Values (m, n, width) of which each process has its own and zeros elsewhere, whole in every process.

    The sum is exact: one summand is not zero. It is taken on the device, which is where processes exchange. It goes
    by parts, since in float64 all would take twice the memory.
    """
    for member in values:
        for part in member.split(_ROWS_PER_TOTAL):
            # A sum turns -0 into 0, so a process alone must do so too.
            part.copy_(processes.total(part.to(device, torch.float64)) + 0.0)
    return values
