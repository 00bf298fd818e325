"""Samples against a data set: numbers under keys that name all that decides them."""

from __future__ import annotations

from harness.evaluation.cache import Cache
from harness.evaluation.companions import evaluate_companions
from harness.evaluation.finished import evaluate_runs, grid_data
from harness.evaluation.measures import METRICS
from harness.evaluation.recipe import Recipe
from harness.evaluation.records import evaluate, evaluate_members
from harness.evaluation.references import References, training_pixels
from harness.evaluation.request import Request

__all__ = [
    "METRICS",
    "Cache",
    "Recipe",
    "References",
    "Request",
    "evaluate",
    "evaluate_companions",
    "evaluate_members",
    "evaluate_runs",
    "grid_data",
    "training_pixels",
]
