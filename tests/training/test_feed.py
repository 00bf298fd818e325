from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.draws import Draws
from harness.images import ImageSet, Split, unit
from harness.training import feed
from harness.training.feed import Order, ResidentFeed, TrainingImages, fits, mean_image
from harness.training.inner_loop import InnerLoop
from harness.training.processes import Processes


def order(seeds: tuple[int, ...] = (0, 1), *, size: int = 23, batch_size: int = 4, batches: int = 3) -> Order:
    return Order(Draws(seeds), size=size, batch_size=batch_size, inner_loop=InnerLoop(batches))


def process(rank: int = 0, count: int = 1, dtype: torch.dtype = torch.float32) -> Processes:
    """What a feed asks of the processes, without starting any."""
    facts = SimpleNamespace(rank=rank, count=count, neighbours=count, dtype=dtype, device=torch.device("cpu"))
    return cast(Processes, facts)


def seen(images: Order, steps: int) -> Tensor:
    """The images of each member in the order in which they come: (m, count)."""
    return torch.cat([images.indices(step) for step in range(steps)], 1).flatten(1)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 4))
def test_every_image_comes_once_in_an_epoch(size: int, batch_size: int, batches: int) -> None:
    steps = -(-3 * size // (batch_size * batches))
    images = seen(order(size=size, batch_size=batch_size, batches=batches), steps)[:, : 3 * size]
    assert (images.view(2, 3, size).sort(-1).values == torch.arange(size)).all()


def test_the_order_changes_with_epoch_and_seed() -> None:
    epochs = seen(order(size=24, batch_size=4, batches=3), 4).view(-1, 24)
    assert len(set(map(tuple, epochs.tolist()))) == 4


@pytest.mark.parametrize("steps", [[9, 2, 40, 0], [40, 39, 0, 41]])
def test_a_step_depends_on_its_number_and_the_members_seed_alone(steps: list[int]) -> None:
    forward, anyhow = order(), order((1, 7))
    expected = [forward.indices(step)[1] for step in range(42)]
    for step in steps:
        assert anyhow.indices(step)[0].equal(expected[step])


@pytest.mark.parametrize("ahead", [1, 100, 10**6])
def test_orders_drawn_ahead_are_the_same(ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = seen(order(), 30)
    monkeypatch.setattr(feed, "_ORDERS_AHEAD", ahead)
    assert seen(order(), 30).equal(expected)


def test_the_processes_parts_are_disjoint_and_make_up_the_minibatches() -> None:
    numbers = torch.arange(24.0).view(24, 1, 1, 1)
    images = order(size=24, batch_size=6, batches=2)
    parts = [ResidentFeed(numbers, images, process(rank, 3)) for rank in range(3)]
    for step in range(4):
        found = torch.cat([part.batch(step).images.view(2, 2, 2) for part in parts], dim=2)
        assert found.equal(images.indices(step).float())
        assert all(len(member.unique()) == 12 for member in found)


def test_equal_cuts_of_a_streamed_step_are_the_processes_parts() -> None:
    images, numbers = order(size=24, batch_size=6, batches=2), torch.arange(24.0).view(24, 1, 1, 1)
    steps = feed._Steps(images, 3, 2, 9)
    minibatches = torch.tensor(list(steps)).view(7, 2, 3, 2, 2)  # step, minibatch, process, member, image
    assert len(steps) == 14
    for rank in range(3):
        resident = ResidentFeed(numbers, images, process(rank, 3))
        for step, part in zip(range(2, 9), minibatches[:, :, rank], strict=True):
            assert part.transpose(0, 1).float().equal(resident.batch(step).images.view(2, 2, 2))


class OnDemand:
    """Images that are decoded when they are asked for."""

    def __init__(self, images: np.ndarray[Any, Any]) -> None:
        self.images = images
        self.file_hashes = [""] * len(images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.array(self.images[indices])


PIXELS = np.random.default_rng(0).integers(0, 256, (23, 1, 3, 2), dtype=np.uint8)
SPLITS: dict[str, Callable[[], Split]] = {
    "bytes": lambda: Split(PIXELS),
    "floats": lambda: Split(unit(PIXELS)),
    "on demand": lambda: Split(OnDemand(PIXELS)),
}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("first", [0, 3])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_streamed_feed_gives_the_bits_of_the_resident_one(
    split: Callable[[], Split], first: int, precision: str
) -> None:
    processes = Processes(precision)
    resident, streamed = (
        TrainingImages(split(), processes, placement=placement).feed(order(), first=first, steps=9)
        for placement in ("device", "stream")
    )
    for step in range(first, 9):
        one, other = resident.batch(step).images, streamed.batch(step).images
        assert one.shape == (2, 12, 1, 3, 2) and one.dtype == processes.dtype
        assert one.equal(other)


@pytest.mark.parametrize("rank", [0, 1])
def test_labels_are_those_of_the_images_beside_them_however_fed(rank: int) -> None:
    numbers, classes = np.arange(24.0, dtype=np.float32).reshape(24, 1, 1, 1), np.arange(24) % 5
    images, split = order(size=24, batch_size=6, batches=2), Split(numbers, classes)
    feeds = [
        TrainingImages(split, process(), placement=placement, labelled=True).feed(images, first=0, steps=9)
        for placement in ("device", "stream")
    ]
    feeds.append(ResidentFeed(torch.from_numpy(numbers), images, process(rank, 2), torch.from_numpy(classes)))
    for one in feeds:
        batch = one.batch(0)
        assert batch.labels is not None and batch.labels.equal(batch.images[..., 0, 0, 0].long() % 5)
        for part in batch.minibatches(2):
            assert part.labels is not None and part.labels.equal(part.images[..., 0, 0, 0].long() % 5)


def test_a_step_holds_the_images_that_its_order_names() -> None:
    images = TrainingImages(Split(PIXELS), Processes()).feed(order(), first=0, steps=5)
    expected = unit(PIXELS)[order().indices(4).flatten(1).numpy()]
    np.testing.assert_array_equal(images.batch(4).images.numpy(), expected)


@pytest.mark.parametrize(("count", "dtype", "item_bytes"), [(1, torch.float32, 4), (2, torch.float64, 8)])
def test_images_fit_in_half_of_the_free_memory(
    count: int, dtype: torch.dtype, item_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 23 * 6 * item_bytes * count
    for available, expected in ((2 * needed, True), (2 * needed - 1, False)):
        monkeypatch.setattr("psutil.virtual_memory", lambda free=available: SimpleNamespace(available=free))
        assert fits(Split(PIXELS), process(0, count, dtype)) is expected


def test_images_that_do_not_fit_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=0))
    assert TrainingImages(Split(PIXELS), process()).resident is None
    assert TrainingImages(Split(PIXELS), process(), placement="device").resident is not None


def test_the_mean_image_is_the_mean_of_all(digits: ImageSet) -> None:
    expected = unit(digits.train.images[np.arange(1197)]).mean(0, dtype=np.float64).astype(np.float32)
    np.testing.assert_allclose(mean_image(digits.train).numpy(), expected, rtol=1e-6)
    many = np.repeat(PIXELS, 400, axis=0)
    np.testing.assert_allclose(mean_image(Split(many)).numpy(), unit(PIXELS).mean(0), rtol=1e-6)
