"""The kinds of pictures that `harness plot` draws and `harness sample` writes: the one list of their names.

What makes a sheet's images is a line in harness.sheets.KINDS, what draws them one in harness.analysis.sheets.FIGURES.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What a picture shows, and which options of the command line lay it out."""

    shows: str
    options: frozenset[str] = frozenset()


def _laid_out_by(*options: str) -> frozenset[str]:
    return frozenset({"rows", "columns", *options})


OF_FILES = {
    "curves": Kind("the history: losses and scores by iteration"),
    "samples": Kind("samples of fixed noise"),
    "metric": Kind("a metric over the axes (of grids alone)"),
}
"""Drawn from the run folders' files."""

SHEETS = {
    "conditions": Kind("samples of one class, a row each", _laid_out_by()),
    "sweep": Kind("what one component of the latent changes, a row each", _laid_out_by("components")),
    "interpolation": Kind("the way from one latent to another, a row each", _laid_out_by("way")),
    "chains": Kind("successive states of one Markov chain, a row each", _laid_out_by("after", "every")),
}
"""Images in rows and columns that a trained model makes; a samples file may hold them too."""

BESIDE_DATA = {
    "neighbours": Kind("samples, and the training image nearest to the last of each row", _laid_out_by()),
    "landscape": Kind("the score of every point of a plane, in each snapshot of `energy` on a 2-d toy"),
}
"""What a trained model makes, beside its training images: of plots alone."""

OF_MODELS = SHEETS | BESIDE_DATA
ALL = OF_FILES | OF_MODELS


def described(kinds: dict[str, Kind]) -> str:
    """A line of help for each kind."""
    return "\n".join(f"  {name:<15}{kind.shows}" for name, kind in kinds.items())
