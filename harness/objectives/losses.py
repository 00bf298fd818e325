"""Adversarial losses: pure functions of scores.

Scores are of shape (m, n); every function averages over n and gives (m,). Where scores are logits a, D = sigmoid(a),
log D = -softplus(-a) and log(1 - D) = -softplus(a), so nothing overflows; such losses are in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from harness import user_code
from harness.errors import InputError, UnknownName

Discriminator = Callable[[Tensor, Tensor], Tensor]
BalancedDiscriminator = Callable[[Tensor, Tensor, Tensor], Tensor]
Generator = Callable[[Tensor], Tensor]
RelativeGenerator = Callable[[Tensor, Tensor], Tensor]
Score = Literal["logit", "linear", "reconstruction_error"]


@dataclass(frozen=True)
class Loss:
    """`discriminator(real, fake)` is what D descends, `generator(fake)` what G descends.

    `score`: whether sigmoid of a score is a probability, scores are any numbers, or errors of a discriminator that is
    an autoencoder; then the discriminator's loss takes a third argument, the balance k_t (m,) that training moves.
    `relative`: the generator's loss compares, and is `generator(real, fake)`; no gradient flows through `real`.
    """

    discriminator: Discriminator | BalancedDiscriminator
    generator: Generator | RelativeGenerator
    score: Score = "logit"
    relative: bool = False

    @property
    def of_generator(self) -> Callable[..., Tensor]:
        """The generator's loss as a function of (real, fake), whether it compares or not."""
        return self.generator if self.relative else _Absolute(self.generator)


def cross_entropy(real: Tensor, fake: Tensor) -> Tensor:
    """-V(D, G) = -E log D(x) - E log(1 - D(G(z))); log 4 at zero logits. Goodfellow et al. 2014, equation 1."""
    return softplus(-real).mean(-1) + softplus(fake).mean(-1)


def saturating(fake: Tensor) -> Tensor:
    """E log(1 - D(G(z))); -log 2 at zero logits, gradient -D/n. Goodfellow et al. 2014, algorithm 1."""
    return -softplus(fake).mean(-1)


def non_saturating(fake: Tensor) -> Tensor:
    """-E log D(G(z)); log 2 at zero logits, gradient -(1 - D)/n. Goodfellow et al. 2014, section 3."""
    return softplus(-fake).mean(-1)


def least_squares(real: Tensor, fake: Tensor) -> Tensor:
    """(E (a(x) - 1)^2 + E a(G(z))^2) / 2; 1/2 at zero scores. Mao et al. 2017, equation 9 (a = 0, b = 1)."""
    return ((real - 1).square().mean(-1) + fake.square().mean(-1)) / 2


def least_squares_generator(fake: Tensor) -> Tensor:
    """E (a(G(z)) - 1)^2 / 2; 1/2 at zero scores. Mao et al. 2017, equation 9 (c = 1)."""
    return (fake - 1).square().mean(-1) / 2


def critic(real: Tensor, fake: Tensor) -> Tensor:
    """E a(G(z)) - E a(x), minus the Wasserstein-1 estimate; 0 at zero scores. Arjovsky et al. 2017, algorithm 1."""
    return fake.mean(-1) - real.mean(-1)


def critic_generator(fake: Tensor) -> Tensor:
    """-E a(G(z)); 0 at zero scores, gradient -1/n. Arjovsky et al. 2017, algorithm 1."""
    return -fake.mean(-1)


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """E max(0, 1 - a(x)) + E max(0, 1 + a(G(z))); 2 at zero scores. Lim and Ye 2017; Miyato et al. 2018."""
    return relu(1 - real).mean(-1) + relu(1 + fake).mean(-1)


def relativistic(real: Tensor, fake: Tensor) -> Tensor:
    """Cross-entropy of a(x) - E a(G(z)) and a(G(z)) - E a(x): whether each looks more real than the others on average.

    log 4 at zero logits. Jolicoeur-Martineau 2019, section 4.2.
    """
    return cross_entropy(real - fake.mean(-1, keepdim=True), fake - real.mean(-1, keepdim=True))


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """The same with real and fake exchanged; log 4 at zero logits. Jolicoeur-Martineau 2019, section 4.2."""
    return relativistic(fake, real)


def least_squares_of_probabilities(real: Tensor, fake: Tensor) -> Tensor:
    """`least_squares` of D = sigmoid(a): what the code of Lucic et al. 2018 does; 1/4 at zero logits."""
    return least_squares(real.sigmoid(), fake.sigmoid())


def least_squares_of_probabilities_generator(fake: Tensor) -> Tensor:
    """`least_squares_generator` of D = sigmoid(a): what the code of Lucic et al. 2018 does; 1/8 at zero logits."""
    return least_squares_generator(fake.sigmoid())


