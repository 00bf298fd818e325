from __future__ import annotations

import json
from subprocess import CompletedProcess

import pytest

from harness.benchmarks import start
from harness.errors import HarnessError


def test_start_times_each_command_beside_the_import_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []

    def ran(command: list[str], **settings: object) -> CompletedProcess[str]:
        called.append(command)
        return CompletedProcess(command, 0)

    monkeypatch.setattr("subprocess.run", ran)
    figures = start.bench(repeats=2, runs=2)
    assert json.loads(json.dumps(figures)) == figures
    assert list(figures["commands"]) == [
        "import torch",
        "harness --help",
        "harness list losses",
        "harness table (2 runs)",
    ]
    assert figures["commands"]["import torch"]["over_import"] == {"median": 1.0, "lowest": 1.0, "highest": 1.0}
    assert len(called) == 3 * 4  # a round of warm-up and two that count


def test_a_command_that_fails_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", lambda command, **settings: CompletedProcess(command, 1))
    with pytest.raises(HarnessError, match="import torch` failed"):
        start.bench(repeats=1, runs=1)
