"""Layers of stacked networks: parameters and activations carry a leading members axis m.

A layer is a value (sizes and a name). Its parameters live in a plain dict of tensors, {"<name>.weight": (m, ...)},
so that state flows through arguments: `layer.init(draws)` gives them, `layer(parameters, x, context)` uses them.
"""

from harness.layers.activation import ACTIVATIONS, Function, activation, flatten, scalar, unflatten
from harness.layers.convolution import HALVING, Convolution, MaxoutConvolution, PixelBias, TransposedConvolution
from harness.layers.dropout import Dropout
from harness.layers.labels import Concatenation, Embedding, Projection
from harness.layers.linear import Linear, Maxout
from harness.layers.network import CONVOLUTION_WAYS, Context, ConvolutionWay, Layer, Network, Parameters
from harness.layers.normalization import BatchNorm
from harness.layers.resampling import average_pool, max_pool, sum_pool, upsample
from harness.layers.residual import Residual
from harness.layers.spectral import SpectralNorm, spectrally_normalised

__all__ = [
    "CONVOLUTION_WAYS",
    "ACTIVATIONS",
    "BatchNorm",
    "Concatenation",
    "Context",
    "Convolution",
    "ConvolutionWay",
    "Dropout",
    "Embedding",
    "Function",
    "HALVING",
    "Layer",
    "Linear",
    "Maxout",
    "MaxoutConvolution",
    "Network",
    "Parameters",
    "PixelBias",
    "Projection",
    "Residual",
    "SpectralNorm",
    "TransposedConvolution",
    "activation",
    "average_pool",
    "flatten",
    "max_pool",
    "scalar",
    "spectrally_normalised",
    "sum_pool",
    "unflatten",
    "upsample",
]
