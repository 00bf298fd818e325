"""Minibatches: which images each member sees in each step, and how they reach the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from harness.draws import Draws
from harness.experiment import Experiment
from harness.images import ImageSet, Split, unit
from harness.models import ImageStatistics
from harness.training.inner_loop import InnerLoop
from harness.training.processes import Processes
from harness.training.units import Units, units

Placement = Literal["auto", "device", "stream"]
_ORDERS_AHEAD = 2**18


@dataclass(frozen=True)
class Batch:
    """Images (m, n, c, h, w) and, where training is conditional, their classes, int64 (m, n)."""

    images: Tensor
    labels: Tensor | None = None

    def minibatches(self, count: int) -> list[Batch]:
        """Its `count` minibatches, which lie side by side."""
        labels = [None] * count if self.labels is None else self.labels.chunk(count, 1)
        return [Batch(*parts) for parts in zip(self.images.chunk(count, 1), labels, strict=True)]


class Order:
    """Which images come when: each member walks through a fresh random order in every epoch, forever.

    A function of (seed, step) alone. Minibatches run on across the end of an epoch, so every image is seen once in
    each.
    """

    def __init__(self, draws: Draws, *, size: int, batch_size: int, inner_loop: InnerLoop) -> None:
        self.draws = draws
        self.size = size
        self.batch_size = batch_size
        self.inner_loop = inner_loop
        self._first_epoch = 0
        self._orders: Tensor | None = None

    def indices(self, step: int) -> Tensor:
        """Images of a step, over all processes: (m, batches, batch size), int64."""
        batches = self.inner_loop.updates(step)
        start, count = self.inner_loop.before(step) * self.batch_size, batches * self.batch_size
        first, last = start // self.size, (start + count - 1) // self.size
        orders = self._window(first, last)
        offset = start - self._first_epoch * self.size
        return orders[:, offset : offset + count].reshape(-1, batches, self.batch_size)

    def _window(self, first: int, last: int) -> Tensor:
        """The orders of some epochs, at least first..last, end to end: (m, epochs * size)."""
        orders = self._orders
        if orders is None or first < self._first_epoch or (last + 1 - self._first_epoch) * self.size > orders.shape[1]:
            ahead = _ORDERS_AHEAD // (self.size * len(self.draws.seeds))
            orders = self.draws.orders("order", first, max(last - first + 1, min(ahead, 64)), self.size).flatten(1)
            self._first_epoch, self._orders = first, orders
        return orders


class Feed(Protocol):
    """Gives a step's images."""

    def batch(self, step: int) -> Batch:
        """This process's part of a step: minibatches of (m, local n, c, h, w) side by side, as networks see them."""


class ResidentFeed:
    """All images lie on the device as one tensor."""

    def __init__(self, images: Tensor, order: Order, processes: Processes, labels: Tensor | None = None) -> None:
        self.images = images
        self.labels = labels
        self.order = order
        self.processes = processes

    def indices(self, step: int) -> Tensor:
        """This process's images of a step: (m, batches * local n), int64."""
        return _own(self.order, step, self.processes)

    def batch(self, step: int) -> Batch:
        return self.gather(self.indices(step))

    def gather(self, indices: Tensor) -> Batch:
        """Images by index (m, n), int64."""
        images = self.images.index_select(0, indices.flatten()).view(*indices.shape, *self.images.shape[1:])
        return Batch(images, _chosen(self.labels, indices))


class StreamedFeed:
    """Images stay where they are and come through a DataLoader, prepared by Accelerate."""

    def __init__(self, images: TrainingImages, order: Order, *, first: int, steps: int) -> None:
        processes = images.processes
        self._labels = images.labels
        self._units = images.units
        self._order = order
        self._members = len(order.draws.seeds)
        self._processes = processes
        sampler = _Steps(order, processes.count, first, steps)
        loader: DataLoader[Tensor] = DataLoader(_Indexed(images.split), batch_sampler=sampler, collate_fn=_only)
        if processes.count > 1:
            processes.accelerator.dataloader_config.split_batches = True
            loader = processes.accelerator.prepare_data_loader(loader)
        self._batches = iter(loader)
        self._next = first

    def batch(self, step: int) -> Batch:
        assert step == self._next, "a streamed feed is read in order"
        self._next += 1
        images = torch.cat([self._minibatch() for _ in range(self._order.inner_loop.updates(step))], 1)
        labels = None if self._labels is None else _chosen(self._labels, _own(self._order, step, self._processes))
        return Batch(images, labels)

    def _minibatch(self) -> Tensor:
        images: Tensor = next(self._batches)
        images = images.to(device=self._processes.device, dtype=self._processes.dtype)
        images = images if self._units is None else self._units.of_images(images)
        return images.view(self._members, -1, *images.shape[1:])


