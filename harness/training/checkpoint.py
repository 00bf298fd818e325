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
from harness.errors import HarnessError

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
    """Write a checkpoint into a folder that is there, then delete all but the newest `keep`."""
    tensors = flatten(checkpoint.state) | {"history": checkpoint.history.cpu().contiguous()}
    content = save(tensors, {"facts": json.dumps(checkpoint.facts)})
    checksum = hashlib.sha256(content).hexdigest()[:16]
    written = folder / f"checkpoint-{checkpoint.iteration:010d}-{checksum}.safetensors"
    runs.write_bytes(written, content, inside=folder)
    # Whatever else claims to be as new is what `latest` refused; it must not crowd out a good one.
    before = [path for iteration, path in _files(folder) if iteration < checkpoint.iteration]
    kept = [*before, written][-keep:]
    for _, path in _files(folder):
        if path not in kept:
            path.unlink(missing_ok=True)


def latest(folder: Path) -> Checkpoint | None:
    """The newest sound checkpoint of a folder; those that are damaged are reported, with what is taken instead.

    Errors: StorageError where there is none but one that cannot be read, which may be sound.
    """
    damaged: list[str] = []
    unread: HarnessError | None = None
    found = None
    for iteration, path in reversed(_files(folder)):
        try:
            found = _read(path, iteration)
            break
        except HarnessError as error:
            unread = unread or error
            damaged.append(str(error))
        except (SafetensorError, KeyError, ValueError) as error:
            damaged.append(f"{path} is damaged ({error})")
    if found is None and unread is not None:
        raise unread
    for reason in damaged:
        _log.warning("%s; %s", reason, f"going on from iteration {found.iteration}" if found else "beginning anew")
    return found


def _read(path: Path, iteration: int) -> Checkpoint:
    """The checkpoint in a file.

    Errors: StorageError where it cannot be read; ValueError where its checksum differs, else SafetensorError, KeyError
    or ValueError where it is something else.
    """
    content = runs.read_bytes(path)
    if not path.stem.endswith(hashlib.sha256(content).hexdigest()[:16]):
        raise ValueError("its checksum differs")
    tensors = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    facts = json.loads(header.get("__metadata__", {})["facts"])
    return Checkpoint(iteration, nested(tensors), tensors["history"], facts)


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
