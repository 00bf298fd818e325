"""The methods an experiment may name: the GAN, and each baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from harness.errors import UnknownName
from harness.experiment import Experiment
from harness.models import ImageStatistics
from harness.training.gan import Gan
from harness.training.loop import Method
from harness.training.processes import Processes


class Builder(Protocol):
    """Builds the stack of resolved experiments that agree on everything that shapes the computation."""

    def __call__(
        self, members: Sequence[Experiment], images: ImageStatistics, *, training_images: int, processes: Processes
    ) -> Method: ...


METHODS: dict[str, Builder] = {"gan": Gan.of}


def method(name: str) -> Builder:
    """The builder of that method.

    Errors: UnknownName.
    """
    if name not in METHODS:
        raise UnknownName("method", name, METHODS)
    return METHODS[name]
