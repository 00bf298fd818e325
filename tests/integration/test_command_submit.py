"""`harness submit` and `harness status` beside a SLURM that does as the test says."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Harness = Callable[..., CompletedProcess[str]]

# What each program says is in a file beside it; it fails where there is none.
PROGRAM = """\
#!/bin/bash
[ ! -e {folder}/{name}.refuses ] || {{ cat {folder}/{name}.refuses >&2; exit 1; }}
cat {folder}/{name}.says
"""
SBATCH = """\
#!/bin/bash
echo "$@" >> {folder}/submitted
number=$(wc -l < {folder}/submitted)
[ "$number" -lt "$(cat {folder}/sbatch.says)" ] || {{ echo "sbatch: error: over the limit of jobs" >&2; exit 1; }}
echo "$((100 + number));main"
"""


class Slurm:
    """A SLURM of shell scripts in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("squeue", "scontrol", "sacct"):
            self._program(name, PROGRAM)
        self._program("sbatch", SBATCH)
        self.says("scontrol", "MaxArraySize            = 1001\n")
        self.says("sbatch", "99")
        self.says("squeue", "")

    def _program(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text.format(folder=shlex.quote(str(self.folder)), name=name))
        path.chmod(0o755)

    def says(self, name: str, text: str) -> None:
        (self.folder / f"{name}.says").write_text(text)

    def refuses(self, name: str, text: str) -> None:
        (self.folder / f"{name}.refuses").write_text(text)

    def lacks(self, name: str) -> None:
        (self.folder / name).unlink()

    @property
    def submitted(self) -> list[str]:
        path = self.folder / "submitted"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Harness) -> Slurm:
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("bash", "cat", "wc"):
        (folder / tool).symlink_to(Path("/bin") / tool)
    monkeypatch.setenv("PATH", str(folder))
    return Slurm(folder)


@pytest.fixture
def submit(command: Harness, small_grid: Path, tmp_path: Path) -> Harness:
    """`harness submit` of the four runs of the small grid, each a stack."""

    def run(*arguments: object) -> CompletedProcess[str]:
        return command("submit", small_grid, "--set", "run.stack_size=1", "--out", tmp_path / "out", *arguments)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out" / "small"


def tasks(folder: Path) -> list[list[int]]:
    """The stacks of each job that was recorded."""
    record = json.loads((folder / "slurm" / "submissions.json").read_text())
    return [job["stacks"] for submission in record["submissions"] for job in submission["jobs"]]


def statuses(command: Harness, folder: Path) -> dict[str, str]:
    """The statuses of the runs, with the reasons."""
    rows = json.loads(command("status", folder, "--format", "json").stdout)
    return {row["status"]: row["reason"] for row in rows}


def end(folder: Path, number: int, outcome: str = "complete") -> None:
    """Let the runs of a stack have ended."""
    for run in json.loads((folder / "grid.json").read_text())["stacks"][number]["members"]:
        record = {"outcome": outcome, "iterations": 30, "seconds": 1.0, "diverged_at": None}
        (folder / "runs" / run / "provenance.json").write_text(json.dumps(record))


def test_a_grid_is_one_array_and_a_job_behind_it(slurm: Slurm, submit: Harness, folder: Path) -> None:
    result = submit("--partition", "gpu", "--array-parallel", 2)
    assert result.returncode == 0 and "job 101: 4 stacks, as tasks 0-3." in result.stdout, result.stderr
    array, collect = slurm.submitted
    assert array == f"--parsable {folder}/slurm/0001-array-0.sbatch"
    assert collect == f"--parsable --dependency=afterany:101,singleton {folder}/slurm/0001-collect.sbatch"
    text = (folder / "slurm" / "0001-array-0.sbatch").read_text()
    assert "#SBATCH --array=0-3%2\n" in text and "#SBATCH --partition=gpu\n" in text
    assert f"--out {folder.parent} " in text and "--set run.stack_size=1" in text
    assert tasks(folder) == [[0, 1, 2, 3]]


def test_a_dry_run_prints_what_a_submission_writes_and_writes_nothing(
    slurm: Slurm, submit: Harness, folder: Path
) -> None:
    printed = submit("--dry-run").stdout
    assert not folder.exists() and slurm.submitted == []
    submit()
    for name in ("0001-array-0", "0001-collect"):
        assert (folder / "slurm" / f"{name}.sbatch").read_text().rstrip() in printed
    assert "afterany:JOB0,singleton" in printed


def test_arrays_are_cut_where_the_cluster_ends_them(slurm: Slurm, submit: Harness, folder: Path) -> None:
    slurm.says("scontrol", "MaxArraySize = 3\n")
    assert submit("--array-parallel", 2).returncode == 0
    assert tasks(folder) == [[0, 1, 2], [3]]
    assert "--dependency=afterany:101 " in slurm.submitted[1]
    assert "--dependency=afterany:101:102,singleton" in slurm.submitted[2]
    text = (folder / "slurm" / "0001-array-1.sbatch").read_text()
    assert "#SBATCH --array=0%2\n" in text and '--stack "$((SLURM_ARRAY_TASK_ID + 3))"' in text


