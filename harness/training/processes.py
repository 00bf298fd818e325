"""The processes that train one stack together, as Accelerate gives them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import get_int_from_env
from torch import Tensor, distributed

from harness.errors import InputError

# The variables by which launchers tell a process its place in a job, in the order in which Accelerate asks for them.
_RANKS = ["RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"]
_COUNTS = ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"]
_LOCAL_RANKS = ["LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK"]
_MIXED = {"float32": "no", "tf32": "no", "float64": "no", "bf16": "bf16"}


class Processes:
    """This process among those of one job: where it computes, and what it exchanges with the others.

    `precision` is the experiment's; `trackers` are names that Accelerate knows (tensorboard, wandb, ...). `alone` makes
    a process one of one, whatever job it belongs to: it trains stacks of its own. Where the first of a process is
    alone, no process group is formed.
    """

    def __init__(
        self,
        precision: str = "float32",
        *,
        trackers: Sequence[str] = (),
        folder: str | None = None,
        alone: bool = False,
    ) -> None:
        self.precision = precision
        self.alone = alone
        AcceleratorState._reset_state()  # precision belongs to the experiment, so it may change between stacks
        try:
            with _outside_the_job() if alone else nullcontext():
                self.accelerator = Accelerator(
                    mixed_precision=_MIXED[precision], log_with=list(trackers) or None, project_dir=folder
                )
        except ValueError as error:
            raise InputError(f"Accelerate refused its configuration: {error}") from error
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"

    @property
    def rank(self) -> int:
        return 0 if self.alone else int(self.accelerator.process_index)

    @property
    def count(self) -> int:
        return 1 if self.alone else int(self.accelerator.num_processes)

    @property
    def neighbours(self) -> int:
        """How many processes of the job share this machine, this one included."""
        return min(int(os.environ.get("LOCAL_WORLD_SIZE", "0")) or sys.maxsize, self.launched)

    @property
    def job_rank(self) -> int | None:
        """This process's number in its job, whether they meet or not; None where it is the only one."""
        return get_int_from_env(_RANKS, 0) if self.launched > 1 else None

    @property
    def launched(self) -> int:
        """How many processes the job has, whether they meet or not."""
        count: int = get_int_from_env(_COUNTS, 1)
        return max(int(self.accelerator.num_processes), count)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        device: torch.device = self.accelerator.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The type of parameters, images and losses."""
        return torch.float64 if self.precision == "float64" else torch.float32

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which networks run: reduced precision if the experiment says so."""
        context: AbstractContextManager[Any] = self.accelerator.autocast()
        return context

    @property
    def sum_differentiably(self) -> Callable[[Tensor], Tensor] | None:
        """Adds a tensor over the processes, gradients included; None on one process."""
        return _Sum.apply if self.count > 1 else None

    def gather(self, scores: Tensor) -> Tensor:
        """(m, local n) on each process to (m, n) on all; gradients flow to the process's own columns alone.

        So when every process evaluates the loss of the whole batch, the sum of their gradients is its gradient.
        """
        if self.count == 1:
            return scores
        columns = [torch.empty_like(scores) for _ in range(self.count)]
        distributed.all_gather(columns, scores.detach().contiguous())
        columns[self.rank] = scores
        return torch.cat(columns, dim=1)

    def sum_gradients(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """The gradients' sums over the processes, exchanged as one flat tensor."""
        if self.count == 1:
            return list(gradients)
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over the processes, the same bits on each."""
        if self.count == 1:
            return values
        summed = values.clone()
        distributed.all_reduce(summed)
        return summed

    def any(self, flag: bool) -> bool:
        """Whether the flag is raised on any process; all must ask together."""
        if self.count == 1:
            return flag
        raised = torch.tensor(float(flag), device=self.device)
        distributed.all_reduce(raised, distributed.ReduceOp.MAX)
        return bool(raised)

    def from_main(self, value: Any) -> Any:
        """The main process's value (plain data), on all."""
        if self.count == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather_objects(self, value: Any) -> list[Any]:
        """Every process's value (plain data), on all, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def all_come(self, *, within_seconds: float) -> bool:
        """Whether all processes come here in time; with one that does not, no exchange is possible any more."""
        if self.count == 1:
            return True
        came: list[bool] = []

        def meet() -> None:
            with suppress(RuntimeError, ValueError):  # a process that has gone; a backend without this barrier
                distributed.monitored_barrier(timeout=timedelta(seconds=within_seconds))
                came.append(True)

        # In a thread of its own, because beside the first process the barrier does not keep to its timeout.
        meeting = threading.Thread(target=meet, daemon=True)
        meeting.start()
        meeting.join(within_seconds + 1)
        return bool(came)

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.count > 1:
            self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leave the process group in order; an abort at exit would turn a finished run into a failed one."""
        self.accelerator.end_training()
        PartialState().destroy_process_group()

    def part(self) -> Processes:
        """Leave the process group for good, all together: this process, alone from now on."""
        self.wait()
        self.close()
        AcceleratorState._reset_state(reset_partial_state=True)
        return Processes(self.precision, alone=True)


@contextmanager
def _outside_the_job() -> Iterator[None]:
    """Where Accelerate sees a process without a job, on the device that is its own among those of this machine."""
    if torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true", "yes"):
        torch.cuda.set_device(get_int_from_env(_LOCAL_RANKS, 0) % torch.cuda.device_count())
    hidden = {name: os.environ.pop(name) for name in (*_COUNTS, *_LOCAL_RANKS) if name in os.environ}
    try:
        yield
    finally:
        os.environ |= hidden


def check_launcher(precision: str) -> None:
    """Refuse a launcher's mixed precision that contradicts the experiment's.

    Errors: InputError.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", _MIXED[precision]):
        raise InputError(
            f"accelerate is configured for mixed precision {launched}, the experiment for {precision}; "
            "precision belongs to the experiment: launch with --mixed_precision no."
        )


class _Sum(torch.autograd.Function):
    """Sum over processes; its gradient is the sum of theirs, since each holds a part of the loss's dependence."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(gradient)  # itself differentiable, for penalties on slopes
        return total
