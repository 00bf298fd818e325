"""Penalties on the slope of the discriminator: what its loss is charged for how steep the score is, and where.

A penalty looks at points near the data, takes the Euclidean norm over (c, h, w) of the score's gradient at each, and
charges a cost for it. The score is the logit, or the critic's value; its sigmoid comes in where the name says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from harness.errors import UnknownName


class Minibatch(Protocol):
    """What a penalty may see of a step. Images are (m, local n, c, h, w)."""

    @property
    def real(self) -> Tensor: ...

    @property
    def fake(self) -> Tensor: ...

    def uniform(self, what: str, width: int) -> Tensor:
        """Numbers uniform on [0, 1) of their own for each name: (m, local n, width)."""

    def mean(self, values: Tensor) -> Tensor:
        """The mean of (m, local n, ...) over the images of all processes and all that follows: (m,)."""


@dataclass(frozen=True)
class Penalty:
    """`points(minibatch)` (m, local n, c, h, w): where slopes are looked at; `cost(norms)`: what each is charged.

    `weight` is the default factor. `of_probabilities`: whether the slope is that of D = sigmoid(a), not of the score.
    """

    points: Callable[[Minibatch], Tensor]
    cost: Callable[[Tensor], Tensor]
    weight: float
    of_probabilities: bool = False


def between(minibatch: Minibatch) -> Tensor:
    """e x + (1 - e) G(z), e uniform on [0, 1) an image. Gulrajani et al. 2017, algorithm 1."""
    e = minibatch.uniform("between", 1)[..., None, None]
    return e * minibatch.real + (1 - e) * minibatch.fake


def around_data(minibatch: Minibatch) -> Tensor:
    """x + e 0.5 std(x) u, e uniform on [0, 1) an image, u a component; std over the minibatch. Kodali et al. 2017.

    The published code's perturbation, with the deviation of all components of all images, one number.
    """
    x = minibatch.real
    mean = minibatch.mean(x).view(-1, 1, 1, 1, 1)
    std = minibatch.mean((x - mean).square()).sqrt().view(-1, 1, 1, 1, 1)
    e = minibatch.uniform("how far", 1)[..., None, None]
    u = minibatch.uniform("where to", x[0, 0].numel()).view_as(x)
    return x + e * 0.5 * std * u


def at_data(minibatch: Minibatch) -> Tensor:
    """x itself. Mescheder et al. 2018, equation 9."""
    return minibatch.real


def unit_slope(norms: Tensor) -> Tensor:
    """(||grad a|| - 1)^2: zero where the slope is 1. Gulrajani et al. 2017, equation 3."""
    return (norms - 1).square()


def half_square(norms: Tensor) -> Tensor:
    """||grad a||^2 / 2: zero where the score is flat. Mescheder et al. 2018, equation 9."""
    return norms.square() / 2


PENALTIES = {
    "gradient_penalty": Penalty(between, unit_slope, weight=10.0),
    "dragan": Penalty(around_data, unit_slope, weight=10.0),
    # what the code of Lucic et al. 2018 does
    "dragan_of_probabilities": Penalty(around_data, unit_slope, weight=10.0, of_probabilities=True),
    "r1": Penalty(at_data, half_square, weight=10.0),
}


def penalty(name: str) -> Penalty:
    """The penalty of that name.

    Errors: UnknownName.
    """
    if name not in PENALTIES:
        raise UnknownName("penalty", name, PENALTIES)
    return PENALTIES[name]


def charge(of: Penalty, discriminator: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """What a penalty costs at its points, without its weight: (m, local n), differentiable by the parameters.

    `discriminator` maps images (m, local n, c, h, w) to scores (m, local n).
    """
    points = points.detach().requires_grad_()
    scores = discriminator(points)
    judged = scores.sigmoid() if of.of_probabilities else scores
    (slopes,) = torch.autograd.grad(judged.sum(), points, create_graph=True)
    return of.cost(slopes.flatten(2).norm(dim=2))  # whose gradient at zero is zero
