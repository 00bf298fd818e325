"""torch-fidelity's own extractors, their weights checked before torch-fidelity reads them.

torch-fidelity loads weights with full unpickling, so a crafted file would run code. Here a file's hash is compared and
its content read as plain tensors alone; torch-fidelity is given our copy of them, in a private folder, and never sees
the file. Where its weights cannot be had, an extractor is refused; it is never replaced by another.
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch_fidelity import feature_extractor_clip, feature_extractor_dinov2, feature_extractor_inceptionv3
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from harness.errors import InputError, UnknownName


@dataclass(frozen=True)
class Weights:
    """A published weights file: its name, where it is downloaded from, and how its sha256 begins.

    `is_program`: it is a TorchScript archive, which is code; only the whole known hash makes it acceptable.
    """

    file: str
    url: str
    sha256: str
    is_program: bool = False


PUBLISHED: dict[str, Weights] = {
    "inception-v3-compat": Weights(
        "weights-inception-2015-12-05-6726825d.pth", feature_extractor_inceptionv3.URL_INCEPTION_V3, "6726825d"
    ),
    "vgg16": Weights("vgg16-397923af.pth", torchvision.models.VGG16_Weights.IMAGENET1K_V1.url, "397923af"),
    **{
        name: Weights(f"{name}-{known['hash']}.pt", feature_extractor_clip.MODEL_URLS[name], known["hash"], True)
        for name, known in feature_extractor_clip.MODEL_METADATA.items()
    },
}
UNPUBLISHED: tuple[str, ...] = tuple(feature_extractor_dinov2.MODEL_METADATA)
"""Extractors whose network is downloaded as Python code, under no hash that could be known beforehand."""

NAMES: tuple[str, ...] = (*PUBLISHED, *UNPUBLISHED)

_CLASS_SCORES = ("logits", "logits_unbiased")


@dataclass(frozen=True)
class Pretrained:
    """A network of torch-fidelity in evaluation mode, and the weights in it.

    `layers`: the one that gives features and, where the network has class scores, the one for the Inception score;
    the network returns a tuple in this order, of these `widths`. `is_known`: the weights are the published ones.
    """

    network: FeatureExtractorBase
    layers: tuple[str, ...]
    widths: tuple[int, ...]
    sha256: str
    is_known: bool


def pretrained(
    name: str,
    *,
    folders: Sequence[Path] = (),
    weights: Path | None = None,
    sha256: str | None = None,
    trust_code: bool = False,
) -> Pretrained:
    """The extractor that torch-fidelity registers under a name, one of NAMES.

    `weights` is its file; without it the published one is taken from `weights/` in one of `folders` or from
    torch.hub's checkpoints, else downloaded to the latter. `sha256`: what the file is to have, if not the published
    hash. `trust_code` allows those in UNPUBLISHED to download Python code and run it; their sha256 is that of their
    parameters.

    Errors: UnknownName; InputError for a file that cannot be read, has another hash, or holds anything but the
    network's weights, for weights that cannot be had (it says which file to put where), and for code without trust.
    """
    if name not in NAMES:
        raise UnknownName("extractor", name, NAMES)
    if name in UNPUBLISHED:
        return _from_code(name, weights=weights, trust_code=trust_code)
    expected = _checked_sha256(sha256)
    published = PUBLISHED[name]
    path = weights or _find(name, published, folders)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the weights {path} of {name}: {error.strerror}.") from error
    found = hashlib.sha256(content).hexdigest()
    is_known = found.startswith(published.sha256)
    _check_hash(name, path, found, published, expected)
    with tempfile.TemporaryDirectory(prefix="weights-") as folder:  # made for its owner alone
        copy = Path(folder, published.file)
        if published.is_program:
            copy.write_bytes(content)
        else:
            torch.save(_plain_tensors(path, content), copy)
        try:
            network = _built(name, str(copy))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"{path} does not hold the weights of {name}: {reason}") from error
    return Pretrained(network, _layers(name), _widths(network), found, is_known)


def resize(network: FeatureExtractorBase) -> str:
    """How a network of torch-fidelity resizes its images, as metric keys say it: "tf1-bilinear-299"."""
    side = getattr(network, "INPUT_IMAGE_SIZE", None) or network.resolution
    return f"tf1-bilinear-{side}"


def _layers(name: str) -> tuple[str, ...]:
    network = FEATURE_EXTRACTORS_REGISTRY[name]
    features, scores = (network.get_default_feature_layer_for_metric(metric) for metric in ("fid", "isc"))
    return (features, scores) if scores in _CLASS_SCORES else (features,)


def _widths(network: FeatureExtractorBase) -> tuple[int, ...]:
    """How many values each output has, as the network shows on one black image."""
    with torch.inference_mode():
        return tuple(output.shape[1] for output in network(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)))


def _built(name: str, path: str | None) -> FeatureExtractorBase:
    # torch.nn draws initial values from torch's own generator, whose state is not ours to change.
    with torch.random.fork_rng(devices=[]):
        return FEATURE_EXTRACTORS_REGISTRY[name](name, list(_layers(name)), feature_extractor_weights_path=path)


def _checked_sha256(sha256: str | None) -> str | None:
    if sha256 is None or re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        return sha256.lower() if sha256 else None
    raise InputError(f"a sha256 has 64 hexadecimal digits, not {sha256!r}; `sha256sum FILE` prints it.")


def _check_hash(name: str, path: Path, found: str, published: Weights, stated: str | None) -> None:
    if stated is not None and found != stated:
        raise InputError(f"the weights {path} have the sha256 {found}, not the stated {stated}; they are not read.")
    if found.startswith(published.sha256):
        return
    if published.is_program:
        raise InputError(
            f"{path} has the sha256 {found}, not {published.sha256}, the published one of {name}. The file is a "
            "program, so no other is accepted; put the published one there."
        )
    if stated is None:
        raise InputError(
            f"{path} has the sha256 {found}, but the published weights of {name} begin with {published.sha256}; put "
            f"{published.file} there, or, if you mean these weights, state their sha256 (--weights-sha256)."
        )


def _plain_tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    """A copy of the state dict in a file, read without running code.

    Errors: InputError for content of any other kind.
    """
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file can make the reader fail in any way
        raise InputError(
            f"{path} is refused: it cannot be read as plain tensors ({type(error).__name__}), and what else it holds "
            "may run code. Save the network's state_dict() with torch.save."
        ) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise InputError(f"{path} holds no state dict of tensors by name; save the network's state_dict().")
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _find(name: str, published: Weights, folders: Sequence[Path]) -> Path:
    """The published file: in the given folders, in torch.hub's, or downloaded there."""
    checkpoints = Path(torch.hub.get_dir(), "checkpoints")
    places = [*(folder / "weights" for folder in folders), checkpoints]
    for place in places:
        if (place / published.file).exists():
            return place / published.file
    path = checkpoints / published.file
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            published.url, str(path), hash_prefix=published.sha256, progress=sys.stderr.isatty()
        )
    except (OSError, RuntimeError, HTTPException) as error:
        raise InputError(
            f"the weights of {name} are not there: put {published.file} (from {published.url}) into {places[0]}"
            f"{f' or {checkpoints}' if len(places) > 1 else ''}, or name the file. (Downloading it failed: {error})"
        ) from error
    return path


def _from_code(name: str, *, weights: Path | None, trust_code: bool) -> Pretrained:
    if weights is not None:
        raise InputError(f"{name} takes no weights file: torch-fidelity can only download it; leave {weights} out.")
    if not trust_code:
        raise InputError(
            f"{name} downloads Python code from GitHub (torch.hub, facebookresearch/dinov2) and runs it; if you trust "
            "that, allow it with --trust-code."
        )
    try:
        network = _built(name, None)
    except (OSError, RuntimeError, HTTPException) as error:
        raise InputError(f"{name} could not be downloaded through torch.hub: {error}") from error
    return Pretrained(network, _layers(name), _widths(network), _sha256_of(network.state_dict()), is_known=False)


def _sha256_of(state: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
