"""The matrix products inside a computation: recorded, done again alone, and their share of the time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler import profile as autograd_profile
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from harness.training.engine import cuda_graph

Function = Callable[[], object]

_aten = torch.ops.aten
# Each recorded operator: the bare one that is done again, and where its arguments begin (a product's after the bias).
_RECORDED: dict[Any, tuple[Any, int]] = {
    _aten.mm: (torch.mm, 0),
    _aten.bmm: (torch.bmm, 0),
    _aten.addmm: (torch.mm, 1),
    _aten.baddbmm: (torch.bmm, 1),
    _aten.convolution: (_aten.convolution, 0),
    _aten.convolution_backward: (_aten.convolution_backward, 0),
}
_PROFILED = ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm")


@dataclass(frozen=True)
class Operand:
    """A tensor's shape, whether its last two axes lie the other way round in memory, its type and device."""

    shape: tuple[int, ...]
    transposed: bool
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> Operand:
        transposed = tensor.dim() in (2, 3) and tensor.stride(-1) != 1 and tensor.stride(-2) == 1
        return cls(tuple(tensor.shape), transposed, tensor.dtype, tensor.device)

    def random(self) -> Tensor:
        """A random tensor like it."""
        shape = (*self.shape[:-2], self.shape[-1], self.shape[-2]) if self.transposed else self.shape
        values = torch.rand(shape, device=self.device).to(self.dtype)
        return values.mT if self.transposed else values


@dataclass(frozen=True)
class Product:
    """One product or convolution: the function, and its arguments with operands in the place of tensors."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def ready(self) -> Function:
        """The product of random tensors, warmed up, to be called again and again; a product's result has its place."""
        arguments = tree_map_only(Operand, Operand.random, self.arguments)
        result = self.function(*arguments)
        if self.function in (torch.mm, torch.bmm):
            return partial(self.function, *arguments, out=result)
        return partial(self.function, *arguments)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its own methods untyped
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.products: list[Product] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in _RECORDED:
            function, first = _RECORDED[func.overloadpacket]
            self.products.append(Product(function, tree_map_only(Tensor, Operand.of, tuple(args[first:]))))
        return func(*args, **(kwargs or {}))


def record(function: Function) -> list[Product]:
    """The products of a call in their order, forward and backward."""
    recorder = _Recorder()
    with recorder:
        function()
    return recorder.products


def bare(products: Sequence[Product], times: int, *, device: torch.device | str = "cpu") -> Function:
    """A function that does these products and nothing else, `times` times over; on CUDA by replaying a graph."""
    calls = [product.ready() for product in products]

    def once() -> None:
        for call in calls:
            call()

    repeated = cuda_graph(once) if torch.device(device).type == "cuda" else once

    def turn() -> None:
        with torch.inference_mode():
            for _ in range(times):
                repeated()

    return turn


def time_share(function: Function, *, device: torch.device | str = "cpu") -> float:
    """Share of a call's time that is spent in matrix products and convolutions, by torch.profiler.

    On a CPU the whole is the call's time, Python between the operators and the profiler's own cost included; on CUDA it
    is the device's busy time.
    """
    on_cuda = torch.device(device).type == "cuda"
    # On a CPU without Kineto, which would look for CUDA and say on stderr what it did not find.
    profiler: Any = (
        profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
        if on_cuda
        else autograd_profile(use_kineto=False)
    )
    with profiler as profiled, record_function("call"):
        function()
    events = [event for event in profiled.key_averages() if event.device_type.name == "CPU"]
    seconds: dict[str, float] = {
        event.key: event.self_device_time_total if on_cuda else event.self_cpu_time_total for event in events
    }
    products = sum(time for key, time in seconds.items() if key in _PROFILED or "convolution" in key)
    return products / sum(seconds.values())
