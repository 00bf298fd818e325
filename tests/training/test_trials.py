"""The quickest way of a method, and the operations of a step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.errors import Preempted
from harness.layers import CONVOLUTION_WAYS, ConvolutionWay
from harness.training.feed import Feed
from harness.training.gan import Gan
from harness.training.loop import Schedule, Trained, train
from harness.training.processes import Processes
from harness.training.trials import quickest_way, step_operations

DCGAN: dict[str, Any] = {"model": "dcgan", "generator": {"channels": 2}, "discriminator": {"channels": 2}}


@dataclass(frozen=True)
class Slow:
    """A method whose steps take as long as its way says."""

    seconds: dict[ConvolutionWay, float]
    way: ConvolutionWay = "grouped"

    @property
    def ways(self) -> tuple[ConvolutionWay, ...]:
        return tuple(self.seconds)

    def by(self, way: ConvolutionWay) -> Slow:
        return replace(self, way=way)

    draws: Any = None
    capturable = False

    def reading(self, draws: Any, clock: Any) -> Slow:
        return self

    def step(self, state: Any, batch: Tensor, iteration: int) -> Tensor:
        time.sleep(self.seconds[self.way])
        state["part"]["count"] += 1
        return batch


class Nothing:
    """A feed of empty batches."""

    def batch(self, step: int) -> Tensor:
        return torch.empty(0)


@pytest.mark.parametrize("quickest", CONVOLUTION_WAYS)
def test_the_quickest_way_is_taken_and_the_state_kept(quickest: ConvolutionWay) -> None:
    method = Slow({way: 0.001 if way == quickest else 0.03 for way in CONVOLUTION_WAYS})
    state = {"part": {"count": torch.zeros(1)}}
    assert quickest_way(method, state, Nothing(), Processes()) == quickest
    assert state["part"]["count"] == 0


@pytest.mark.parametrize("placement", ["device", "stream"])
def test_ways_are_tried_whatever_the_updates_of_the_first_iterations(
    placement: str, gan_of: Callable[..., Gan], feed_of: Callable[..., Feed]
) -> None:
    scheduled = DCGAN | {"conditional": True, "critic_schedule": {"k": 3, "until": 1, "every": 9}}
    gan = gan_of(scheduled, scheduled | {"seed": 1})
    feed = feed_of(gan, 2, placement=placement)  # which ends before as many steps as are timed
    assert quickest_way(gan, gan.init(), feed, gan.game.processes) in CONVOLUTION_WAYS


def test_only_stacks_of_convolutions_have_a_choice(gan_of: Callable[..., Gan]) -> None:
    assert gan_of(DCGAN, DCGAN | {"seed": 1}).ways == CONVOLUTION_WAYS
    assert gan_of(DCGAN).ways == gan_of({}, {"seed": 1}).ways == ("grouped",)


def test_a_stack_of_convolutions_has_its_members_operations(
    gan_of: Callable[..., Gan], feed_of: Callable[..., Feed]
) -> None:
    one, three = (gan_of(*[DCGAN | {"seed": seed} for seed in range(members)]) for members in (1, 3))
    counted = [step_operations(gan, gan.init(), feed_of(gan, 1)) for gan in (one, three)]
    assert counted[1] == 3 * counted[0] > 0


def trained(gan: Gan, feed_of: Callable[..., Feed], folder: Path, *, stop_after: int | None = None) -> Trained:
    """A stack trained for 20 iterations, or interrupted before."""
    asked = iter(range(100))
    return train(
        gan,
        lambda first: feed_of(gan, 20, first=first),
        gan.game.processes,
        Schedule(20, folder),
        stop=lambda: stop_after is not None and next(asked) >= stop_after,
        snapshot=lambda *_: None,
        begin=lambda _: None,
        report=lambda *_: None,
    )


def test_a_resumed_stack_keeps_the_way_it_began_with(
    gan_of: Callable[..., Gan], feed_of: Callable[..., Feed], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gan = gan_of(DCGAN, DCGAN | {"seed": 1}, precision="float32")
    ways: list[ConvolutionWay] = ["in_turn", "channels_last"]
    monkeypatch.setattr("harness.training.loop.quickest_way", lambda *_: ways.pop(0))
    whole = trained(gan, feed_of, tmp_path / "whole")
    ways.insert(0, "in_turn")
    with pytest.raises(Preempted):
        trained(gan, feed_of, tmp_path / "parts", stop_after=7)
    resumed = trained(gan, feed_of, tmp_path / "parts")
    assert resumed.convolution == whole.convolution == "in_turn" and ways == ["channels_last"]
    for part in ("generator", "discriminator"):
        assert all(resumed.state[part][key].equal(tensor) for key, tensor in whole.state[part].items())
