from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TRIALS = 40


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_grid_loses_nothing_to_kills_and_failing_disks() -> None:
    # In a process of its own: trials are forked from one that has a single thread.
    script = Path(__file__).parent / "trials.py"
    environment = os.environ | {"PYTHONPATH": str(script.parents[2])}
    command = [sys.executable, str(script), "--trials", str(TRIALS)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{TRIALS} trials" in result.stdout and " 0 losses" in result.stdout
