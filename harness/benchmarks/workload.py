"""A stack that trains on and on, to be timed, and what one of its iterations costs at least."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.benchmarks.roofline import operations_of
from harness.experiment import Experiment
from harness.images import ImageSet
from harness.methods import method
from harness.models import ImageStatistics, build
from harness.training.checkpoint import Nested
from harness.training.engine import Eager, Engine, engine
from harness.training.feed import Order, TrainingImages, statistics
from harness.training.inner_loop import InnerLoop
from harness.training.processes import Processes

_ROLES = ("generator", "discriminator")


@dataclass(frozen=True)
class TrainingSet:
    """A data set as stacks of one precision read it: on the device, where it fits."""

    statistics: ImageStatistics
    images: TrainingImages

    @classmethod
    def of(cls, images: ImageSet, experiment: Experiment) -> TrainingSet:
        """What stacks of the shape of a resolved experiment read."""
        processes = Processes(experiment.precision)
        return cls(statistics(images), TrainingImages.of(experiment, images.train, processes))


@dataclass
class TrainingStack:
    """A stack of experiments at some iteration; it can go on for ever."""

    experiment: Experiment
    """What its members share."""
    training_set: TrainingSet
    state: Nested
    engine: Engine
    eager: Engine
    members: int
    iteration: int = 0

    @classmethod
    def of(
        cls, experiments: Sequence[Experiment], training_set: TrainingSet, *, eagerly: bool = False
    ) -> TrainingStack:
        """The stack of these resolved experiments of one shape, at its beginning.

        It is carried out by the fastest engine here, or by the eager one if wanted.
        """
        shared, images = experiments[0], training_set.images
        size = len(images.split)
        gan = method(shared.method).build(
            experiments, training_set.statistics, training_images=size, processes=images.processes
        )
        order = Order(gan.draws, size=size, batch_size=shared.batch_size, inner_loop=InnerLoop.of(shared))
        feed = images.feed(order, first=0, steps=2**31)
        state = gan.init()
        eager = Eager(gan, state, feed)
        chosen = eager if eagerly else engine(gan, state, feed, images.processes)
        return cls(shared, training_set, state, chosen, eager, len(experiments))

    @property
    def device(self) -> torch.device:
        return self.training_set.images.processes.device

    def train(self, iterations: int) -> None:
        """Go on for some iterations."""
        self._go_on(self.engine, iterations)

    def train_eagerly(self, iterations: int) -> None:
        """Go on for some iterations whose operations are there to be seen, whatever the engine."""
        self._go_on(self.eager, iterations)

    def _go_on(self, chosen: Engine, iterations: int) -> None:
        for _ in range(iterations):
            chosen.step(self.iteration)
            self.iteration += 1

    def operations(self) -> int:
        """Operations of an iteration's matrix products and convolutions, over all members; trains for one."""
        return operations_of(lambda: self.train_eagerly(1))

    def bytes_at_least(self) -> int:
        """Bytes that an iteration moves at least, over all members, were every activation kept in a cache.

        An update reads and writes each parameter, its gradient and its optimizer's slots once; buffers and averaged
        parameters are read and written, and so is each minibatch when it is gathered.
        """
        pair = build(self.experiment, self.training_set.statistics)
        shape = self.training_set.statistics.shape
        item = next(iter(self.state["generator"].values())).element_size()
        images = self.members * self.experiment.k * self.experiment.batch_size * shape[0] * shape[1] * shape[2]
        total = 2 * item * images + 2 * _bytes(self.state.get("ema", {}).values())
        for role in _ROLES:
            buffers = getattr(pair, role).buffers
            trained = [tensor for name, tensor in self.state[role].items() if name not in buffers]
            kept = [tensor for name, tensor in self.state[role].items() if name in buffers]
            updates = self.experiment.k if role == "discriminator" else 1
            slots = self.state[f"{role}_optimizer"].values()
            total += updates * (4 * _bytes(trained) + 2 * _bytes(kept) + 2 * _bytes(slots))
        return total

    @property
    def state_bytes(self) -> int:
        """Memory of parameters, optimizer slots and buffers."""
        return sum(_bytes(tensors.values()) for tensors in self.state.values())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