def test_what_is_in_the_queue_or_has_ended_is_not_submitted_again(
    slurm: Slurm, submit: Harness, folder: Path, command: Harness
) -> None:
    submit("--no-collect")
    end(folder, 0)
    slurm.says("squeue", "101_0|COMPLETED|None\n101_1|RUNNING|None\n101_2|PENDING|Priority\n101_3|CANCELLED|None\n")
    assert statuses(command, folder) == {
        "complete": None,
        "running": None,
        "pending": "job 101_2 waits: Priority",
        "lost": "job 101_3 is gone: CANCELLED",
    }
    result = submit("--no-collect")
    assert "as tasks 3." in result.stdout and tasks(folder) == [[0, 1, 2, 3], [3]]
    slurm.says("squeue", "101_1|RUNNING|None\n101_2|PENDING|Priority\n102_3|PENDING|None\n")
    assert submit().stdout.startswith("nothing to submit.\n")
    assert statuses(command, folder)["pending"] == "job 102_3 waits: None"


def test_only_says_exactly_what_is_submitted(slurm: Slurm, submit: Harness, folder: Path) -> None:
    submit()
    [run] = json.loads((folder / "grid.json").read_text())["stacks"][2]["members"]
    (folder / "runs" / run / "failure.json").write_text('{"reason": "ValueError: x", "traceback": ""}')
    slurm.says("squeue", "101_0|RUNNING|None\n")
    assert "as tasks 2." in submit("--only", "failed").stdout
    assert "as tasks 1,3." in submit("--only", "lost").stdout
    refused = submit("--only", "lots")
    assert refused.returncode == 2 and "unknown status 'lots'" in refused.stderr


def test_how_jobs_ended_comes_from_accounting_where_there_is_one(
    slurm: Slurm, submit: Harness, folder: Path, command: Harness
) -> None:
    submit()
    slurm.refuses("squeue", "slurm_load_jobs error: Invalid job id specified")
    slurm.says("sacct", "101_0|TIMEOUT\n101_1|CANCELLED by 1000\n101_2|RUNNING\n101_3|NODE_FAIL\n")
    rows = json.loads(command("status", folder, "--format", "json").stdout)
    assert [row["status"] for row in rows] == ["lost"] * 4
    ends = ("TIMEOUT", "CANCELLED", "SLURM no longer knows it", "NODE_FAIL")
    assert {row["reason"] for row in rows} == {f"job 101_{task} is gone: {end}" for task, end in enumerate(ends)}


@pytest.mark.parametrize("how", ["lacks", "refuses"])
def test_without_accounting_a_note_says_so(
    how: str, slurm: Slurm, submit: Harness, folder: Path, command: Harness
) -> None:
    submit()
    if how == "lacks":
        slurm.lacks("sacct")
    else:
        slurm.refuses("sacct", "Slurm accounting storage is disabled")
    result = command("status", folder)
    assert result.returncode == 0 and "4 lost" in result.stdout
    expected = "sacct is not on PATH" if how == "lacks" else "sacct failed: Slurm accounting storage is disabled"
    assert expected in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("how", ["lacks", "refuses"])
def test_without_squeue_status_is_that_of_the_folders_and_nothing_is_submitted(
    how: str, slurm: Slurm, submit: Harness, folder: Path, command: Harness
) -> None:
    submit()
    if how == "lacks":
        slurm.lacks("squeue")
    else:
        slurm.refuses("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
    result = command("status", folder)
    assert result.returncode == 0 and "4 pending" in result.stdout
    assert "statuses are those of the folders alone: squeue" in result.stderr
    refused = submit()
    assert refused.returncode == 2 and "squeue" in refused.stderr and len(slurm.submitted) == 2


@pytest.mark.parametrize("name", ["sbatch", "scontrol"])
def test_without_slurm_one_message_says_so(name: str, slurm: Slurm, submit: Harness) -> None:
    slurm.lacks(name)
    result = submit()
    assert result.returncode == 2 and result.stdout == "" and result.stderr.count("\n") == 1
    assert f"{name} is not on PATH" in result.stderr


def test_a_dry_run_needs_no_slurm(submit: Harness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = submit("--dry-run")
    assert result.returncode == 0 and "#SBATCH --array=0-3\n" in result.stdout
    assert "# scontrol is not on PATH" in result.stdout


def test_what_was_accepted_before_a_refusal_is_recorded(slurm: Slurm, submit: Harness, folder: Path) -> None:
    slurm.says("scontrol", "MaxArraySize = 3\n")
    slurm.says("sbatch", "2")  # the first alone
    result = submit()
    assert result.returncode == 2 and "sbatch failed: sbatch: error: over the limit of jobs" in result.stderr
    assert "job 101 was accepted and recorded" in result.stderr and tasks(folder) == [[0, 1, 2]]


REFUSED = {
    ("--partition", "gpu;id"): "--partition",
    ("--time", "1"): "--time 1 is no longer",
    ("--gpus", "1", "--gres", "gpu:1"): "--gpus and --gres",
    ("--nodes", "3"): "batch_size = 32 does not divide by the 3 processes",
    ("--prologue", "absent.sh"): "--prologue absent.sh cannot be read",
    ("--set", "name='a\nb'"): "name",
    ("--command", "'harness"): "--command",
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_bad_options_are_refused_before_anything_is_done(
    arguments: tuple[str, ...], slurm: Slurm, submit: Harness, folder: Path
) -> None:
    result = submit(*arguments)
    assert result.returncode == 2 and REFUSED[arguments] in result.stderr and "Traceback" not in result.stderr
    assert not folder.exists() and slurm.submitted == []


def test_a_damaged_record_of_submissions_is_refused(
    slurm: Slurm, submit: Harness, folder: Path, command: Harness
) -> None:
    submit()
    (folder / "slurm" / "submissions.json").write_text("[]")
    for result in (submit(), command("status", folder)):
        assert result.returncode == 2 and "submissions.json is no record" in result.stderr
