from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from harness.draws import Draws
from harness.experiment import CriticSchedule
from harness.images import Split
from harness.training.feed import Order, TrainingImages
from harness.training.game import State
from harness.training.gan import Gan
from harness.training.inner_loop import InnerLoop
from harness.training.processes import Processes

SCHEDULES = [None, CriticSchedule(), *(CriticSchedule(k=7, until=u, every=e) for u in (0, 3, 10) for e in (1, 4, 10))]


def test_the_published_schedule_is_the_default() -> None:
    loop = InnerLoop(5, CriticSchedule())
    assert [loop.updates(i) for i in (0, 24, 25, 499, 500, 501, 1000)] == [100, 100, 5, 5, 100, 5, 100]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_updates_are_counted_without_going_through_them(schedule: CriticSchedule | None) -> None:
    loop, counted = InnerLoop(2, schedule), 0
    for iteration in range(1100):
        assert loop.before(iteration) == counted
        counted += loop.updates(iteration)


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_minibatches_follow_each_other_whatever_the_schedule(placement: str) -> None:
    images = torch.arange(50.0).view(50, 1, 1, 1).numpy()
    loops = InnerLoop(1), InnerLoop(1, CriticSchedule(k=3, until=2, every=4))
    plain, scheduled = (
        TrainingImages(Split(images), Processes(), placement=placement).feed(
            Order(Draws([0, 1]), size=50, batch_size=4, inner_loop=loop), first=0, steps=steps
        )
        for loop, steps in zip(loops, (17, 9), strict=True)
    )
    one_by_one = torch.cat([plain.batch(step).images for step in range(17)], 1)
    assert torch.cat([scheduled.batch(step).images for step in range(9)], 1).equal(one_by_one)


def test_a_scheduled_iteration_trains_as_one_with_so_many_updates(
    gan_of: Callable[..., Gan], train_for: Callable[[Gan, int], State]
) -> None:
    scheduled = train_for(gan_of({"critic_schedule": {"k": 3, "until": 2, "every": 100}}), 2)
    plain = train_for(gan_of({"k": 3}), 2)
    for part, tensors in plain.items():
        assert all(scheduled[part][name].equal(tensor) for name, tensor in tensors.items())
    assert not train_for(gan_of({}), 2)["discriminator"]["hidden0.weight"].equal(
        plain["discriminator"]["hidden0.weight"]
    )
