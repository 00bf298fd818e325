"""What a user brings from a file of their own: "module:name", beside the grid file or on PYTHONPATH."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.errors import InputError


def is_users(name: str) -> bool:
    """Whether a name is a user's "module:name"."""
    return ":" in name


def load(kind: str, name: str, *, what: str, fits: Callable[[Any], bool]) -> Any:
    """What a user's module has under a name. In messages `kind` says what it is for, and `what` what should be there.

    Errors: InputError where the module cannot be imported, is no file, or has nothing of that name that fits.
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise InputError(
            f"{kind} {name!r}: {module_name}.py cannot be imported ({type(error).__name__}: {error}); "
            "put it into this folder, beside the grid file or on PYTHONPATH."
        ) from error
    found = getattr(module, attribute, None)
    if not fits(found) or getattr(module, "__file__", None) is None:
        raise InputError(f"{kind} {name!r}: {module_name} has no {what} {attribute!r}.")
    return found


def source_hash(name: str) -> str | None:
    """sha256 of the source file behind "module:name", found without running it; None where there is none."""
    try:
        spec = importlib.util.find_spec(name.partition(":")[0])
    except (ImportError, ValueError):
        return None
    path = Path(spec.origin) if spec and spec.origin else None
    return hashlib.sha256(path.read_bytes()).hexdigest() if path and path.is_file() else None
