"""Minibatches: which images each member sees in each step, and how they reach the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from harness.draws import Draws
from harness.images import Split, unit
from harness.training.processes import Processes

Placement = Literal["auto", "device", "stream"]
_ORDERS_AHEAD = 2**18


class Order:
    """Which images come when: each member walks through a fresh random order in every epoch, forever.

    A function of (seed, step) alone. Minibatches run on across the end of an epoch, so every image is seen once in
    each.
    """

    def __init__(self, draws: Draws, *, size: int, batch_size: int, batches: int) -> None:
        self.draws = draws
        self.size = size
        self.batch_size = batch_size
        self.batches = batches
        self._first_epoch = 0
        self._orders: Tensor | None = None

    def indices(self, step: int) -> Tensor:
        """Images of a step, over all processes: (m, batches, batch size), int64."""
        count = self.batches * self.batch_size
        start = step * count
        first, last = start // self.size, (start + count - 1) // self.size
        orders = self._window(first, last)
        offset = start - self._first_epoch * self.size
        return orders[:, offset : offset + count].reshape(-1, self.batches, self.batch_size)

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

    def batch(self, step: int) -> Tensor:
        """This process's part of a step: minibatches side by side, (m, batches * local n, c, h, w) in [0, 1]."""


class ResidentFeed:
    """All images lie on the device as one tensor."""

    def __init__(self, images: Tensor, order: Order, processes: Processes) -> None:
        self.images = images
        self.order = order
        local = order.batch_size // processes.count
        self._rows = slice(processes.rank * local, (processes.rank + 1) * local)

    def indices(self, step: int) -> Tensor:
        """This process's images of a step: (m, batches * local n), int64."""
        return self.order.indices(step)[:, :, self._rows].flatten(1)

    def batch(self, step: int) -> Tensor:
        return self.gather(self.indices(step))

    def gather(self, indices: Tensor) -> Tensor:
        """Images by index: (m, batches * local n, c, h, w)."""
        return self.images.index_select(0, indices.flatten()).view(*indices.shape, *self.images.shape[1:])


class StreamedFeed:
    """Images stay where they are and come through a DataLoader, prepared by Accelerate."""

    def __init__(self, split: Split, order: Order, processes: Processes, *, first: int, steps: int) -> None:
        self._members = len(order.draws.seeds)
        self._processes = processes
        sampler = _Steps(order, processes.count, first, steps)
        loader: DataLoader[Tensor] = DataLoader(_Indexed(split), batch_sampler=sampler, collate_fn=_only)
        if processes.count > 1:
            processes.accelerator.dataloader_config.split_batches = True
            loader = processes.accelerator.prepare_data_loader(loader)
        self._batches = iter(loader)
        self._next = first

    def batch(self, step: int) -> Tensor:
        assert step == self._next, "a streamed feed is read in order"
        self._next += 1
        images: Tensor = next(self._batches)
        images = images.to(device=self._processes.device, dtype=self._processes.dtype)
        return images.view(self._members, -1, *images.shape[1:])


class _Steps(Sampler[list[int]]):
    """Each step's images, all members', sorted by process so that equal cuts give each process its part."""

    def __init__(self, order: Order, processes: int, first: int, steps: int) -> None:
        self.order = order
        self.processes = processes
        self.first = first
        self.steps = steps
        self.batch_size = len(order.draws.seeds) * order.batches * order.batch_size
        self.drop_last = False

    def __len__(self) -> int:
        return self.steps - self.first

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first, self.steps):
            indices = self.order.indices(step)
            parts = indices.chunk(self.processes, dim=2)
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
    """A training split as this process reads it: resident where half of the free memory holds it, else streamed."""

    def __init__(self, split: Split, processes: Processes, *, placement: Placement = "auto") -> None:
        self.split = split
        self.processes = processes
        self.resident: Tensor | None = None
        if placement == "device" or (placement == "auto" and fits(split, processes)):
            images = torch.from_numpy(unit(split.images[np.arange(len(split))]))
            self.resident = images.to(device=processes.device, dtype=processes.dtype)

    def feed(self, order: Order, *, first: int, steps: int) -> Feed:
        """The feed for steps first..steps-1."""
        if self.resident is not None:
            return ResidentFeed(self.resident, order, self.processes)
        return StreamedFeed(self.split, order, self.processes, first=first, steps=steps)


def fits(split: Split, processes: Processes) -> bool:
    """Whether a split as one tensor takes at most half of the device's free memory, shared by its processes."""
    item = unit(split.images[np.arange(1)])
    needed = len(split) * item.size * (8 if processes.dtype == torch.float64 else 4)
    if processes.device.type == "cuda":
        return needed <= torch.cuda.mem_get_info(processes.device)[0] / 2
    return bool(needed * processes.neighbours <= psutil.virtual_memory().available / 2)


def mean_image(split: Split) -> Tensor:
    """The mean training image, (c, h, w) float32, summed in float64."""
    total = np.zeros(split.images[np.arange(1)].shape[1:], dtype=np.float64)
    for start in range(0, len(split), 4096):
        block = np.arange(start, min(start + 4096, len(split)))
        total += unit(split.images[block]).sum(axis=0, dtype=np.float64)
    return torch.from_numpy((total / len(split)).astype(np.float32))
