"""Optimizers for stacks: the kernels of torch.optim, applied to the slices of members that share settings.

Every optimizer here is elementwise, so a slice of a stacked parameter trains as it would alone. State is a dict of
tensors with the members axis, {"<slot>/<parameter>": (m, ...)}; the number of updates made so far comes from outside.
"""

from __future__ import annotations

import inspect
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from harness.errors import InputError, UnknownName
from harness.experiment import OptimizerSettings
from harness.training.clock import Count, Moment

Tensors = list[Tensor]
Slots = dict[str, Tensors]

# What each of the three that take per-member settings may be told, and torch.optim's default for it.
STACKABLE: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.0, "weight_decay": 0.0, "nesterov": False},
    "Adam": {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0},
    "RMSprop": {"alpha": 0.99, "eps": 1e-8, "momentum": 0.0, "weight_decay": 0.0, "centered": False},
}
# Elementwise classes of torch.optim beside them; others would mix the members of a stack.
OTHERS = ("ASGD", "Adadelta", "Adagrad", "AdamW", "Adamax", "NAdam", "RAdam", "Rprop")
_VECTOR = 64  # elements: a multiple of what a processor's vector instructions, or two of them, take at once
_NOT_SETTINGS = {"params", "lr", "lr_decay", "foreach", "fused", "capturable", "differentiable", "maximize"}


def resolved(settings: OptimizerSettings, *, where: str) -> OptimizerSettings:
    """The settings with names and values checked and torch.optim's defaults written out.

    Errors: InputError or UnknownName that names the key.
    """
    name = settings.name or "Adam"
    if name not in (*STACKABLE, *OTHERS):
        raise UnknownName("optimizer", name, (*STACKABLE, *OTHERS), where)
    if settings.lr is None:
        raise InputError(f"{where}: the key 'lr' is missing; add it.")
    defaults = _defaults(name)
    for key, value in settings.arguments.items():
        if key not in defaults:
            raise UnknownName(f"{name} setting", key, defaults, where)
        if not _is_like(value, defaults[key]):
            raise InputError(f"{where}: {key} = {json.dumps(value)} should be like {json.dumps(defaults[key])}.")
    given = {key: _as(defaults[key], value) for key, value in settings.arguments.items()}
    arguments = defaults | given
    try:
        torch.optim.__dict__[name]([torch.zeros(1)], lr=settings.lr, **arguments)
    except ValueError as error:
        raise InputError(f"{where}: torch.optim.{name} refuses its settings: {error}.") from None
    if settings.momentum_ramp is not None and "momentum" not in arguments:
        raise InputError(f"{where}: momentum_ramp needs an optimizer with momentum, not {name}.")
    return OptimizerSettings(
        name=name,
        lr=settings.lr,
        lr_decay=settings.lr_decay if settings.lr_decay != 1 else None,
        min_lr=settings.min_lr if settings.min_lr != 0 else None,
        lr_zero_at=settings.lr_zero_at,
        momentum_ramp=settings.momentum_ramp,
        **arguments,
    )


def _defaults(name: str) -> dict[str, Any]:
    """The settings of an optimizer beside its learning rate, and their defaults as plain data."""
    if name in STACKABLE:
        return STACKABLE[name]
    parameters = inspect.signature(torch.optim.__dict__[name]).parameters
    return {key: _plain(parameter.default) for key, parameter in parameters.items() if key not in _NOT_SETTINGS}


def _plain(default: Any) -> Any:
    if isinstance(default, tuple):
        return [_plain(part) for part in default]
    return default if isinstance(default, bool) else float(default)


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value has the kind of its default: a switch, a finite number, or as many of them."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, list):
        return isinstance(value, list) and len(value) == len(default) and all(map(_is_like, value, default))
    return isinstance(value, int | float) and math.isfinite(value)


def _as(default: Any, value: Any) -> Any:
    """The value in its default's type, so that 0 and 0.0 are one setting."""
    if isinstance(default, list):
        return [_as(inner, part) for inner, part in zip(default, value, strict=True)]
    return value if isinstance(default, bool) else float(value)


@dataclass(frozen=True)
class Group:
    """Neighbouring members that share all settings."""

    members: slice
    settings: OptimizerSettings

    def lr(self, count: Count) -> float:
        """The learning rate of an update."""
        assert self.settings.lr is not None
        lr: float = self.settings.lr * (self.settings.lr_decay or 1.0) ** -count.update
        if self.settings.lr_zero_at is not None:
            lr *= max(0.0, 1 - count.update / self.settings.lr_zero_at)
        return max(lr, self.settings.min_lr or 0.0)

    def momentum(self, count: Count) -> float:
        """The momentum of an update's epoch."""
        start: float = self.settings.arguments["momentum"]
        ramp = self.settings.momentum_ramp
        if ramp is None:
            return start
        way = (count.epoch - ramp.start_epoch) / max(1, ramp.end_epoch - ramp.start_epoch)
        return start + (ramp.final - start) * min(max(way, 0.0), 1.0)

    def arguments(self, moment: Moment) -> dict[str, Any]:
        """The keyword arguments of an update."""
        arguments = {"lr": moment.number(self.lr)} | self.settings.arguments
        if self.settings.momentum_ramp is not None:
            arguments["momentum"] = moment.constant(self.momentum)
        return arguments


