"""Conditional training through the command: samples of a class are of that class."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

Harness = Callable[..., CompletedProcess[str]]


def test_samples_made_for_a_class_are_seen_as_that_class(command: Harness, tmp_path: Path) -> None:
    of_grid = [
        'axes."condition.discriminator"=["projection"]',
        "seeds=[0]",
        "dataset=digits",
        "iterations=2000",
        "penalty.weight=10",
    ]
    settings = [*of_grid, "generator.hidden=[128, 128]", "discriminator.hidden=[128, 128]"]
    overrides = [word for setting in settings for word in ("--set", setting)]
    assert command("run", "conditional-mnist", "--out", tmp_path, "--threads", 1, *overrides).returncode == 0
    result = command("evaluate", tmp_path / "conditional-mnist", "--samples-count", 2000, "--metrics", "class-accuracy")
    assert result.returncode == 0, result.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*/runs/*/evaluation.json")]
    found = [record["metrics"]["class-accuracy[classifier-digits,n=2000,resize=none,bn=running]"] for record in records]
    assert len(found) == 1 and found[0]["value"] - 3 * found[0]["standard_error"] > 0.85

    run = next(tmp_path.glob("*/runs/*"))
    result = command("plot", run, "--kind", "conditions", "-o", tmp_path / "plots")
    assert result.stdout == f"{tmp_path / 'plots' / 'conditions.png'}\n", result.stderr
