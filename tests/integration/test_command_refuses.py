"""Bad input: exit code 2, one message that names the place and the way out, no traceback, nothing written."""

from __future__ import annotations

import gzip
import importlib.util
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess, Popen

import numpy as np
import pytest

Harness = Callable[..., CompletedProcess[str]]

# What --set says, and what the message must name.
SETTINGS = {
    "batch_sizes=3": ("unknown key", "batch_sizes", "Did you mean 'batch_size'"),
    "optimizer.lrr=0.1": ("lrr", "optimizer", "lr"),
    "optimizer.betas=[0.5]": ("betas", "optimizer"),
    "generator.hiden=[8]": ("hiden", "Did you mean 'hidden'"),
    "iterations=many": ("iterations", "many", "integer"),
    "iterations=1.5": ("iterations", "1.5", "integer"),
    "axes.k=[0]": ("k = 0", "1"),
    "axes.k=[]": ("axes.k",),
    'axes.loss=["minmax"]': ("unknown loss 'minmax'", "Did you mean 'minimax'"),
    "model=maxout": ("unknown model 'maxout'", "Did you mean 'maxout-mlp'"),
    "model=absent:build": ("absent.py", "beside the grid file"),
    "dataset=digit": ("unknown dataset 'digit'", "Did you mean 'digits'"),
    "dataset=mnist": ("train-images-idx3-ubyte.gz", "MNIST/raw", "--data", "HARNESS_DATA"),
    "dataset=npz:absent.npz": ("absent.npz", "--data"),
    "seeds=[0,0]": ("seed",),
    "batch_size=100000": ("batch_size = 100000", "1197"),
    'evaluation.metrics=["parzn"]': ("parzn", "Did you mean 'parzen'"),
    "optimizer": ("--set 'optimizer'", "key=value"),
    "run.gradient_accumulation=0": ("gradient_accumulation", "0"),
    "run.gradient_accumulation=7": ("batch_size = 32", "1 process times 7 pieces (gradient_accumulation)"),
    "loss=minimax": ("loss is an axis", "axes.loss"),
}

GRID_FILES = {
    "broken": b"not = [toml",
    "binary": b"\xff\xfe\x00\x01" * 50,
    "empty": b"",
    "one-seed": b'name = "x"\nseeds = 3\n[experiment]\n',
    "date": b'name = "x"\n[experiment]\ndataset = "digits"\nmodel = "mlp"\niterations = 2024-01-01\n',
    "absent": None,
}


