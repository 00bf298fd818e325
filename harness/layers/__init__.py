"""Layers of stacked networks: parameters and activations carry a leading members axis m.

A layer is a value (sizes and a name). Its parameters live in a plain dict of tensors, {"<name>.weight": (m, ...)},
so that state flows through arguments: `layer.init(draws)` gives them, `layer(parameters, x, context)` uses them.
"""

from harness.layers.activation import ACTIVATIONS, Function, activation, flatten, scalar, unflatten
from harness.layers.dropout import Dropout
from harness.layers.linear import Linear, Maxout
from harness.layers.network import Context, Layer, Network, Parameters
from harness.layers.normalization import BatchNorm

__all__ = [
    "ACTIVATIONS",
    "BatchNorm",
    "Context",
    "Dropout",
    "Function",
    "Layer",
    "Linear",
    "Maxout",
    "Network",
    "Parameters",
    "activation",
    "flatten",
    "scalar",
    "unflatten",
]
