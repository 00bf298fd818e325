"""Initial values of weights and biases: uniform or normal, from the harness's draws."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from harness.draws import Draws


def initial_weight(
    draws: Draws, purpose: str, rows: int, width: int, *, fan_in: int, weight_range: float | None, std: float | None
) -> Tensor:
    """Normal with deviation `std` where that is given; else uniform on +-weight_range, or on +-1/sqrt(fan_in), torch's.

    (m, rows, width).
    """
    if std is not None:
        return draws.normal(purpose, 0, rows, width) * std
    bound = weight_range if weight_range is not None else 1 / math.sqrt(fan_in)
    return (2 * draws.uniform(purpose, 0, rows, width) - 1) * bound


def thinned(weight: Tensor, draws: Draws, purpose: str, *, nonzero: int) -> Tensor:
    """Weights (m, inputs, outputs) of which each unit keeps `nonzero`, at random places; the others are zero.

    The same shape. Martens 2010, "Deep learning via Hessian-free optimization", section 5.
    """
    inputs, outputs = weight.shape[1:]
    # Unit by unit: orders of all inputs for all units at once would take twice the memory of the weights and more.
    places = torch.cat([draws.orders(purpose, unit, 1, inputs)[..., :nonzero] for unit in range(outputs)], 1)
    places = places.transpose(1, 2)
    return torch.zeros_like(weight).scatter_(1, places, weight.gather(1, places))


def initial_bias(
    draws: Draws, purpose: str, width: int, *, fan_in: int, weight_range: float | None, std: float | None
) -> Tensor:
    """Zero where the weights' spread is given; else uniform on +-1/sqrt(fan_in), as torch has it. (m, width)."""
    if weight_range is not None or std is not None:
        return torch.zeros(len(draws.seeds), width, dtype=draws.dtype, device=draws.device)
    return initial_weight(draws, purpose, 1, width, fan_in=fan_in, weight_range=None, std=None)[:, 0]
