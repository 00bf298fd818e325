"""What the members of a stack minimise and are held to: each its own loss and factors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from harness import user_code
from harness.draws import Draws
from harness.experiment import BalanceSettings, Experiment
from harness.objectives.losses import StackedLoss
from harness.objectives.penalties import Penalty, penalty
from harness.training.processes import Processes

Balances = dict[str, Tensor]
"""What an objective keeps between updates: nothing, or k (m,)."""


_PROBABILITIES = ("d_real", "d_fake")
_DIFFERENCE = ("score_difference",)
"""E a(x) - E a(G(z)): a critic's estimate of the Wasserstein-1 distance, as far as it is 1-Lipschitz."""


@dataclass(frozen=True)
class Objective:
    """Losses, and what is added to the discriminator's. Factors are (m,), None where a stack goes without."""

    names: tuple[str, ...]
    """Each member's loss."""
    device: torch.device
    discriminator_loss_weight: float | Tensor
    real_label: Tensor | None
    penalty: Penalty | None
    penalty_weight: Tensor | None
    weight_clip: Tensor | None
    max_column_norms: Mapping[str, Tensor | None]
    """Each player's."""
    balance: Balance | None
    noise: Tensor | None
    """Deviation of the instance noise at the first iteration."""
    noise_until: int

    @classmethod
    def of(cls, members: Sequence[Experiment], processes: Processes) -> Objective:
        """The objective of these resolved experiments, which agree on what it consists of."""

        def factors(of_member: Callable[[Experiment], Any]) -> Tensor | None:
            values = [of_member(member) for member in members]
            if values[0] is None:
                return None
            return torch.tensor(values, dtype=processes.dtype, device=processes.device)

        shared = members[0]
        weights = [member.discriminator_loss_weight for member in members]
        weight = factors(lambda member: member.discriminator_loss_weight) if len(set(weights)) > 1 else None
        return cls(
            names=tuple(member.loss for member in members),
            device=processes.device,
            discriminator_loss_weight=weights[0] if weight is None else weight,
            real_label=factors(lambda member: member.real_label),
            penalty=penalty(shared.penalty.name) if shared.penalty else None,
            penalty_weight=factors(lambda member: member.penalty and member.penalty.weight),
            weight_clip=factors(lambda member: member.weight_clip),
            max_column_norms={
                "generator": factors(lambda member: member.generator.max_column_norm),
                "discriminator": factors(lambda member: member.discriminator.max_column_norm),
            },
            balance=Balance.of([member.balance for member in members if member.balance], processes),
            noise=factors(lambda member: member.instance_noise and member.instance_noise.std),
            noise_until=shared.instance_noise.until if shared.instance_noise else 0,
        )

    @cached_property
    def loss(self) -> StackedLoss:
        """Looked up when training asks: samples of a finished run need no user's loss."""
        return StackedLoss.of(self.names, device=self.device)

    @property
    def capturable(self) -> bool:
        """Whether a graph can replay it: nobody knows what a user's loss reads from the device."""
        return not any(user_code.is_users(name) for name in self.names)

    @property
    def columns(self) -> tuple[str, ...]:
        """What a row of history holds; `penalty` is what a penalty charges, without its weight."""
        of_scores = (
            self.balance.columns if self.balance else (*_PROBABILITIES, *(_DIFFERENCE if self._is_critic else ()))
        )
        return ("discriminator_loss", "generator_loss", *of_scores, *(["penalty"] if self.penalty else []))

    def columns_of(self, member: int) -> tuple[str, ...]:
        """Those that mean something for a member: probabilities where scores are logits, else their difference."""
        others = _DIFFERENCE if self.loss.scores[member] == "logit" else _PROBABILITIES
        return tuple(name for name in self.columns if name not in others)

    @property
    def _is_critic(self) -> bool:
        """Whether a member's scores are any numbers."""
        return "linear" in self.loss.scores

    @torch.no_grad()
    def row(
        self, loss_d: Tensor, loss_g: Tensor, real: Tensor, fake: Tensor, charge: Tensor | None, state: Balances
    ) -> Tensor:
        """One line of history, (columns, m): the losses, means over the last minibatch, and the penalty's charge."""
        if self.balance is None:
            means = [real.sigmoid().mean(-1), fake.sigmoid().mean(-1)]
            means += [real.mean(-1) - fake.mean(-1)] if self._is_critic else []
        else:
            means = self.balance.row(real.mean(-1), fake.mean(-1), state["k"])
        return torch.stack([loss_d, loss_g, *means, *([] if charge is None else [charge])])

    def init(self, members: int, like: Tensor) -> Balances:
        """What the objective keeps between updates, before the first."""
        return {} if self.balance is None else {"k": like.new_zeros(members)}

    def discriminator(self, real: Tensor, fake: Tensor, state: Balances) -> Tensor:
        """The loss of scores (m, n) that each discriminator is judged by, without weight and penalty: (m,)."""
        if self.balance is not None:
            return self.loss.discriminator(real, fake, state["k"].clone())  # which moves before the gradient is taken
        loss = self.loss.discriminator(real, fake)
        if self.real_label is None:
            return loss
        # -s log D - (1 - s) log(1 - D) = softplus(-a) + (1 - s) a. Salimans et al. 2016, section 3.4.
        return loss + (1 - self.real_label) * real.mean(-1)

    @torch.no_grad()
    def settle(self, real: Tensor, fake: Tensor, state: Balances) -> None:
        """Move what is kept between updates by the scores of one, in place."""
        if self.balance is not None:
            self.balance.move(state["k"], real.mean(-1), fake.mean(-1))

    def weighted(self, loss: Tensor, charge: Tensor | None) -> Tensor:
        """What each discriminator descends: its weighted loss and, where there is a penalty, its charge; (m,)."""
        total = loss * self.discriminator_loss_weight
        return total if charge is None or self.penalty_weight is None else total + charge * self.penalty_weight

    def hold(self, role: str, parameters: Mapping[str, Tensor]) -> None:
        """Hold a player's updated parameters (m, ...) within each member's bounds, in place."""
        if role == "discriminator":
            self.clip(parameters.values())
        self.shorten(role, (one for name, one in parameters.items() if name.endswith(".weight") and one.ndim == 3))

    def clip(self, parameters: Iterable[Tensor]) -> None:
        """Hold parameters (m, ...) within each member's bound, in place. Arjovsky et al. 2017, algorithm 1."""
        if self.weight_clip is None:
            return
        for parameter in parameters:
            bound = self.weight_clip.view(-1, *[1] * (parameter.ndim - 1))
            parameter.detach().clamp_(-bound, bound)

    def shorten(self, role: str, weights: Iterable[Tensor]) -> None:
        """Scale columns of a player's weights (m, inputs, outputs) down to each member's norm, in place.

        A column holds the weights into one unit; what is shorter keeps its bits. Srivastava et al. 2014, section 5.1.
        """
        longest = self.max_column_norms[role]
        if longest is None:
            return
        for weight in weights:
            values = weight.detach()
            norms = values.square().sum(1, keepdim=True).sqrt()
            values.mul_((longest.view(-1, 1, 1) / norms).clamp(max=1))


