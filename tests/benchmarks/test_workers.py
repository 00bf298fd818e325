from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psutil
import pytest

from harness.benchmarks.workers import workers
from harness.errors import HarnessError
from harness.experiment import Experiment


def spawned() -> list[psutil.Process]:
    """The processes that wait to train."""
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_processes_train_when_told_and_one_that_ends_early_is_a_clear_error(
    resolve: Callable[..., Experiment],
) -> None:
    before = spawned()
    with workers([[resolve(seed=seed)] for seed in range(3)], 2, []) as ready:
        children = [child for child in spawned() if child not in before]
        assert len(children) == len(ready.connections) == 2
        ready.train(2)
        os.kill(children[1].pid, signal.SIGKILL)
        with pytest.raises(HarnessError, match="ended early"):
            ready.train(1)
    assert not any(child.is_running() for child in children)
