"""Markov chains: after how many steps they stop, and that no step has another's random numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from baselines.baseline import Chain, Chains, Walk
from harness.draws import Draws

DRAWS = Draws([0, 1])


class Counting:
    """A chain whose state is how many steps it has walked, and which keeps the times of its walks."""

    def __init__(self) -> None:
        self.times: list[int] = []

    def start(self, walk: Walk) -> Tensor:
        self.times.append(walk.time)
        return torch.zeros(2, walk.chains, 1)

    def advance(self, state: Tensor, walk: Walk) -> Tensor:
        self.times.append(walk.time)
        return state + 1

    @property
    def chain(self) -> Chain:
        return Chain(self.start, self.advance, output=lambda state: state.repeat(1, 1, 4))


def test_samples_are_states_after_the_burn_in_and_at_every_gap() -> None:
    found = Chains(3, burn_in=4, gap=2).samples(DRAWS, "sample", 0, 8, Counting().chain)
    assert found.shape == (2, 8, 4)
    assert found[0, :, 0].tolist() == [4, 4, 4, 6, 6, 6, 8, 8]


def test_states_are_those_after_so_many_steps() -> None:
    found = Chains(3, burn_in=4, gap=2).states(DRAWS, "sample", [1, 2, 9], Counting().chain)
    assert found.shape == (2, 3, 3, 4)
    assert found[1, 2, :, 0].tolist() == [1, 2, 9]


def test_every_step_of_every_family_has_random_numbers_of_its_own() -> None:
    counting = Counting()
    Chains(400, burn_in=4, gap=2).samples(DRAWS, "sample", 0, 3000, counting.chain)
    assert len(counting.times) == 3 * (1 + 4 + 2 * 2) == len(set(counting.times))
