"""`harness sample`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import runs, sampling
from harness.analysis.kinds import SHEETS
from harness.errors import InputError, storage_error
from harness.sheets import KINDS, Layout
from harness.watching import progress_bar

RANDOM_SAMPLES = 100


def sample(path: Path, *, kind: str, n: int | None, iteration: int | None, output: Path, **given: Any) -> Path:
    """Write samples of a finished run to an .npz file: random ones, or a sheet of another kind. `given`: its layout."""
    heeds = {"random": frozenset({"n"})} if kind == "random" else {kind: SHEETS[kind].options}
    laid_out = layout({"n": n, **given}, heeds)
    sampler = sampling.load(runs.find_run(path), iteration=iteration)
    if kind == "random":
        with progress_bar() as progress:
            task = progress.add_task("sampling", total=n or RANDOM_SAMPLES)
            images = sampler.sample(n or RANDOM_SAMPLES, report=lambda done: progress.update(task, completed=done))
        labels = sampler.labels(n or RANDOM_SAMPLES)
        arrays = {"images": images[0]} | ({} if labels is None else {"labels": labels[0]})
    else:
        arrays = KINDS[kind](sampler, laid_out).arrays()
    try:
        runs.write_npz(output, **arrays)
    except OSError as error:
        raise storage_error(error, output) from error
    return output


def layout(given: Mapping[str, Any], heeds: Mapping[str, frozenset[str]]) -> Layout:
    """The layout that options of the command line state; None is not given. `heeds`: each wanted kind's options.

    Errors: InputError for an option that no wanted kind heeds, and for components that are not whole numbers.
    """
    stated = {name: value for name, value in given.items() if value is not None}
    if idle := stated.keys() - frozenset().union(*heeds.values()):
        taken = "; ".join(f"{kind} takes {_options(names)}" for kind, names in heeds.items())
        raise InputError(f"{_options(idle)}: not for kind {', '.join(heeds)}: {taken}.")
    if "rows" in stated and "components" in stated and heeds.keys() == {"sweep"}:
        raise InputError("--components gives each of them a row; leave --rows out.")
    stated.pop("n", None)
    if "components" in stated:
        words = [word.strip() for word in stated["components"].split(",")]
        if not all(word.isdecimal() for word in words):
            raise InputError(
                f"--components {stated['components']}: give whole numbers from 0, separated by commas, as in 0,3,7."
            )
        stated["components"] = tuple(map(int, words))
    return Layout(**stated)


def _options(names: frozenset[str] | set[str]) -> str:
    return ", ".join(f"--{name}" for name in sorted(names)) or "none of them"
