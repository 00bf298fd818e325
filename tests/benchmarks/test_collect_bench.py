from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from harness.analysis import index
from harness.benchmarks import collect


def test_collect_times_frame_and_status_with_an_index_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[str, bool]] = []

    def ran(command: list[str], **settings: object) -> CompletedProcess[str]:
        found.append((command[-2], (Path(command[-1]) / ".index").exists()))
        return CompletedProcess(command, 0)

    monkeypatch.setattr("subprocess.run", ran)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr(index, "WORTH_WRITING", 1)
    monkeypatch.setattr(index, "_TICK_NANOSECONDS", -(10**12))
    figures = collect.bench(repeats=1, runs=3)
    assert json.loads(json.dumps(figures)) == figures
    assert figures["runs"] == 3
    assert list(figures["seconds"]) == [
        "json.loads of every file",
        "frame, without an index",
        "frame, with an index",
        "import pandas",
        "harness status, without an index",
        "harness status, with an index",
    ]
    # the stand-in for `harness status` makes no index, so the second finds none either
    assert found == [("-c", False), ("status", False), ("status", False)] * 2
