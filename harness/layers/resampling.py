"""Layers without parameters that make images smaller or larger."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from harness.layers.activation import Function


def max_pool(size: int, stride: int) -> Function:
    """The largest value in each square window: (m, n, c, h, w) to (m, n, c, h', w').

    h' = ceil((h - size) / stride) + 1 for stride <= size <= h: the last window may reach over the edge, so that all
    pixels are seen, as in cuda-convnet and pylearn2.
    """

    def pooled(x: Tensor) -> Tensor:
        side_by_side = x.transpose(0, 1).flatten(1, 2)  # members as channels, which is how convolutions leave them
        largest = functional.max_pool2d(side_by_side, size, stride, ceil_mode=True)
        return largest.view(len(largest), len(x), -1, *largest.shape[2:]).transpose(0, 1)

    return Function(pooled)


def average_pool() -> Function:
    """The mean of each 2 x 2 square: (m, n, c, h, w) to (m, n, c, h / 2, w / 2), for even sides."""
    return Function(_halved)


def _halved(x: Tensor) -> Tensor:
    height, width = x.shape[3:]
    return x.view(*x.shape[:3], height // 2, 2, width // 2, 2).mean((4, 6))


def upsample() -> Function:
    """Each pixel as a 2 x 2 square: (m, n, c, h, w) to (m, n, c, 2 h, 2 w)."""
    return Function(_doubled)


def _doubled(x: Tensor) -> Tensor:
    height, width = x.shape[3:]
    squares = x[..., :, None, :, None].expand(*x.shape[:3], height, 2, width, 2)
    return squares.reshape(*x.shape[:3], 2 * height, 2 * width)


def sum_pool() -> Function:
    """The sum over all pixels: (m, n, c, h, w) to (m, n, c)."""
    return Function(lambda x: x.sum((3, 4)))
