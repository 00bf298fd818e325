"""A grid's folder as a week on a cluster leaves it, without the training: records of the real layout, made up numbers.

Runs are stacks of one, which makes the most files. Of each hundred, five have not ended well, one by one: failed,
diverged, not evaluated, pending, running.
"""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rich.progress import Progress

from harness.runs import SCHEMA, GridFolder, write_json

ITERATIONS = 3000
PARZEN = ("parzen[test,n=10000,sigma=grid]", "parzen[test,n=10000,sigma=refined]")
_CLASSIFIER = "classifier-digits,test,n=10000"
FEATURES = (
    f"fid[{_CLASSIFIER},resize=none,bn=running]",
    f"kid[{_CLASSIFIER},subset=360,resize=none,bn=running]",
    f"isc[{_CLASSIFIER},splits=1,resize=none,bn=running]",
    f"isc[{_CLASSIFIER},splits=10,resize=none,bn=running]",
    f"precision[{_CLASSIFIER},k=3,resize=none,bn=running]",
    f"recall[{_CLASSIFIER},k=3,resize=none,bn=running]",
)
_LOSSES = ("minimax", "non_saturating")
_FAILED, _DIVERGED, _UNEVALUATED, _PENDING, _RUNNING = 95, 96, 97, 98, 99  # places in each hundred
_AT_ONCE = 16  # runs written at once: each file waits for the disk


def write_grid(grid: GridFolder, runs: int, *, progress: Progress | None = None) -> None:
    """Write a grid of so many runs of two losses by five k by seeds: manifest, run folders, stacks."""
    entries = [
        {"id": f"{number:016x}", "axes": {"loss": _LOSSES[number % 2], "k": 1 + number // 2 % 5}, "seed": number // 10}
        for number in range(runs)
    ]
    stacks = [{"id": f"s{number}", "members": [entry["id"]]} for number, entry in enumerate(entries)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        written = pool.map(lambda number: _write_run(grid, number, entries[number]), range(runs))
        deque(written if progress is None else progress.track(written, runs, description="writing runs"), maxlen=0)
    manifest = {"schema": SCHEMA, "name": "synthetic", "axes": ["loss", "k"], "runs": entries, "stacks": stacks}
    write_json(grid.path / "grid.json", manifest)


def _write_run(grid: GridFolder, number: int, entry: dict[str, Any]) -> None:
    """One run's records, as far as its place in the hundred has them."""
    run, place = grid.run(entry["id"]), number % 100
    run.write("experiment.json", _experiment(entry))
    if place == _PENDING:
        return
    write_json(grid.stack(f"s{number}") / "progress.json", _progress(running=place == _RUNNING))
    if place == _FAILED:
        run.write("failure.json", {"reason": "out of memory\nat iteration 3", "traceback": "Traceback ..."})
    elif place != _RUNNING:
        run.write("provenance.json", _provenance(number, diverged_at=30 if place == _DIVERGED else None))
        if place not in (_DIVERGED, _UNEVALUATED):
            run.write("evaluation.json", _evaluation(number))


def _experiment(entry: dict[str, Any]) -> dict[str, Any]:
    optimizer = {"name": "Adam", "lr": 2e-4, "betas": [0.5, 0.999], "eps": 1e-8, "weight_decay": 0.0}
    player = {"optimizer": optimizer, "hidden": [128, 128], "batch_norm": False, "batch_norm_eps": 1e-5}
    return {
        "schema_version": SCHEMA,
        "dataset": "digits",
        "data_hash": "0" * 64,
        "method": "gan",
        "model": "mlp",
        "iterations": ITERATIONS,
        "batch_size": 64,
        **entry["axes"],
        "updates": "alternating",
        "discriminator_loss_weight": 1.0,
        "latent": {"size": 100, "distribution": "normal"},
        "generator": {**player, "activation": "relu", "output": "sigmoid", "output_bias": "zero"},
        "discriminator": {**player, "activation": "leaky_relu", "dropout": [], "signed_input": False},
        "precision": "float32",
        "seed": entry["seed"],
    }


def _progress(*, running: bool) -> dict[str, Any]:
    """A stack's progress; a running one's process is on another machine, so it is believed."""
    return {
        "state": "running" if running else "complete",
        "iteration": ITERATIONS // 3 if running else ITERATIONS,
        "iterations": ITERATIONS,
        "iterations_per_second": 212.5,
        "pid": 1,
        "host": "another",
        "updated": 0.0,
    }


def _provenance(number: int, *, diverged_at: int | None) -> dict[str, Any]:
    done = diverged_at or ITERATIONS
    return {
        "outcome": "complete" if diverged_at is None else "diverged",
        "diverged_at": diverged_at,
        "iterations": done,
        "seconds": 14.0 + math.sin(number),
        "discriminator_updates": done,
        "generator_updates": done,
        "images": 64 * done,
        "flops": 813957120,
        "image_shape": [1, 8, 8],
        "affine": None,
        "jpeg": False,
        "versions": {"python": "3.11.7", "gan-harness": "0.1.0", "torch": "2.15.0", "numpy": "2.4.6"},
        "commit": "0" * 40,
        "platform": "Linux-x86_64-with-glibc2.36",
        "device": "cpu",
        "engine": "eager",
        "convolution": "grouped",
        "processes": 1,
        "threads": 1,
        "stack": {"id": f"s{number}", "size": 1, "position": 0},
    }


def _evaluation(number: int) -> dict[str, Any]:
    parzen = {"sigma": 0.1, "sigma_at_edge": False, "centres": 10000, "validation": 300, "test": 300, "dimension": 64}
    metrics = {
        key: {**_value(number, 50.0 + place), "error": "over the points, the samples fixed", **parzen}
        for place, key in enumerate(PARZEN)
    }
    metrics |= {
        key: {**_value(number, 5.0 + place), "error": "over samples, the reference fixed", "reference_images": 360}
        for place, key in enumerate(FEATURES)
    }
    return {
        "metrics": metrics,
        "asked": {name: f"n=10000 test classifier-digits {'0' * 64}" for name in ("fid", "kid", "isc", "precision")},
        "samples": {"count": 10000, "selection": "last", "iteration": ITERATIONS, "snapshot_sha256": "0" * 64},
        "recipe": {"reference": "test", "extractor": "classifier-digits", "extractor_sha256": "0" * 64},
        "dataset": {"name": "digits", "hash": "0" * 64, "jpeg": False},
        "selection": {"rule": "last", "iteration": ITERATIONS},
    }


def _value(number: int, mean: float) -> dict[str, float]:
    return {"value": mean + math.sin(number), "standard_error": 0.5 + 0.1 * math.cos(number)}
