"""Random search: settings drawn from ranges, each a function of the search's seed, the draw's number and the key."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from harness.experiment import Settings


class Draw(Settings):
    """How one searched setting is drawn."""

    distribution: Literal["uniform", "log-uniform", "choice"]
    low: float | None = None
    high: float | None = None
    values: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    where: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = {}
    """The axis values at which the setting is searched; absent: at all."""

    @model_validator(mode="after")
    def _complete(self) -> Draw:
        if self.distribution == "choice":
            if self.values is None:
                raise ValueError("should have `values` to choose from")
            if self.low is not None or self.high is not None:
                raise ValueError("should have `values` alone, without `low` and `high`")
        elif self.values is not None:
            raise ValueError('should have `low` and `high`; `values` are for distribution = "choice"')
        elif self.low is None or self.high is None or not self.low < self.high:
            raise ValueError("should have `low` < `high`")
        elif self.distribution == "log-uniform" and self.low <= 0:
            raise ValueError("should have `low` > 0 to be log-uniform")
        return self

    def holds(self, axes: Mapping[str, Any]) -> bool:
        """Whether the setting is searched at these values of the axes."""
        return all(axes[axis] in values for axis, values in self.where.items())

    def value(self, unit: float, *, digits: int | None) -> Any:
        """The setting at a point of [0, 1), a number to so many significant digits."""
        if self.values is not None and self.distribution == "choice":
            return self.values[int(unit * len(self.values))]
        low, high = float(self.low or 0.0), float(self.high or 0.0)
        if self.distribution == "uniform":
            found = low + (high - low) * unit
        else:
            found = math.exp(math.log(low) + (math.log(high) - math.log(low)) * unit)
        return found if digits is None else min(max(float(f"{found:.{digits}g}"), low), high)


class ThenBest(Settings):
    """At each point of the axes the `n` best draws by a metric on validation images train again with `seeds` seeds."""

    n: Annotated[int, Field(ge=1)] = 1
    seeds: Annotated[int, Field(ge=1)]
    metric: str

    def fresh(self, used: tuple[int, ...]) -> list[int]:
        """The seeds of the best: the first from 0 on that the search did not use.

        The winner's own run is among the best of many by luck too; under its seed it would be reported again.
        """
        return [seed for seed in range(self.seeds + len(used)) if seed not in used][: self.seeds]


class SearchSettings(Settings):
    """Random search: each draw of all searched settings is one more point of the grid."""

    draws: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)] = 0
    digits: Annotated[int, Field(ge=1, le=17)] | None = None
    """Significant digits of drawn numbers; absent: all. With 15 or fewer no machine's logarithm alters a run's id."""
    space: Annotated[dict[str, Draw], Field(min_length=1)]
    then_best: ThenBest | None = None

    def points(self, axes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The drawn settings at these values of the axes; what is drawn twice is one point.

        A point depends on its number alone, so more draws leave earlier ones as they were.
        """
        searched = {key: draw for key, draw in self.space.items() if draw.holds(axes)}
        seen = set()
        for number in range(self.draws):
            point = {
                key: draw.value(_unit(f"{self.seed}/{number}/{key}"), digits=self.digits)
                for key, draw in searched.items()
            }
            text = json.dumps(point)
            if text not in seen:
                seen.add(text)
                yield point


def _unit(text: str) -> float:
    """A uniform number in [0, 1) that a text determines."""
    return (int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 11) * 2.0**-53
