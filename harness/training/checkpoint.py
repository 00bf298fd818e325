"""Checkpoints of a stack: safetensors files whose names carry their iteration, their writer's epoch and a checksum.

An epoch is one process's ownership of the stack (harness/claims.py). The newest one's files count before those of older
ones, whatever their iterations, so an owner that was taken for dead cannot come between.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from harness import runs
from harness.errors import HarnessError

_NAME = re.compile(r"checkpoint-(?P<iteration>\d{10})-((?P<epoch>\d{6})-)?[0-9a-f]{16}\.safetensors")
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


def write(folder: Path, checkpoint: Checkpoint, *, epoch: int = 0, begun: int = 0, keep: int = _KEPT) -> None:
    """Write a checkpoint in an epoch into a folder that is there, then delete all but the newest `keep`.

    `begun` is the iteration that training went on from in this epoch. Those of newer epochs are left alone.
    """
    tensors = flatten(checkpoint.state) | {"history": checkpoint.history.cpu().contiguous()}
    content = save(tensors, {"facts": json.dumps(checkpoint.facts)})
    checksum = hashlib.sha256(content).hexdigest()[:16]
    written = folder / f"checkpoint-{checkpoint.iteration:010d}-{epoch:06d}-{checksum}.safetensors"
    runs.write_bytes(written, content, inside=folder)
    files = [file for file in _files(folder) if file.epoch <= epoch]
    # Whatever else claims to be as new is what `latest` refused; it must not crowd out a good one.
    good = [file for file in files if file.iteration <= begun or file.epoch == epoch]
    before = [file.path for file in good if file.iteration < checkpoint.iteration]
    kept = [*before, written][-keep:]
    for file in files:
        if file.path not in kept:
            file.path.unlink(missing_ok=True)


def latest(folder: Path) -> Checkpoint | None:
    """The newest sound checkpoint of a folder; those that are damaged are reported, with what is taken instead.

    Errors: StorageError where there is none but one that cannot be read, which may be sound.
    """
    damaged: list[str] = []
    unread: HarnessError | None = None
    found = None
    for _, iteration, path in reversed(_files(folder)):
        try:
            found = _read(path, iteration)
            break
        except HarnessError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                continue  # deleted since by an owner that woke, beside newer ones of its own
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


def saved(folder: Path) -> int:
    """The iteration of the newest checkpoint, by its name; 0 without one."""
    return next((file.iteration for file in reversed(_files(folder))), 0)


def flatten(state: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """{"part/name": tensor} of a nested state, detached, on the CPU."""
    return {
        f"{part}/{name}": tensor.detach().cpu().contiguous()
        for part, tensors in state.items()
        for name, tensor in tensors.items()
    }


def in_order(state: Nested) -> Nested:
    """The same state with names in alphabetical order.

    A file gives them back in an order of each process's own, and processes sum their gradients as one flat tensor.
    """
    return {part: dict(sorted(tensors.items())) for part, tensors in state.items()}


def nested(tensors: Mapping[str, Tensor]) -> Nested:
    """The state of a flat dict; names without a part are left out."""
    state: Nested = {}
    for path, tensor in tensors.items():
        part, slash, name = path.partition("/")
        if slash:
            state.setdefault(part, {})[name] = tensor
    return state


class _File(NamedTuple):
    epoch: int
    iteration: int
    path: Path


def _files(folder: Path) -> list[_File]:
    """Checkpoints by epoch, then by iteration, oldest first."""
    if not folder.is_dir():
        return []
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return sorted(_File(int(match["epoch"] or 0), int(match["iteration"]), path) for match, path in matches if match)
