from __future__ import annotations

from collections.abc import Callable

import torch

from harness.benchmarks.workload import TrainingSet, TrainingStack
from harness.experiment import Experiment
from harness.images import ImageSet
from harness.training.game import State
from harness.training.gan import Gan

Resolve = Callable[..., Experiment]


def test_a_timed_stack_trains_as_a_grids_does(
    resolve: Resolve, digits: ImageSet, gan_of: Callable[..., Gan], train_for: Callable[[Gan, int], State]
) -> None:
    members = [{"seed": 1}, {"seed": 2, "loss": "minimax"}]
    stack = TrainingStack.of([resolve(**member) for member in members], TrainingSet.of(digits, resolve()))
    stack.train(2)
    stack.train_eagerly(1)
    expected = train_for(gan_of(*members, precision="float32"), 3)
    assert stack.iteration == 3
    for name, tensor in expected["generator"].items():
        torch.testing.assert_close(stack.state["generator"][name], tensor, rtol=0, atol=0)


def test_operations_and_bytes_grow_with_the_members(resolve: Resolve, digits: ImageSet) -> None:
    training_set = TrainingSet.of(digits, resolve())
    one, three = (TrainingStack.of([resolve(seed=seed) for seed in range(members)], training_set) for members in (1, 3))
    assert three.operations() == 3 * one.operations() > 0
    assert three.bytes_at_least() == 3 * one.bytes_at_least() > 0
    assert three.state_bytes == 3 * one.state_bytes


def test_bytes_count_parameters_gradients_slots_and_minibatches(resolve: Resolve, digits: ImageSet) -> None:
    stack = TrainingStack.of([resolve(k=2)], TrainingSet.of(digits, resolve()))
    generator = 5 * 12 + 12 + 12 * 10 + 10 + 10 * 64 + 64
    discriminator = 64 * 9 + 9 + 9 * 8 + 8 + 8 * 1 + 1
    moved = (4 + 2) * (generator + 2 * discriminator) + 2 * 2 * 20 * 64  # one slot: SGD's momentum
    assert stack.bytes_at_least() == 4 * moved
