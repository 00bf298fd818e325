"""The trackers that Accelerate knows (tensorboard, wandb, ...), opened with a job's `Processes`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from harness.errors import InputError, UnknownName
from harness.training.processes import Processes


def check(names: Sequence[str]) -> None:
    """Refuse trackers that Accelerate does not know or that are not installed.

    Errors: UnknownName, InputError.
    """
    available = {str(tracker) for tracker in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise UnknownName("tracker", name, map(str, LOGGER_TYPE_TO_CLASS))
        if name not in available:
            raise InputError(f"tracker {name!r} is not installed: pip install {name}.")


def start(processes: Processes, project: str, settings: Mapping[str, Any]) -> None:
    """Open the trackers, if there are any."""
    processes.accelerator.init_trackers(project, config=dict(settings))


def track(processes: Processes, values: Mapping[str, float], step: int) -> None:
    """Send values to the trackers."""
    processes.accelerator.log(dict(values), step=step)


def end(processes: Processes) -> None:
    """Close the trackers, if there are any."""
    for tracker in processes.accelerator.trackers:
        tracker.finish()