@dataclass(frozen=True)
class Balance:
    """BEGAN's k_t, which holds the errors of fake images at `gamma` times those of real ones; (m,) each.

    It moves after each update of the discriminator, by the images of that update; the publication moves it once an
    iteration by the generator's. Source: Berthelot, Schumm and Metz 2017, sections 3.3 and 3.4.1.
    """

    columns = ("reconstruction_real", "reconstruction_fake", "balance", "convergence")

    gamma: Tensor
    rate: Tensor
    clipped: bool

    @classmethod
    def of(cls, settings: Sequence[BalanceSettings], processes: Processes) -> Balance | None:
        """The members' balances; None where there are none."""
        if not settings:
            return None
        gamma, rate = (
            torch.tensor([getattr(one, name) for one in settings], dtype=processes.dtype, device=processes.device)
            for name in ("gamma", "rate")
        )
        return cls(gamma, rate, settings[0].clipped)

    def row(self, real: Tensor, fake: Tensor, k: Tensor) -> list[Tensor]:
        """Mean errors, k_t after they moved it, and the measure of convergence: E L(x) + |gamma E L(x) - E L(G(z))|."""
        return [real, fake, k, real + (self.gamma * real - fake).abs()]

    def move(self, k: Tensor, real: Tensor, fake: Tensor) -> None:
        """k_t to k_{t+1}, in place."""
        k.add_(self.rate * (self.gamma * real - fake))
        if self.clipped:
            k.clamp_(0, 1)


@dataclass(frozen=True)
class Minibatch:
    """A step's images (m, local n, c, h, w) as penalties see them."""

    real: Tensor
    fake: Tensor
    update: int
    size: int
    """Images over all processes."""
    draws: Draws
    processes: Processes

    def uniform(self, what: str, width: int) -> Tensor:
        """Numbers uniform on [0, 1) of their own for each name: (m, local n, width)."""
        return self.draws.uniform(f"penalty/{what}", self.update, self.size, width)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of (m, local n, ...) over the images of all processes and all that follows: (m,)."""
        count = self.size * values[0, 0].numel()
        return self.processes.total(values.flatten(1).sum(1)) / count