def equilibrium(real: Tensor, fake: Tensor, balance: Tensor) -> Tensor:
    """E L(x) - k_t E L(G(z)) of reconstruction errors L. Berthelot, Schumm and Metz 2017, section 3.3."""
    return real.mean(-1) - balance * fake.mean(-1)


def equilibrium_generator(fake: Tensor) -> Tensor:
    """E L(G(z)). Berthelot, Schumm and Metz 2017, section 3.3."""
    return fake.mean(-1)


LOSSES = {
    "minimax": Loss(cross_entropy, saturating),
    "non_saturating": Loss(cross_entropy, non_saturating),
    "lsgan": Loss(least_squares, least_squares_generator, score="linear"),
    "lsgan_of_probabilities": Loss(least_squares_of_probabilities, least_squares_of_probabilities_generator),
    "wgan": Loss(critic, critic_generator, score="linear"),
    "hinge": Loss(hinge, critic_generator, score="linear"),
    "relativistic": Loss(relativistic, relativistic_generator, score="linear", relative=True),
    "began": Loss(equilibrium, equilibrium_generator, score="reconstruction_error"),
}


def loss(name: str) -> Loss:
    """The loss of that name, or a user's own for "module:name", a Loss.

    Errors: UnknownName; InputError where a user's module has no Loss of that name.
    """
    if user_code.is_users(name):
        found: Loss = user_code.load("loss", name, what="Loss", fits=lambda found: isinstance(found, Loss))
        return found
    if name not in LOSSES:
        raise UnknownName("loss", name, LOSSES)
    return LOSSES[name]


def check(name: str) -> None:
    """Try a user's loss on the scores of two members before anything trains.

    Errors: InputError where it fails, or does not give each member a finite, differentiable number of its own, the same
    each time.
    """
    of = loss(name)
    real, fake = torch.linspace(-2, 2, 16).view(2, 2, 4).requires_grad_().unbind()
    other = torch.cat([fake[:1], 3 * fake[1:]])
    if of.score not in ("logit", "linear"):
        raise InputError(f"loss {name!r}: score = {of.score!r} should be 'logit' or 'linear'.")
    players: dict[str, Callable[..., Tensor]] = {"discriminator": of.discriminator, "generator": of.of_generator}
    for player, function in players.items():
        try:
            first, again, beside = (function(real, scores) for scores in (fake, fake, other))
            shape = tuple(first.shape)
        except Exception as error:
            raise InputError(
                f"loss {name!r}: {player} fails on scores (2, 4): {type(error).__name__}: {error}."
            ) from error
        if shape != (2,):
            raise InputError(f"loss {name!r}: {player} maps scores (2, 4) to {shape}, not to (2,): take .mean(-1).")
        if not first.requires_grad or not first.isfinite().all():
            raise InputError(f"loss {name!r}: {player} gives {first.tolist()}, which is not finite and differentiable.")
        if not first.equal(again) or first[0] != beside[0]:
            raise InputError(f"loss {name!r}: {player} draws random numbers, or mixes members; each is on its own.")


@dataclass(frozen=True)
class StackedLoss:
    """Each member's own loss, on a stack's scores (m, n); each result is (m,)."""

    of_discriminator: ByFunction
    of_generator: ByFunction
    scores: tuple[Score, ...]
    """What each member's scores are."""
    relative: bool
    """Whether a member's generator compares with real scores."""

    @classmethod
    def of(cls, names: Sequence[str], *, device: torch.device | str = "cpu") -> StackedLoss:
        """The losses of members, by name."""
        losses = [loss(name) for name in names]
        return cls(
            ByFunction.of([one.discriminator for one in losses], device),
            ByFunction.of([one.of_generator for one in losses], device),
            scores=tuple(one.score for one in losses),
            relative=any(one.relative for one in losses),
        )

    def discriminator(self, real: Tensor, fake: Tensor, *balance: Tensor) -> Tensor:
        """What each member's discriminator descends: (m,). `balance` (m,) where scores are reconstruction errors."""
        return self.of_discriminator(real, fake, *balance)

    def generator(self, real: Tensor | None, fake: Tensor) -> Tensor:
        """What each member's generator descends: (m,). `real` is needed where the loss is relative."""
        return self.of_generator(real, fake)


@dataclass(frozen=True)
class _Absolute:
    """A generator's loss that looks at fake scores alone, in the form of one that compares."""

    function: Callable[..., Tensor]

    def __call__(self, real: Tensor | None, fake: Tensor) -> Tensor:
        return self.function(fake)


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

    def __call__(self, *scores: Tensor | None) -> Tensor:
        if len(self.functions) == 1:
            return self.functions[0](*scores)
        results = torch.stack([function(*scores) for function in self.functions])
        return results.gather(0, self.choice)[0]
