"""A trained model's images in rows and columns: what a class, a component of a latent, a way or a chain shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity

from harness.errors import InputError
from harness.sampling import Sampler
from harness.training.game import quantiles

ROWS, COLUMNS = 8, 9
OUTERMOST_SHARE = 0.02
"""A sweep goes from this quantile of the prior to its mirror image."""
_PARALLEL = 1e-6  # the sine of an angle below which no great circle is told apart

Way = Literal["linear", "spherical"]


@dataclass(frozen=True)
class Layout:
    """How a sheet is laid out."""

    rows: int | None = None
    """None: ROWS, or as many as there are components to sweep if these are fewer."""
    columns: int = COLUMNS
    components: tuple[int, ...] = ()
    """Which components of the latents to sweep, a row each; none: the first."""
    way: Way = "linear"
    """Between two latents."""
    after: int | None = None
    """How many steps of a chain lie before the first column; None: as many as before its first sample."""
    every: int = 1
    """How many steps of a chain lie between columns."""


@dataclass(frozen=True)
class Sheet:
    """Images (rows, columns, c, h, w), float32 in [0, 1], and what was done to get them, as arrays."""

    images: NDArray[np.float32]
    facts: dict[str, NDArray[Any]]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a samples file holds: `images` (rows * columns, c, h, w) row by row, their `layout`, and the facts."""
        rows, columns = self.images.shape[:2]
        return {"images": self.images.reshape(-1, *self.images.shape[2:]), "layout": np.array([rows, columns])} | (
            self.facts
        )


def sweep(sampler: Sampler, layout: Layout) -> Sheet:
    """A row for each of some components of the first sample's latent, which moves from low to high; the others stay.

    A conditional model shows the first sample's class. The values are the prior's quantiles at evenly spaced shares.
    Facts: kind, components (rows,), values (columns,), latents (rows * columns, size).
    Errors: InputError for a component that the latents do not have; as `Sampler.latents`.
    """
    z = sampler.latents(1)[0]
    settings = sampler.prior
    components = layout.components or tuple(range(layout.rows or min(ROWS, settings.size)))
    if outside := [component for component in components if component >= settings.size]:
        raise InputError(
            f"{sampler.members[0].folder.path}: latents have components 0 to {settings.size - 1}, not {max(outside)}; "
            "give others with --components, or fewer --rows."
        )
    shares = torch.linspace(OUTERMOST_SHARE, 1 - OUTERMOST_SHARE, layout.columns, dtype=torch.float64)
    values = quantiles(settings, shares).to(z)
    swept = z.repeat(len(components), layout.columns, 1)
    for row, component in zip(swept, components, strict=True):
        row[:, component] = values
    labels = sampler.labels(1)
    y = None if labels is None else labels.repeat(len(components) * layout.columns, axis=1)
    images = sampler.images_at(swept.flatten(0, 1)[None], y)[0]
    return Sheet(
        images.reshape(*swept.shape[:2], *images.shape[1:]),
        {
            "kind": np.array("sweep"),
            "components": np.array(components),
            "values": values.cpu().numpy(),
            "latents": swept.flatten(0, 1).cpu().numpy(),
            **({} if y is None else {"labels": y[0]}),
        },
    )


