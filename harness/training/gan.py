"""The GAN as a method: what a stack of generator/discriminator pairs starts from, does in a step, and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.draws import Draws
from harness.experiment import Experiment, LatentSettings
from harness.layers import CONVOLUTION_WAYS, Context, ConvolutionWay
from harness.models import ImageStatistics
from harness.training import step
from harness.training.clock import Clock
from harness.training.feed import Batch
from harness.training.game import ROLES, Game, State, latents
from harness.training.pieces import Pieces
from harness.training.processes import Processes


@dataclass(frozen=True)
class Gan:
    """A stack of pairs under Algorithm 1, with an exponential moving average of the generators if wanted."""

    game: Game
    updates: str
    ema: Tensor | None
    """Each member's decay, (m,)."""
    class_shares: Tensor | None = None
    """Each class's part of the training images, (classes,), where there are conditions."""

    parts = (*ROLES, *(f"{role}_optimizer" for role in ROLES), "objective")
    bernoulli_means = False  # of a latent there is one image

    @classmethod
    def of(
        cls, members: Sequence[Experiment], images: ImageStatistics, *, training_images: int, processes: Processes
    ) -> Gan:
        """The stack of these resolved experiments, which agree on everything that shapes the computation."""
        game = Game.of(members, images, training_images=training_images, processes=processes)
        decays = [member.ema for member in members if member.ema is not None]
        ema = torch.tensor(decays, dtype=processes.dtype, device=processes.device) if decays else None
        return cls(game, members[0].updates, ema, images.class_shares if members[0].conditional else None)

    @property
    def columns(self) -> tuple[str, ...]:
        """What a row of history holds."""
        return self.game.objective.columns

    def columns_of(self, position: int) -> tuple[str, ...]:
        """Those that mean something for a member."""
        return self.game.objective.columns_of(position)

    @property
    def prior(self) -> LatentSettings:
        """The size and distribution of latents."""
        return self.game.latent

    @property
    def draws(self) -> Draws:
        """The members' random numbers."""
        return self.game.draws

    @property
    def capturable(self) -> bool:
        """Whether an iteration is a fixed sequence of kernels on one device."""
        optimizers = self.game.optimizers.values()
        return (
            self.game.pair.capturable
            and len(self.game.pieces.draws) == 1
            and self.game.inner_loop.schedule is None
            and self.game.objective.capturable
            and all(optimizer.capturable for optimizer in optimizers)
        )

    def reading(self, draws: Draws, clock: Clock) -> Gan:
        """The same method, whose random numbers and schedules come from elsewhere."""
        return replace(self, game=replace(self.game, draws=draws, pieces=Pieces.of(draws), clock=clock))

    @property
    def ways(self) -> tuple[ConvolutionWay, ...]:
        """The ways of computing an iteration that differ in speed and rounding alone."""
        has_choice = self.game.pair.convolutional and len(self.draws.seeds) > 1
        return CONVOLUTION_WAYS if has_choice else CONVOLUTION_WAYS[:1]

    def by(self, way: ConvolutionWay) -> Gan:
        """The same method, computed in one of the ways."""
        return replace(self, game=replace(self.game, convolution=way))

    def accumulating(self, pieces: int) -> Gan:
        """The same method, which passes so many pieces of its minibatches through the networks one after another."""
        return replace(self, game=replace(self.game, pieces=Pieces.of(self.game.draws, pieces)))

    def init(self) -> State:
        """The state before the first iteration."""
        draws = self.game.draws.whole()
        state: State = {}
        for role in ROLES:
            network = getattr(self.game.pair, role)
            state[role] = network.init(draws, f"init/{role}")
            state[f"{role}_optimizer"] = self.game.optimizers[role].init(self.game.trained(role, state))
        example = next(iter(state["generator"].values()))
        state["objective"] = self.game.objective.init(len(example), like=example)
        if self.ema is not None:
            state["ema"] = {name: tensor.clone() for name, tensor in state["generator"].items()}
        if self.class_shares is not None:
            shares = self.class_shares.to(example).repeat(len(example), 1)
            state["classes"] = {"shares": shares}
        return state

    def step(self, state: State, batch: Batch, iteration: int) -> Tensor:
        """One iteration, in place. `batch`: k minibatches side by side, (m, k * local n, c, h, w). Row of history."""
        for role in ROLES:
            for tensor in self.game.trained(role, state).values():
                tensor.requires_grad_()
        row = step.ALGORITHMS[self.updates](
            self.game, state, batch.minibatches(self.game.inner_loop.updates(iteration)), iteration
        )
        if self.ema is not None:
            self._average(state, self.ema)
        return row

    def sample(self, state: State, n: int, *, purpose: str = "sample", first: int = 0) -> Tensor:
        """Samples first..first+n-1 of each member's endless list: images (m, n, c, h, w) in [0, 1].

        Batch normalisation uses running moments; the averaged generator is used where there is one.
        """
        z, y = self.latents(n, purpose=purpose, first=first), self.labels(state, n, purpose=purpose, first=first)
        return self.images_at(state, z, y, purpose=purpose, first=first)

    def latents(self, n: int, *, purpose: str = "sample", first: int = 0) -> Tensor:
        """Latents first..first+n-1 of each member's endless list: (m, n, size)."""
        return latents(self.game.latent, self.game.draws.whole(offset=first), f"{purpose}/latent", 0, n)

    def images_at(
        self, state: State, z: Tensor, y: Tensor | None, *, purpose: str = "sample", first: int = 0
    ) -> Tensor:
        """G(z) of latents (m, n, size), of classes y (m, n) where there are conditions: images (m, n, c, h, w).

        They stand in the places first..first+n-1.
        """
        draws = self.game.draws.whole(offset=first)
        context = Context(draws, f"sample/{purpose}", 0, z.shape[1], training=False, labels=y)
        with torch.no_grad(), self.game.processes.autocast():
            images: Tensor = self.game.pair.generator(state.get("ema", state["generator"]), z, context)
        images = images.to(self.game.processes.dtype)
        return images if self.game.units is None else self.game.units.images(images)

    def labels(self, state: State, n: int, *, purpose: str = "sample", first: int = 0) -> Tensor | None:
        """The classes of those samples, each as frequent as among the training images: int64 (m, n).

        None where there are no conditions.
        """
        if "classes" not in state:
            return None
        draws = self.game.draws.whole(offset=first)
        below = state["classes"]["shares"].cumsum(1)
        places = draws.uniform(f"{purpose}/class", 0, n, 1)[..., 0] * below[:, -1:]
        return torch.searchsorted(below, places, right=True).clamp_(max=below.shape[1] - 1)

    def sampler(self, state: State) -> State:
        """The parts of the state that `sample` needs."""
        return {part: state[part] for part in ("generator", "ema", "classes") if part in state}

    @torch.no_grad()
    def _average(self, state: State, decays: Tensor) -> None:
        for name, tensor in state["generator"].items():
            if name in self.game.pair.generator.buffers:
                state["ema"][name].copy_(tensor)
            else:
                state["ema"][name].lerp_(tensor, (1 - decays).view(-1, *[1] * (tensor.ndim - 1)))
