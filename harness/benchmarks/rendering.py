"""A benchmark's figures as text: nested tables of plain data, aligned."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.analysis.formats import format_frame


def lines(figures: dict[str, Any], indent: str = "") -> list[str]:
    """The figures, a line each; rows of like kind as a table, and what is nested under its key."""
    width = max(len(key) for key in figures)
    found = []
    for key, value in figures.items():
        if isinstance(value, dict) and value and not _is_spread(value):
            found += [f"{indent}{key}", *_nested(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            found += [f"{indent}{key}", *_rows(value, indent + "  ")]
        elif isinstance(value, str) and "\n" in value:
            found += [f"{indent}{key}", *(f"{indent}  {line}" for line in value.splitlines())]
        else:
            found.append(f"{indent}{key:<{width}}  {show(value)}")
    return found


def show(value: Any) -> str:
    """A value as text: floats with four digits, nothing as "-", the items of a list side by side."""
    if isinstance(value, list):
        return " ".join(show(item) for item in value)
    if isinstance(value, dict):
        return f"{show(value['median'])} ({show(value['lowest'])} to {show(value['highest'])})"
    if value is None:
        return "-"
    if isinstance(value, float) and abs(value) >= 1e6:
        return f"{value:.3e}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _nested(table: dict[str, Any], indent: str) -> list[str]:
    """A table of named rows of like figures has a column a name."""
    columns = list(table.values())
    if all(_is_spread(column) for column in columns):
        width = max(map(len, table))
        return [f"{indent}{key:<{width}}  {show(value)}" for key, value in table.items()]
    if all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns):
        return _table([{"": key, **{name: table[name][key] for name in table}} for key in columns[0]], indent)
    return lines(table, indent)


def _rows(rows: list[dict[str, Any]], indent: str) -> list[str]:
    if all(_is_cell(value) for row in rows for value in row.values()):
        return _table(rows, indent)
    return [line for row in rows for line in [*lines(row, indent), ""]]


def _table(rows: list[dict[str, Any]], indent: str) -> list[str]:
    frame = pd.DataFrame([{key: show(value) for key, value in row.items()} for row in rows])
    return [f"{indent}{line}" for line in format_frame(frame, "text").splitlines()]


def _is_spread(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"median", "lowest", "highest"}


def _is_cell(value: Any) -> bool:
    return not isinstance(value, dict | list) or _is_spread(value)
