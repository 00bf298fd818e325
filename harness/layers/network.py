"""A network: layers in order, and what their forward pass needs besides parameters and inputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

from harness.draws import Draws

Parameters = dict[str, Tensor]
ConvolutionWay = Literal["grouped", "channels_last", "in_turn"]
"""How members' convolutions are computed: as groups of one, as groups with channels last in memory, or in turn."""
CONVOLUTION_WAYS: tuple[ConvolutionWay, ...] = ("grouped", "channels_last", "in_turn")


@dataclass(frozen=True, slots=True)
class Context:
    """One forward pass: where its random numbers come from, and what the batch is.

    x holds `batches` batches side by side along n (real and fake, say), each of `rows` rows over all processes.
    `sum_over_processes` is None on one process; else it adds tensors over processes, differentiably. `convolution`
    changes speed and rounding alone. `labels`, int64 (m, n), are the classes of x where there are conditions.
    """

    draws: Draws
    purpose: str
    step: int
    rows: int
    batches: int = 1
    training: bool = True
    sum_over_processes: Callable[[Tensor], Tensor] | None = None
    convolution: ConvolutionWay = "grouped"
    labels: Tensor | None = None


class Layer(Protocol):
    """A stackable layer. `buffers` names those of its tensors that no gradient trains."""

    @property
    def buffers(self) -> Collection[str]: ...

    def init(self, draws: Draws, purpose: str) -> Parameters:
        """Initial tensors, (m, ...) each."""

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        """(m, n, ...) to (m, n, ...)."""


@dataclass(frozen=True)
class Network:
    """Layers in order; called as function of parameters, input and context."""

    layers: tuple[Layer, ...]

    @property
    def buffers(self) -> frozenset[str]:
        """Names of the tensors that no gradient trains."""
        return frozenset(name for layer in self.layers for name in layer.buffers)

    def init(self, draws: Draws, purpose: str) -> Parameters:
        """Initial parameters and buffers, (m, ...) each."""
        parameters: Parameters = {}
        for layer in self.layers:
            parameters |= layer.init(draws, purpose)
        return parameters

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        for layer in self.layers:
            x = layer(parameters, x, context)
        return x
