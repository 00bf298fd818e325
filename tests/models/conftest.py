"""How far a member of a stack is from the same member alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

State = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="session")
def distance() -> Callable[[State, State, int], float]:
    """The difference of a stack's member from a run alone, over all tensors, relative to their length."""

    def apart(one: State, other: State, member: int) -> float:
        roles = ("generator", "discriminator")
        together = torch.cat([t[member].flatten().detach() for role in roles for t in one[role].values()])
        alone = torch.cat([t[0].flatten().detach() for role in roles for t in other[role].values()])
        assert together.isfinite().all()
        return float((together - alone).norm() / alone.norm())

    return apart
