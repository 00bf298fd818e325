"""What every metric gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A metric's value with its standard error, where one is defined.

    `error` says over what the standard error is ("over samples"), or why there is none ("none: ...").
    """

    value: float
    standard_error: float | None
    error: str
