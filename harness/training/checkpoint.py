"""Checkpoints of a stack: safetensors files whose names carry their iteration and checksum."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from harness import runs

_NAME = re.compile(r"checkpoint-(\d{10})-([0-9a-f]{16})\.safetensors")
_KEPT = 2
_log = logging.getLogger(__name__)

Nested = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Checkpoint:
    """A stack between two iterations: `iteration` are done; `history` is (iterations, columns, m)."""

    iteration: int
    state: Nested
    history: Tensor
    facts: dict[str, Any] = field(default_factory=dict)
    """Plain data that lasts over interruptions: seconds trained, operations a step."""


def write(folder: Path, checkpoint: Checkpoint, *, keep: int = _KEPT) -> None:
    """Write a checkpoint, then delete all but the newest `keep`."""
    tensors = flatten(checkpoint.state) | {"history": checkpoint.history.cpu().contiguous()}
    content = save(tensors, {"facts": json.dumps(checkpoint.facts)})
    checksum = hashlib.sha256(content).hexdigest()[:16]
    runs.write_bytes(folder / f"checkpoint-{checkpoint.iteration:010d}-{checksum}.safetensors", content)
    # Whatever claims to be newer is what `latest` refused; it must not crowd out a good one.
    good = [path for iteration, path in _files(folder) if iteration <= checkpoint.iteration]
    for _, path in _files(folder):
        if path not in good[-keep:]:
            path.unlink()


def latest(folder: Path) -> Checkpoint | None:
    """The newest undamaged checkpoint of a folder; a damaged one is reported and the one before it is taken."""
    for iteration, path in reversed(_files(folder)):
        content = path.read_bytes()
        if not path.stem.endswith(hashlib.sha256(content).hexdigest()[:16]):
            _log.warning("%s is damaged (its checksum differs); using the one before it", path)
            continue
        try:
            tensors = load(content)
        except SafetensorError as error:
            _log.warning("%s is not a checkpoint (%s); using the one before it", path, error)
            continue
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts = json.loads(header["__metadata__"]["facts"])
        return Checkpoint(iteration, nested(tensors), tensors["history"], facts)
    return None


def flatten(state: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """{"part/name": tensor} of a nested state, detached, on the CPU."""
    return {
        f"{part}/{name}": tensor.detach().cpu().contiguous()
        for part, tensors in state.items()
        for name, tensor in tensors.items()
    }


def nested(tensors: Mapping[str, Tensor]) -> Nested:
    """The state of a flat dict; names without a part are left out."""
    state: Nested = {}
    for path, tensor in tensors.items():
        part, slash, name = path.partition("/")
        if slash:
            state.setdefault(part, {})[name] = tensor
    return state


def _files(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoints by iteration, oldest first."""
    if not folder.is_dir():
        return []
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)
