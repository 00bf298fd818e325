"""References that were computed once, kept in files named by the hash of all that decides them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from harness import runs
from harness.training.processes import Processes

Decisions = Mapping[str, str | int | list[int]]
Tensors = dict[str, Tensor]

_FORMAT = 1  # raised when what a file holds under the same decisions changes its meaning
_log = logging.getLogger(__name__)


def default_folder() -> Path:
    """$HARNESS_CACHE, else ~/.cache/harness/references."""
    return Path(os.environ.get("HARNESS_CACHE") or Path.home() / ".cache/harness/references")


@dataclass(frozen=True)
class Cache:
    """A folder of tensors, each file of them under the decisions that made it.

    A file that is damaged, or was made under other decisions, is made anew. One that cannot be written costs time
    alone.
    """

    folder: Path

    def tensors(self, decisions: Decisions, compute: Callable[[], Tensors], processes: Processes) -> Tensors:
        """What `compute` gives under these decisions, from its file where that is sound; CPU tensors.

        All processes must ask together: where one of them finds no file, all compute, and the main one writes.
        """
        path = self.path(decisions)
        found = self._read(path, decisions)
        lacking = processes.total(torch.tensor(float(found is None), device=processes.device))
        if found is not None and not lacking:
            return found
        made = {name: tensor.cpu().contiguous() for name, tensor in compute().items()}
        if processes.is_main:
            try:
                runs.write_bytes(path, save(made, _metadata(decisions, made)))
            except OSError as error:
                _log.warning("%s cannot be written (%s); it is computed again next time", path, error.strerror)
        return made

    def path(self, decisions: Decisions) -> Path:
        """The file of these decisions."""
        name = hashlib.sha256(_text(decisions).encode()).hexdigest()[:24]
        return self.folder / f"{decisions['what']}-{name}.safetensors"

    def _read(self, path: Path, decisions: Decisions) -> Tensors | None:
        try:
            if not path.exists():
                return None
            with safe_open(path, framework="pt") as file:
                metadata, names = file.metadata(), file.keys()
                found = {name: file.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            _log.warning("%s is damaged (%s); it is made anew", path, error)
            return None
        if metadata != _metadata(decisions, found):
            _log.warning("%s is damaged or stale; it is made anew", path)
            return None
        return found


def _metadata(decisions: Decisions, tensors: Tensors) -> dict[str, str]:
    """A file's word on its decisions and content, in one entry: several would have no fixed order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.numpy().data)
    return {"record": json.dumps({"decisions": _text(decisions), "sha256": digest.hexdigest()})}


def _text(decisions: Decisions) -> str:
    return json.dumps({**decisions, "format": _FORMAT}, sort_keys=True)