def _own(order: Order, step: int, processes: Processes) -> Tensor:
    """A process's part of a step: indices (m, batches * local n), int64."""
    local = order.batch_size // processes.count
    return order.indices(step)[:, :, processes.rank * local : (processes.rank + 1) * local].flatten(1)


def _chosen(labels: Tensor | None, indices: Tensor) -> Tensor | None:
    return None if labels is None else labels.index_select(0, indices.flatten()).view(indices.shape)


class _Steps(Sampler[list[int]]):
    """Minibatch after minibatch of each step, all members', sorted by process: equal cuts are the processes' parts."""

    def __init__(self, order: Order, processes: int, first: int, steps: int) -> None:
        self.order = order
        self.processes = processes
        self.first = first
        self.steps = steps
        self.batch_size = len(order.draws.seeds) * order.batch_size
        self.drop_last = False

    def __len__(self) -> int:
        return self.order.inner_loop.before(self.steps) - self.order.inner_loop.before(self.first)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.steps):
            for indices in self.order.indices(step).unbind(1):
                parts = indices.chunk(self.processes, dim=1)
                yield [int(index) for part in parts for index in part.flatten()]


class _Indexed(Dataset[Tensor]):
    """A split that answers a whole batch of indices at once."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __getitem__(self, index: int) -> Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Tensor:
        return torch.from_numpy(unit(self.split.images[np.asarray(indices)]))

    def __len__(self) -> int:
        return len(self.split)


def _only(images: Any) -> Any:
    """Images come as a batch already: nothing is left to collate."""
    return images


class TrainingImages:
    """A training split as this process reads it: resident where half of the free memory holds it, else streamed.

    `labelled`: whether the images come with their classes. `seen_as`: what networks see of them; None: them, in [0, 1].
    """

    def __init__(
        self,
        split: Split,
        processes: Processes,
        *,
        placement: Placement = "auto",
        labelled: bool = False,
        seen_as: Units | None = None,
    ) -> None:
        self.split = split
        self.processes = processes
        self.units = seen_as
        self.labels = torch.from_numpy(split.labels).to(processes.device) if labelled else None
        self.resident: Tensor | None = None
        if placement == "device" or (placement == "auto" and fits(split, processes)):
            images = torch.from_numpy(unit(split.images[np.arange(len(split))]))
            images = images.to(device=processes.device, dtype=processes.dtype)
            self.resident = images if seen_as is None else seen_as.of_images(images)

    @classmethod
    def of(
        cls, experiment: Experiment, split: Split, processes: Processes, *, placement: Placement = "auto"
    ) -> TrainingImages:
        """The training split as a resolved experiment wants it."""
        labelled, seen_as = bool(experiment.conditional), units(experiment.preprocessing)
        return cls(split, processes, placement=placement, labelled=labelled, seen_as=seen_as)

    def feed(self, order: Order, *, first: int, steps: int) -> Feed:
        """The feed for steps first..steps-1."""
        if self.resident is not None:
            return ResidentFeed(self.resident, order, self.processes, self.labels)
        return StreamedFeed(self, order, first=first, steps=steps)


def fits(split: Split, processes: Processes) -> bool:
    """Whether a split as one tensor takes at most half of the device's free memory, shared by its processes."""
    item = unit(split.images[np.arange(1)])
    needed = len(split) * item.size * (8 if processes.dtype == torch.float64 else 4)
    if processes.device.type == "cuda":
        return needed <= torch.cuda.mem_get_info(processes.device)[0] / 2
    return bool(needed * processes.neighbours <= psutil.virtual_memory().available / 2)


def statistics(data: ImageSet) -> ImageStatistics:
    """What a model may know of a data set."""
    labels = data.train.labels
    if labels is None or data.classes is None:
        return ImageStatistics(data.shape, mean_image(data.train))
    shares = torch.from_numpy(np.bincount(labels, minlength=data.classes) / len(labels))
    return ImageStatistics(data.shape, mean_image(data.train), shares)


def mean_image(split: Split) -> Tensor:
    """The mean training image, (c, h, w) float32, summed in float64."""
    total = np.zeros(split.images[np.arange(1)].shape[1:], dtype=np.float64)
    for start in range(0, len(split), 4096):
        block = np.arange(start, min(start + 4096, len(split)))
        total += unit(split.images[block]).sum(axis=0, dtype=np.float64)
    return torch.from_numpy((total / len(split)).astype(np.float32))
