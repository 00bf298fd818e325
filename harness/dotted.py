"""Dotted keys: places in nested tables, as --set, [axes] and [search.space] name them."""

from __future__ import annotations

import tomllib
from collections.abc import Container, Sequence
from typing import Any

from harness.errors import InputError


def apply(override: str, data: dict[str, Any], *, tables: Container[str]) -> None:
    """Apply one `key=value` of --set to a grid file's data; a key that is none of its tables is meant in [experiment].

    Errors: InputError.
    """
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise InputError(f"--set {override!r}: give key=value, e.g. --set iterations=100.")
    varying = {name: data.get(name, {}) for name in ("axes", "search")}
    for name, table in varying.items():
        if not isinstance(table, dict):
            raise InputError(f"{name} = {table!r} is a value, not a table; write [{name}].")
    if not all(key.split(".")):
        raise InputError(f"--set {override!r}: {key!r} has an empty part.")
    axis = key.removeprefix("experiment.")
    if axis in varying["axes"]:
        raise InputError(f"--set {override!r}: {axis} is an axis of this grid; use --set 'axes.{axis}=[...]'.")
    space = varying["search"].get("space", {})
    if isinstance(space, dict) and axis in space:
        raise InputError(f"--set {override!r}: this grid searches {axis}; use --set 'search.space.{axis}={{...}}'.")
    top, _, rest = key.partition(".")
    if top not in tables:
        top, rest = "experiment", key
    table, _, name = rest.partition(".")
    keys = [top, *rest.split(".")] if rest else [top]
    # Axes and searched settings may be dotted themselves: the rest is one key.
    if top == "axes" and rest:
        keys = [top, rest.strip('"')]
    elif top == "search" and table == "space" and name:
        keys = [top, table, name.strip('"')]
    assign(data, keys, _toml_value(text), where=f"--set {override!r}")


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string


def assign(data: dict[str, Any], keys: Sequence[str], value: Any, *, where: str) -> None:
    """Set a value deep inside nested tables, making tables on the way; a number is a place in a list, from 0 on."""
    inner: Any = data
    for position, key in enumerate(keys):
        before = ".".join(keys[:position])
        if not isinstance(inner, dict | list):
            raise InputError(f"{where}: {before} is a value, not a table.")
        place: Any = key
        if isinstance(inner, list):
            if not key.isdecimal() or int(key) >= len(inner):
                raise InputError(f"{where}: {before} is a list of {len(inner)}; {key!r} is no place in it, from 0 on.")
            place = int(key)
        if position == len(keys) - 1:
            inner[place] = value
        else:
            inner = inner[place] if isinstance(inner, list) else inner.setdefault(place, {})


def overlap(one: str, its: Any, other: str, others: Any) -> bool:
    """Whether two dotted settings reach the same place; tables that hold different keys do not."""
    if one == other and isinstance(its, dict) and isinstance(others, dict):
        return any(overlap(key, its[key], name, others[name]) for key in its for name in others)
    first, second = one.split("."), other.split(".")
    if len(first) > len(second):
        first, its, second, others = second, others, first, its
    if second[: len(first)] != first:
        return False
    rest = ".".join(second[len(first) :])
    return not rest or not isinstance(its, dict) or any(overlap(key, its[key], rest, others) for key in its)