@dataclass(frozen=True)
class StackedOptimizer:
    """One torch.optim class over a stack, with settings by group."""

    name: str
    groups: tuple[Group, ...]

    @classmethod
    def of(cls, settings: Sequence[OptimizerSettings]) -> StackedOptimizer:
        """The optimizer of members with these resolved settings; all have the same name."""
        groups, start = [], 0
        for shared, members in itertools.groupby(settings):
            stop = start + len(list(members))
            groups.append(Group(slice(start, stop), shared))
            start = stop
        return cls(str(settings[0].name), tuple(groups))

    @property
    def capturable(self) -> bool:
        """Whether an update is a fixed sequence of kernels, with all that changes on the device."""
        return self.name in STACKABLE

    def init(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state before the first update."""
        if self.name not in STACKABLE:
            return {}
        return {f"{slot}/{key}": torch.zeros_like(p) for slot in _SLOTS[self.name] for key, p in parameters.items()}

    def step(
        self,
        parameters: Mapping[str, Tensor],
        gradients: Sequence[Tensor],
        state: dict[str, Tensor],
        moment: Moment,
    ) -> None:
        """Update parameters and state in place."""
        for group in self.groups:
            arguments = group.arguments(moment)
            if self.name in STACKABLE:
                members = _pieces((p.detach() for p in parameters.values()), group.members)
                # Fused kernels on a CPU read gradients as if they were contiguous.
                slopes = _pieces((gradient.contiguous() for gradient in gradients), group.members)
                slots = {
                    slot: _pieces((state[f"{slot}/{key}"] for key in parameters), group.members)
                    for slot in _SLOTS[self.name]
                }
                _KERNELS[self.name](members, slopes, slots, moment, arguments)
            else:
                whole = {key: p.detach() for key, p in parameters.items()}
                _torch_step(self.name, whole, gradients, state, arguments)


def _pieces(stacked: Iterable[Tensor], members: slice) -> Tensors:
    """Some members of stacked tensors, as tensors whose every element is computed in vectors or none is.

    Kernels do the last few elements of a tensor one by one and may round them otherwise. A member's bits would then
    depend on how many neighbours share its settings, unless each member fills whole vectors or is a tensor of its own.
    """
    pieces: Tensors = []
    for tensor in stacked:
        if len(tensor) == 1:
            pieces.append(tensor)
        elif tensor[0].numel() % _VECTOR:
            pieces += tensor[members].unbind()
        else:
            pieces.append(tensor[members])
    return pieces


def _sgd(parameters: Tensors, gradients: Tensors, slots: Slots, moment: Moment, arguments: dict[str, Any]) -> None:
    momentum: list[Tensor | None] = list(slots["momentum"])
    sgd(parameters, gradients, momentum, fused=True, dampening=0.0, maximize=False, **arguments)


def _adam(parameters: Tensors, gradients: Tensors, slots: Slots, moment: Moment, arguments: dict[str, Any]) -> None:
    beta1, beta2 = arguments.pop("betas")
    adam(
        parameters,
        gradients,
        slots["exp_avg"],
        slots["exp_avg_sq"],
        [],
        _steps(moment, parameters),
        fused=True,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        maximize=False,
        **arguments,
    )


def _rmsprop(parameters: Tensors, gradients: Tensors, slots: Slots, moment: Moment, arguments: dict[str, Any]) -> None:
    rmsprop(
        parameters,
        gradients,
        slots["square_avg"],
        slots["grad_avg"],
        slots["momentum"],
        _steps(moment, parameters),
        foreach=True,
        capturable=parameters[0].is_cuda,
        **arguments,
    )


def _steps(moment: Moment, parameters: Tensors) -> Tensors:
    """The number of earlier updates, as torch's kernels want it: one tensor for each parameter."""
    earlier, count = moment.number(_updates), len(parameters)
    if isinstance(earlier, Tensor):
        return list(earlier.float().repeat(count).unbind())
    return list(torch.full((count,), earlier, device=parameters[0].device).unbind())


def _updates(count: Count) -> float:
    return float(count.update)


def _torch_step(
    name: str,
    parameters: dict[str, Tensor],
    gradients: Sequence[Tensor],
    state: dict[str, Tensor],
    arguments: dict[str, Any],
) -> None:
    """An update by any other class of torch.optim, rebuilt from the state so that nothing hides inside it."""
    for parameter, gradient in zip(parameters.values(), gradients, strict=True):
        parameter.grad = gradient
    optimizer = torch.optim.__dict__[name](list(parameters.values()), **arguments)
    for path, tensor in state.items():
        slot, _, key = path.partition("/")
        optimizer.state[parameters[key]][slot] = tensor.squeeze(0) if slot in _SCALARS else tensor
    optimizer.step()
    for key, parameter in parameters.items():
        for slot, tensor in optimizer.state[parameter].items():
            state[f"{slot}/{key}"] = tensor.unsqueeze(0) if tensor.ndim == 0 else tensor


_SCALARS = {"step", "mu_product", "eta", "mu"}  # one number for the whole stack in torch.optim's own state
_SLOTS = {
    "SGD": ("momentum",),
    "Adam": ("exp_avg", "exp_avg_sq"),
    "RMSprop": ("square_avg", "grad_avg", "momentum"),
}
_KERNELS = {"SGD": _sgd, "Adam": _adam, "RMSprop": _rmsprop}
