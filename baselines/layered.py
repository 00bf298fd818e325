"""What baselines of stacked layers share, whose samples are where Markov chains stop: sizes, chains, initial values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from baselines.baseline import Chains, OfWalks, Task
from harness.experiment import Settings

WholeNumber = Annotated[int, Field(ge=1)]


class LayerSettings(Settings):
    """What layered baselines that sample by chains are told alike; lists have a value a layer, from the images up."""

    hidden: Annotated[tuple[WholeNumber, ...], Field(min_length=1)] = (500, 500)
    chains: WholeNumber = 100
    burn_in: WholeNumber
    gap: WholeNumber = 5

    by_layer: ClassVar[tuple[str, ...]] = ()
    """The lists beside `hidden`."""

    @model_validator(mode="after")
    def _one_a_layer(self) -> LayerSettings:
        for name in self.by_layer:
            if len(getattr(self, name)) != len(self.hidden):
                raise ValueError(f"should have one value of `{name}` for each of {len(self.hidden)} hidden layers")
        return self


class OfLayers(OfWalks):
    """A baseline of layers, whose samples are where Markov chains stop."""

    def __init__(self, settings: LayerSettings, task: Task) -> None:
        super().__init__(settings, task)
        self.widths = (task.width, *settings.hidden)
        self.chains = Chains(settings.chains, settings.burn_in, settings.gap)

    def layers(self) -> Iterator[tuple[int, int, int]]:
        """Each layer's number, the units below it and its own."""
        for layer, (below, above) in enumerate(itertools.pairwise(self.widths)):
            yield layer, below, above

    def even_weight(self, purpose: str, below: int, above: int) -> Tensor:
        """An initial weight, even on +-sqrt(6 / (below + above)): (m, below, above). Source: Glorot and Bengio 2010."""
        bound = math.sqrt(6 / (below + above))
        return bound * (2 * self.draws.whole().uniform(purpose, 0, below, above) - 1)

    def mean_bias(self) -> Tensor:
        """The visible bias (m, c h w) that gives the mean training image."""
        return torch.logit(self.mean_vector(), eps=1e-3)

    def zeros(self, units: int) -> Tensor:
        """Biases before training: (m, units)."""
        return torch.zeros(self.members, units, dtype=self.draws.dtype, device=self.draws.device)
