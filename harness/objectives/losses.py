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

    of_discriminator: ByFunction
    of_generator: ByFunction

    @classmethod
    def of(cls, names: Sequence[str], *, device: torch.device | str = "cpu") -> StackedLoss:
        """The losses of members, by name."""
        losses = [loss(name) for name in names]
        return cls(
            ByFunction.of([one.discriminator for one in losses], device),
            ByFunction.of([one.generator for one in losses], device),
        )

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """What each member's discriminator descends: (m,)."""
        return self.of_discriminator(real, fake)

    def generator(self, fake: Tensor) -> Tensor:
        """What each member's generator descends: (m,)."""
        return self.of_generator(fake)


@dataclass(frozen=True)
class ByFunction:
    """Different functions of scores for different members.

    Each function is computed for all members, and each member's result picked: so a score keeps its place in the
    tensors, whatever its neighbours use, and its bits, which depend on the place (the last few of a tensor's elements
    do not go through vector instructions).
    """

    functions: tuple[Callable[..., Tensor], ...]
    choice: Tensor
    """The number of each member's function: (1, m)."""

    @classmethod
    def of(cls, functions: Sequence[Callable[..., Tensor]], device: torch.device | str) -> ByFunction:
        """The members' functions, in order."""
        distinct = tuple(dict.fromkeys(functions))
        return cls(distinct, torch.tensor([[distinct.index(function) for function in functions]], device=device))

    def __call__(self, *scores: Tensor) -> Tensor:
        if len(self.functions) == 1:
            return self.functions[0](*scores)
        results = torch.stack([function(*scores) for function in self.functions])
        return results.gather(0, self.choice)[0]
