"""Many processes share the runs of one grid with nothing between them but its folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CLAIMANTS = Path(__file__).with_name("claimants.py")
PROCESSES, RUNS, ITERATIONS = 8, 200, 3
MANY = f"""\
name = "many"
seeds = {list(range(RUNS))}
[experiment]
dataset = "digits"
model = "mlp"
iterations = {ITERATIONS}
batch_size = 8
latent = {{size = 2}}
generator = {{hidden = [4]}}
discriminator = {{hidden = [4]}}
optimizer = {{name = "SGD", lr = 0.1}}
[run]
stack_size = 1
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_eight_claimants_do_each_of_200_runs_once(
    environment: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "many.toml").write_text(MANY)
    command = [sys.executable, CLAIMANTS, tmp_path / "many.toml", tmp_path, str(PROCESSES)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=840)
    logs = [path.read_text() for path in sorted(tmp_path.glob("log-*.txt"))]
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["returned"] == [0] * PROCESSES, logs
    ledgers = [path.read_text().splitlines() for path in tmp_path.glob("many/stacks/*/ledger.jsonl")]
    assert [len(ledger) for ledger in ledgers] == [1] * RUNS
    lines = [json.loads(ledger[0]) for ledger in ledgers]
    assert {(line["first"], line["last"], line["reached"]) for line in lines} == {(1, ITERATIONS, ITERATIONS)}
    assert sum(log.count("complete: ") for log in logs) == RUNS == len(list(tmp_path.glob("many/runs/*/samples.npz")))
    owners = [line["owner"] for line in lines]
    shares = [owners.count(owner) for owner in sorted(set(owners))]
    assert len(shares) > 1
    wall, cpu = (1000 * sum(figures[clock]) / RUNS for clock in ("wall", "cpu"))
    with capsys.disabled():
        print(f"\n{PROCESSES} claimants on {os.cpu_count()} cores did {shares} of {RUNS} runs; ", end="")
        print(f"claiming took {cpu:.1f} ms of a core a run, {wall:.1f} ms by the clock")
