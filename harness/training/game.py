"""The two players of a stack: what Algorithm 1 is written in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.draws import Draws
from harness.experiment import Experiment, LatentSettings, OptimizerSettings
from harness.layers import Context, ConvolutionWay, Parameters
from harness.models import ImageStatistics, Pair, build
from harness.objectives.penalties import charge
from harness.training.clock import Clock, Count, HostClock
from harness.training.inner_loop import InnerLoop
from harness.training.objective import Minibatch, Objective
from harness.training.optimizers import StackedOptimizer
from harness.training.pieces import Pieces
from harness.training.processes import Processes
from harness.training.units import Units, units

State = dict[str, Parameters]
"""Tensors with the members axis, by part: generator, discriminator, their optimizers, objective, ema."""

ROLES = ("generator", "discriminator")


@dataclass(frozen=True)
class Game:
    """A stack of pairs, their losses and optimizers. Members share what shapes the computation, nothing else."""

    pair: Pair
    optimizers: dict[str, StackedOptimizer]
    objective: Objective
    latent: LatentSettings
    batch_size: int
    inner_loop: InnerLoop
    training_images: int
    processes: Processes
    draws: Draws
    pieces: Pieces
    """What goes through the networks at once."""
    clock: Clock = HostClock()
    units: Units | None = None
    """What networks see in the place of pixels in [0, 1]; None: those."""
    convolution: ConvolutionWay = "grouped"

    @classmethod
    def of(
        cls, members: Sequence[Experiment], images: ImageStatistics, *, training_images: int, processes: Processes
    ) -> Game:
        """The stack of these resolved experiments, which agree on everything that shapes the computation."""
        shared = members[0]
        draws = Draws(
            [member.seed for member in members],
            device=processes.device,
            dtype=processes.dtype,
            rank=processes.rank,
            processes=processes.count,
        )
        return cls(
            pair=build(shared, images),
            optimizers={role: StackedOptimizer.of([optimizer(member, role) for member in members]) for role in ROLES},
            objective=Objective.of(members, processes),
            latent=shared.latent,
            batch_size=shared.batch_size,
            inner_loop=InnerLoop.of(shared),
            units=units(shared.preprocessing),
            training_images=training_images,
            processes=processes,
            draws=draws,
            pieces=Pieces.of(draws),
        )

    def latents(self, purpose: str, update: int) -> Tensor:
        """Fresh z: (m, local n, latent size)."""
        return latents(self.latent, self.draws, f"latent/{purpose}", update, self.batch_size)

    def generate(self, state: State, z: Tensor, y: Tensor | None, purpose: str, update: int) -> Tensor:
        """G(z), of classes y (m, local n) where there are conditions: (m, local n, c, h, w)."""

        def forward(draws: Draws, z: Tensor, y: Tensor | None) -> tuple[Tensor]:
            with self.processes.autocast():
                context = self._context(draws, f"{purpose}/G", update, 1, y)
                images: Tensor = self.pair.generator(state["generator"], z, context)
            return (images.to(self.processes.dtype),)

        (images,) = self.pieces.through(forward, z, y)
        return images

    def scores(
        self, state: State, batches: Sequence[Tensor], y: Tensor | None, purpose: str, update: int
    ) -> Sequence[Tensor]:
        """D's scores of each batch, over all processes: (m, n) each. The batches go through D side by side.

        Each is of classes y (m, local n) where there are conditions.
        """
        count = len(batches)

        def forward(draws: Draws, y: Tensor | None, *batches: Tensor) -> tuple[Tensor, ...]:
            x = torch.cat(batches, 1) if count > 1 else batches[0]
            labels = y if y is None or count == 1 else torch.cat([y] * count, 1)
            with self.processes.autocast():
                context = self._context(draws, f"{purpose}/D", update, count, labels)
                a: Tensor = self.pair.discriminator(state["discriminator"], x, context)
            return a.to(self.processes.dtype).chunk(count, 1)

        return [self.processes.gather(a) for a in self.pieces.through(forward, y, *batches)]

    def seen(self, images: Sequence[Tensor], purpose: str, update: int, iteration: int) -> Sequence[Tensor]:
        """Batches of images (m, local n, c, h, w) as D sees them: with this iteration's noise, where there is any."""
        if self.objective.noise is None:
            return images
        left = self.clock.moment(Count, iteration).number(
            lambda at: max(0.0, 1 - at.update / self.objective.noise_until)
        )
        scale = (self.objective.noise * left).view(-1, 1, 1, 1, 1)
        width = images[0][0, 0].numel()
        noise = self.draws.normal(f"noise/{purpose}", update, self.batch_size, width, batches=len(images))
        parts = noise.chunk(len(images), 1)
        return [one + scale * part.view_as(one) for one, part in zip(images, parts, strict=True)]

    def charge(self, state: State, real: Tensor, fake: Tensor, y: Tensor | None, update: int) -> Tensor | None:
        """What each member's penalty charges for D's slope, over all processes: (m,); None where there is none.

        A real image and the fake one beside it are of the same class.
        """
        penalty = self.objective.penalty
        if penalty is None:
            return None

        def forward(draws: Draws, points: Tensor, y: Tensor | None) -> tuple[Tensor]:
            def discriminator(points: Tensor) -> Tensor:
                with self.processes.autocast():
                    context = self._context(draws, "discriminator/penalty/D", update, 1, y)
                    a: Tensor = self.pair.discriminator(state["discriminator"], points, context)
                return a.to(self.processes.dtype)

            return (charge(penalty, discriminator, points),)

        minibatch = Minibatch(real, fake, update, self.batch_size, self.draws, self.processes)
        (charged,) = self.pieces.through(forward, penalty.points(minibatch), y)
        return self.processes.gather(charged).mean(-1)

    def descend(self, role: str, loss: Tensor, state: State, update: int, iteration: int) -> None:
        """One update of a player's parameters, in place, down the losses (m,) of the members."""
        self.update(role, self.gradients(role, loss, state), state, update, iteration)

    def gradients(self, role: str, loss: Tensor, state: State, *, keep_graph: bool = False) -> list[Tensor]:
        """Gradients of the members' losses (m,) with respect to a player's parameters, over all processes."""
        # Members do not share parameters, so the gradient of the sum holds each member's own.
        trained = list(self.trained(role, state).values())
        # A user's module may hold parameters that it does not use: their gradients are zeros.
        gradients = torch.autograd.grad(loss.sum(), trained, retain_graph=keep_graph, materialize_grads=True)
        return self.processes.sum_gradients(gradients)

    def update(self, role: str, gradients: Sequence[Tensor], state: State, update: int, iteration: int) -> None:
        """Apply gradients to a player's parameters, in place."""

        def before(iteration: int) -> int:
            return self.inner_loop.before(iteration) if role == "discriminator" else iteration

        j = update - before(iteration)

        def count(iteration: int) -> Count:
            epoch = self.inner_loop.before(iteration) * self.batch_size // self.training_images
            return Count(before(iteration) + j, epoch)

        trained, slots = self.trained(role, state), state[f"{role}_optimizer"]
        self.optimizers[role].step(trained, gradients, slots, self.clock.moment(count, iteration))
        self.objective.hold(role, trained)

    def trained(self, role: str, state: State) -> Parameters:
        """The tensors of a player that gradients train."""
        buffers = getattr(self.pair, role).buffers
        return {name: tensor for name, tensor in state[role].items() if name not in buffers}

    def _context(self, draws: Draws, purpose: str, update: int, batches: int, labels: Tensor | None) -> Context:
        return Context(
            draws,
            purpose,
            update,
            self.batch_size,
            batches=batches,
            sum_over_processes=self.processes.sum_differentiably,
            convolution=self.convolution,
            labels=labels,
        )


def latents(settings: LatentSettings, draws: Draws, purpose: str, step: int, n: int) -> Tensor:
    """Latents of zero mean and unit variance: (m, n, size)."""
    if settings.distribution == "normal":
        return draws.normal(purpose, step, n, settings.size)
    return (2 * draws.uniform(purpose, step, n, settings.size) - 1) * math.sqrt(3)


def quantiles(settings: LatentSettings, shares: Tensor) -> Tensor:
    """The values that a component of the latents lies below with these probabilities, in (0, 1), of any shape."""
    if settings.distribution == "normal":
        values: Tensor = torch.special.ndtri(shares)
        return values
    return (2 * shares - 1) * math.sqrt(3)


def optimizer(experiment: Experiment, role: str) -> OptimizerSettings:
    """The resolved optimizer settings of a player."""
    settings: OptimizerSettings | None = getattr(experiment, role).optimizer
    assert settings is not None, "the plan fills in each player's optimizer"
    return settings
