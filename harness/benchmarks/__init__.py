"""Benchmarks: what the harness costs, measured beside a bare reference in the same run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from harness.benchmarks import parzen, train

BENCHES: dict[str, Callable[[], dict[str, Any]]] = {"parzen": parzen.bench, "train": train.bench}


def render(figures: dict[str, Any], form: str) -> str:
    """A benchmark's figures as JSON, or as indented lines for people."""
    return json.dumps(figures, indent=2) if form == "json" else "\n".join(_lines(figures, ""))


def _lines(figures: dict[str, Any], indent: str) -> list[str]:
    width = max(len(key) for key in figures)
    lines = []
    for key, value in figures.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key:<{width}}  {_show(value)}")
    return lines


def _show(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_show(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
