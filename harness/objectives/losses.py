"""Adversarial losses: pure functions of scores.

Scores are logits a with D = sigmoid(a), of shape (m, n); every function averages over n and gives (m,), in nats.
log D = -softplus(-a) and log(1 - D) = -softplus(a), so nothing overflows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from harness.errors import UnknownName

Discriminator = Callable[[Tensor, Tensor], Tensor]
Generator = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Loss:
    """`discriminator(real, fake)` is what D descends, `generator(fake)` what G descends."""

    discriminator: Discriminator
    generator: Generator


def cross_entropy(real: Tensor, fake: Tensor) -> Tensor:
    """-V(D, G) = -E log D(x) - E log(1 - D(G(z))); log 4 at zero logits. Goodfellow et al. 2014, equation 1."""
    return softplus(-real).mean(-1) + softplus(fake).mean(-1)


def saturating(fake: Tensor) -> Tensor:
    """E log(1 - D(G(z))); -log 2 at zero logits, gradient -D/n. Goodfellow et al. 2014, algorithm 1."""
    return -softplus(fake).mean(-1)


def non_saturating(fake: Tensor) -> Tensor:
    """-E log D(G(z)); log 2 at zero logits, gradient -(1 - D)/n. Goodfellow et al. 2014, section 3."""
    return softplus(-fake).mean(-1)


LOSSES = {
    "minimax": Loss(cross_entropy, saturating),
    "non_saturating": Loss(cross_entropy, non_saturating),
}


def loss(name: str) -> Loss:
    """The loss of that name.

    Errors: UnknownName.
    """
    if name not in LOSSES:
        raise UnknownName("loss", name, LOSSES)
    return LOSSES[name]


@dataclass(frozen=True)
class StackedLoss:
    """Each member's own loss, on a stack's scores (m, n); each result is (m,)."""

    members: tuple[Loss, ...]

    @classmethod
    def of(cls, names: Sequence[str]) -> StackedLoss:
        """The losses of members, by name."""
        return cls(tuple(loss(name) for name in names))

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """What each member's discriminator descends: (m,)."""
        return _by_function([member.discriminator for member in self.members], real, fake)

    def generator(self, fake: Tensor) -> Tensor:
        """What each member's generator descends: (m,)."""
        return _by_function([member.generator for member in self.members], fake)


def _by_function(functions: Sequence[Callable[..., Tensor]], *scores: Tensor) -> Tensor:
    """One call for each different function, on the members that use it; results in the members' order."""
    if len(set(functions)) == 1:
        return functions[0](*scores)
    rows = {function: [i for i, f in enumerate(functions) if f is function] for function in dict.fromkeys(functions)}
    results = torch.cat([function(*(s[members] for s in scores)) for function, members in rows.items()])
    order = [member for members in rows.values() for member in members]
    return results[sorted(range(len(order)), key=order.__getitem__)]
