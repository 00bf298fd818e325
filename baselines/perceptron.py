"""Fully connected networks: what encodes, decodes and scores images in several baselines."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from baselines.baseline import Baseline
from harness.layers import Context, Layer, Linear, Network, Parameters, activation

Width = Annotated[int, Field(ge=1)]
ActivationName = Literal["relu", "leaky_relu", "sigmoid", "tanh"]


class Perceptron:
    """A baseline's stack of affine layers of some widths, inputs and outputs included, a function between each two.

    Parameters are "<name>.<number>.weight" and ".bias"; they start as torch.nn.Linear's, the last bias at `output_bias`
    (widths[-1],) where that is given.
    """

    def __init__(
        self,
        name: str,
        widths: Sequence[int],
        function: ActivationName,
        *,
        of: Baseline,
        output_bias: Tensor | None = None,
    ) -> None:
        layers: list[Layer] = []
        for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            layers += [Linear(f"{name}.{number}", inputs, outputs), activation(function)]
        layers[-2:] = [Linear(f"{name}.{len(widths) - 2}", widths[-2], widths[-1], output_bias=output_bias)]
        self._network = Network(tuple(layers))
        self._baseline = of

    def init(self) -> Parameters:
        """Initial parameters, (m, ...) each."""
        return self._network.init(self._baseline.draws.whole(), "init")

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """(m, n, widths[0]) to (m, n, widths[-1]), of the same type; products are in the experiment's precision."""
        with self._baseline.processes.autocast():
            y = self._network(parameters, x, Context(self._baseline.draws, "perceptron", 0, x.shape[1]))
        return y.to(x.dtype)
