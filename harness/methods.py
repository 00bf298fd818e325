"""The methods an experiment may name: the GAN, and each baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from baselines import BASELINES
from harness.errors import UnknownName
from harness.experiment import Experiment
from harness.images import ImageSet
from harness.models import ImageStatistics
from harness.training import resolution
from harness.training.loop import Method
from harness.training.processes import Processes


class Kind(Protocol):
    """What its settings mean, which of its runs may share a stack, and how a stack is built."""

    def resolved(self, experiment: Experiment, data: ImageSet) -> Experiment:
        """The experiment with names looked up and defaults written out."""

    def check(self, experiment: Experiment, image_shape: tuple[int, int, int]) -> None:
        """Refuse a resolved experiment that cannot be built for images (c, h, w)."""

    def check_pieces(self, experiment: Experiment, image_shape: tuple[int, int, int]) -> None:
        """Refuse a resolved experiment whose minibatches cannot go through its networks in pieces."""

    def shape(self, experiment: Experiment, image_shape: tuple[int, int, int]) -> str | None:
        """What the members of a stack must share; None: it stacks with none."""

    def stack_size(self, experiment: Experiment, device: str) -> int:
        """How many members suit a stack on a type of device."""

    def build(
        self, members: Sequence[Experiment], images: ImageStatistics, *, training_images: int, processes: Processes
    ) -> Method:
        """The stack of resolved experiments that agree on everything that shapes the computation."""


METHODS: dict[str, Kind] = {"gan": resolution, **BASELINES}


def method(name: str) -> Kind:
    """The method of that name.

    Errors: UnknownName.
    """
    if name not in METHODS:
        raise UnknownName("method", name, METHODS)
    return METHODS[name]
