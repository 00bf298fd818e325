"""`harness sample`."""

from __future__ import annotations

from pathlib import Path

from harness import runs, sampling
from harness.errors import InputError


def sample(path: Path, *, n: int, iteration: int | None, output: Path) -> Path:
    """Write samples of a finished run to an .npz file."""
    sampler = sampling.load(runs.find_run(path), iteration=iteration)
    try:
        runs.write_npz(output, images=sampler.sample(n)[0])
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror}.") from None
    return output
