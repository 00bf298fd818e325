"""Networks that give images features: classifiers of one data set, and those that torch-fidelity knows."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
SUFFIX = ".safetensors"
SHIPPED = ("classifier-digits", "classifier-mnist")
"""Classifiers whose weights come with the package."""