def sole_message(result: CompletedProcess[str]) -> str:
    """The one message of a refusal."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("harness: ") and result.stderr.count("harness: ") == 1
    return result.stderr


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Every file's bytes and time of writing, but for claims."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "claims"]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_that_cannot_be_is_refused(setting: str, command: Harness, small_grid: Path, tmp_path: Path) -> None:
    message = sole_message(command("run", small_grid, "--out", tmp_path / "out", "--set", setting))
    for words in SETTINGS[setting]:
        assert words in message
    assert not (tmp_path / "out").exists()


def test_a_refusal_is_one_message_at_the_shell_too(harness: Harness, small_grid: Path, tmp_path: Path) -> None:
    message = sole_message(harness("run", small_grid, "--out", tmp_path / "out", "--set", "batch_sizes=3"))
    assert "batch_sizes" in message


@pytest.mark.parametrize("name", GRID_FILES)
def test_a_file_that_is_no_grid_is_refused(name: str, command: Harness, tmp_path: Path) -> None:
    content = GRID_FILES[name]
    if content is not None:
        (tmp_path / f"{name}.toml").write_bytes(content)
    assert f"{name}.toml" in sole_message(command("run", tmp_path / f"{name}.toml", "--out", tmp_path / "out"))


def test_a_damaged_gz_is_named(command: Harness, small_grid: Path, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"images" * 1000)[:-20])
    message = sole_message(command("run", small_grid, "--set", "dataset=mnist", "--data", tmp_path))
    assert str(raw / "train-images-idx3-ubyte.gz") in message


@pytest.mark.parametrize("place", ["a-file", "a-file/inside"])
def test_an_out_that_cannot_be_written_is_refused(
    place: str, command: Harness, small_grid: Path, tmp_path: Path
) -> None:
    (tmp_path / "a-file").write_text("")
    message = sole_message(command("run", small_grid, "--out", tmp_path / place))
    assert place in message and "--out" in message


@pytest.mark.parametrize("part", ["runs", "stacks"])
def test_a_grid_folder_that_cannot_be_written_is_refused(
    part: str, harness: Harness, small_grid: Path, tmp_path: Path
) -> None:
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / part).write_text("")
    assert "small" in sole_message(harness("run", small_grid, "--out", tmp_path))


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("seeds=[0]", "removed: loss=minimax k=1 seed=1"),
        ('axes.loss=["minimax"]', "removed: loss=non_saturating k=1 seed=0"),
        ("optimizer.lr=0.002", "generator.optimizer.lr: 0.001 -> 0.002"),
    ],
)
def test_a_grid_that_lost_or_changed_runs_is_refused_with_the_difference(
    override: str, difference: str, command: Harness, small_grid: Path, trained: Path
) -> None:
    before = contents(trained)
    message = sole_message(command("run", small_grid, "--out", trained.parent, "--set", override))
    assert difference in message
    assert contents(trained) == before


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 1}', '{"schema": 99, "runs": [], "stacks": []}'])
def test_a_damaged_manifest_is_refused(content: str, command: Harness, small_grid: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "small" / "grid.json"
    manifest.parent.mkdir()
    manifest.write_text(content)
    assert str(manifest) in sole_message(command("run", small_grid, "--out", tmp_path))
    assert manifest.read_text() == content


def test_a_batch_that_does_not_divide_by_the_processes_is_refused(
    start_ranks: Callable[..., list[Popen[str]]], small_grid: Path, tmp_path: Path
) -> None:
    options = ["--set", "batch_size=33", "--placement", "data-parallel"]
    processes = start_ranks("run", small_grid, "--out", tmp_path / "out", *options)
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert errors[0].count("harness: ") == 1 and errors[1] == ""
    assert "batch_size = 33" in errors[0] and "2 processes" in errors[0]


SAMPLES = np.random.default_rng(0).random((20, 1, 8, 8), dtype=np.float32)


def write_damaged(path: Path, damage: Callable[[bytes], bytes]) -> None:
    """Write good samples and change their bytes."""
    np.savez(path, images=SAMPLES)
    path.write_bytes(damage(path.read_bytes()))


BAD_SAMPLES: dict[str, Callable[[Path], object]] = {
    "shape": lambda path: np.savez(path, images=SAMPLES[:, :, :4]),
    "range": lambda path: np.savez(path, images=2 * SAMPLES - 1),
    "nan": lambda path: np.savez(path, images=np.where(SAMPLES > 0.9, np.nan, SAMPLES)),
    "dtype": lambda path: np.savez(path, images=np.arange(20 * 64).reshape(20, 1, 8, 8)),
    "nothing": lambda path: np.savez(path, images=SAMPLES[:0]),
    "another-key": lambda path: np.savez(path, samples=SAMPLES),
    "objects": lambda path: np.savez(path, images=np.array([None, {}], dtype=object)),
    "pickle": lambda path: path.write_bytes(pickle.dumps(SAMPLES)),
    "text": lambda path: path.write_text("hello"),
    "no-bytes": lambda path: path.write_bytes(b""),
    "half": lambda path: write_damaged(path, lambda content: content[:1000]),
    "flipped": lambda path: write_damaged(path, lambda content: content[:999] + b"\0!" + content[1001:]),
    "absent": lambda path: None,
}


@pytest.mark.parametrize("name", BAD_SAMPLES)
def test_a_file_that_holds_no_samples_is_refused(name: str, command: Harness, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.npz"
    BAD_SAMPLES[name](path)
    message = sole_message(command("evaluate", "--samples", path, "--dataset", "digits"))
    assert str(path) in message
    # numpy's own words advise to unpickle, which is how a file runs code.
    assert "allow_pickle=`" not in message


PATHS = {
    "evaluate {empty}": "{empty}",
    "table {empty}": "{empty}",
    "plot {empty}": "{empty}",
    "status {empty}": "{empty}",
    "sample {empty}": "{empty}",
    "sample {pending}": "pending",
    "evaluate {pending}": "pending",
    "plot {evaluated} -o {file}": "{file}",
    "plot {evaluated} --metric fid": "unknown metric 'fid'",
    "table {evaluated} --metric fid": "unknown metric 'fid'",
    "evaluate {evaluated} --metric fit": "unknown metric 'fit'",
    "sample {run} -o {file}/x.npz": "{file}/x.npz",
    "sample {run} --iteration 7": "no snapshot of iteration 7",
}


@pytest.fixture(scope="module")
def places(evaluated: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the words in PATHS stand for."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "empty").mkdir()
    (folder / "file").write_text("")
    grid = shutil.copytree(evaluated, folder / "grid")
    run = next((evaluated / "runs").iterdir())
    pending = grid / "runs" / run.name
    for path in pending.glob("*.json"):
        if path.name != "experiment.json":
            path.unlink()
    return {
        "empty": folder / "empty",
        "file": folder / "file",
        "pending": pending,
        "evaluated": evaluated,
        "run": run,
    }


@pytest.mark.parametrize("line", PATHS)
def test_a_path_that_does_not_serve_is_refused(line: str, command: Harness, places: dict[str, Path]) -> None:
    message = sole_message(command(*line.format(**places).split()))
    assert PATHS[line].format(**places) in message


def test_a_precision_that_the_launcher_contradicts_is_refused(
    command: Harness, small_grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    message = sole_message(command("run", small_grid, "--out", tmp_path / "out"))
    assert "bf16" in message and "float32" in message


@pytest.mark.parametrize("given", ["-1", "first", "1,,2", "0.5"])
def test_a_stack_that_is_no_place_is_refused(given: str, command: Harness, small_grid: Path, tmp_path: Path) -> None:
    result = command("run", small_grid, "--out", tmp_path, "--stack", given)
    assert result.returncode == 2 and "from 0, as in --stack 3,5" in result.stderr
    assert not list(tmp_path.iterdir())


def test_an_unknown_tracker_is_refused(command: Harness, small_grid: Path, tmp_path: Path) -> None:
    message = sole_message(command("run", small_grid, "--out", tmp_path / "out", "--tracker", "tensorbord"))
    assert "tensorbord" in message and "'tensorboard'" in message


def test_a_tracker_that_is_not_installed_is_refused(harness: Harness, small_grid: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("clearml"):
        pytest.skip("clearml is installed")
    message = sole_message(harness("run", small_grid, "--out", tmp_path / "out", "--tracker", "clearml"))
    assert "clearml" in message


@pytest.mark.parametrize(
    "name",
    [
        "grid.json",
        "controls.json",
        "stacks/*/progress.json",
        "runs/*/experiment.json",
        "runs/*/provenance.json",
        "runs/*/evaluation.json",
        "runs/*/history.parquet",
        "runs/*/samples.npz",
        "runs/*/snapshots/*",
    ],
)
def test_a_damaged_file_is_named_by_whoever_reads_it(
    name: str, command: Harness, evaluated: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(evaluated, tmp_path / "small")
    for path in folder.glob(name):
        path.write_bytes(path.read_bytes()[:20])
    answers = [command(verb, folder) for verb in ("status", "table", "plot")]
    answers.append(command("evaluate", folder, "--samples-count", 50))
    refusals = [sole_message(answer) for answer in answers if answer.returncode]
    assert refusals
    assert all(Path(name).name.strip("*") in refusal for refusal in refusals)