def interpolation(sampler: Sampler, layout: Layout) -> Sheet:
    """Each row goes from one sample to the next: row r from sample 2 r to 2 r + 1 of the run's endless list.

    Its ends are those samples, bit for bit; where the model is conditional all of a row is of the first one's class, so
    its right end is that sample's latent in another class. Facts: kind, way, fractions (columns,) of the way, latents
    (rows * columns, size), and labels (rows * columns,) where there are conditions.
    Errors: InputError for a spherical way where the prior is not normal; as `Sampler.latents`.
    """
    settings = sampler.prior
    if layout.way == "spherical" and settings.distribution != "normal":
        raise InputError(
            f"{sampler.members[0].folder.path}: a spherical way is for a normal prior, whose draws lie near a sphere; "
            f"this run's is {settings.distribution}: take the linear one."
        )
    rows = layout.rows or ROWS
    ends = sampler.latents(2 * rows)[0]
    fractions = torch.linspace(0, 1, layout.columns, dtype=torch.float64)
    start, stop = ends[0::2, None], ends[1::2, None]
    between = WAYS[layout.way](start, stop, fractions[1:-1, None].to(ends))
    z = torch.cat([start, between, stop], 1)
    labels = sampler.labels(2 * rows)
    y = None if labels is None else labels[:, 0::2].repeat(layout.columns, axis=1)
    samples = sampler.sample(2 * rows)[0]
    images = sampler.images_at(z.flatten(0, 1)[None], y)[0].reshape(*z.shape[:2], *samples.shape[1:])
    if labels is None:
        images[:, 0], images[:, -1] = samples[0::2], samples[1::2]
    return Sheet(
        images,
        {
            "kind": np.array("interpolation"),
            "way": np.array(layout.way),
            "fractions": fractions.numpy(),
            "latents": z.flatten(0, 1).cpu().numpy(),
            **({} if y is None else {"labels": y[0]}),
        },
    )


def linear(start: Tensor, stop: Tensor, fractions: Tensor) -> Tensor:
    """Points on the straight line, as in Goodfellow et al. 2014, figure 3; shapes broadcast to (..., size).

    Half-way between two draws of a normal prior they are shorter than draws are, by a factor of about sqrt(2).
    """
    return start + fractions * (stop - start)


def spherical(start: Tensor, stop: Tensor, fractions: Tensor) -> Tensor:
    """Points on the great circle, of lengths between the ends' (Shoemake 1985; White 2016); shapes as `linear`.

    Between parallel latents, where there is no one circle, points on the line.
    """
    cosine = cosine_similarity(start.double(), stop.double(), dim=-1).clamp(-1, 1)[..., None]
    angle = cosine.acos()
    weights = [((1 - fractions) * angle).sin(), (fractions * angle).sin()]
    points = (weights[0] * start + weights[1] * stop) / angle.sin()
    return torch.where(angle.sin() > _PARALLEL, points.to(start), linear(start, stop, fractions))


WAYS: dict[Way, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"linear": linear, "spherical": spherical}


def conditions(sampler: Sampler, layout: Layout) -> Sheet:
    """A row for each class, a column for each of the first samples' latents. Facts: kind, classes (rows,), latents.

    Errors: InputError where the model is not conditional; as `Sampler.latents`.
    """
    experiment = sampler.members[0].experiment
    if experiment.classes is None:
        raise InputError(
            f"{sampler.members[0].folder.path} is not conditional, so it has no classes to show; draw another kind, or "
            "train with conditional = true."
        )
    classes = np.arange(experiment.classes)[: layout.rows]
    z = sampler.latents(layout.columns).repeat(1, len(classes), 1)
    images = sampler.images_at(z, classes.repeat(layout.columns)[None])[0]
    return Sheet(
        images.reshape(len(classes), layout.columns, *images.shape[1:]),
        {"kind": np.array("conditions"), "classes": classes, "latents": z[0].cpu().numpy()},
    )


def chains(sampler: Sampler, layout: Layout) -> Sheet:
    """A row for each of the run's first Markov chains, a column for each of some successive states.

    Without `after`, the first column holds the run's first samples. Facts: kind, method, times (columns,), the steps
    that a chain has walked, and burn_in, those before its first sample.
    Errors: as `Sampler.chain_states`.
    """
    first = sampler.burn_in if layout.after is None else layout.after
    times = range(first, first + layout.every * layout.columns, layout.every)
    images = sampler.chain_states(layout.rows or ROWS, times)[0]
    return Sheet(
        images,
        {
            "kind": np.array("chains"),
            "method": np.array(sampler.members[0].experiment.method),
            "times": np.array(times),
            "burn_in": np.array(sampler.burn_in),
        },
    )


KINDS: dict[str, Callable[[Sampler, Layout], Sheet]] = {
    "conditions": conditions,
    "sweep": sweep,
    "interpolation": interpolation,
    "chains": chains,
}
