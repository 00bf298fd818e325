"""A flat data frame as text, Markdown, LaTeX, CSV or JSON."""

from __future__ import annotations

import itertools
import json
import textwrap
from collections.abc import Callable, Sequence

import pandas as pd

from harness.errors import UnknownName

_NARROWEST, _WIDEST = 80, 120  # characters of a line of text

LATEX: dict[str, str | int | None] = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "[": "{[}",  # a bare one after \\ would be read as its optional argument
    "]": "{]}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def format_frame(rows: pd.DataFrame, format: str, *, notes: Sequence[str] = ()) -> str:
    """The frame's columns (not its index) in one of FORMATS, without a last line break.

    Text, Markdown and LaTeX show cells as they are and the notes beneath; CSV and JSON (a list of objects) hold full
    precision, absent values as empty or null, and no notes.
    Errors: UnknownName for a format that is not in FORMATS.
    """
    if format not in FORMATS:
        raise UnknownName("format", format, FORMATS)
    return FORMATS[format](rows, notes).rstrip("\n")


def text(rows: pd.DataFrame, notes: Sequence[str]) -> str:
    """Columns padded with spaces, a rule under the header; what is too wide goes on in a block beneath.

    `rows.attrs["groups"]`, where given, says to which group each column belongs: a group is not torn, and the columns
    of group 0 begin every block.
    """
    lines = _cells(rows)
    numeric = _numeric(lines)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    padded = [
        [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ]
        for line in lines
    ]
    blocks = _blocks(rows.attrs.get("groups", range(1, len(widths) + 1)), widths)
    tables = ["\n".join("  ".join(line[place] for place in block).rstrip() for line in padded) for block in blocks]
    width = max(_NARROWEST, *(sum(widths[place] + 2 for place in block) for block in blocks))
    wrapped = [textwrap.fill(note, min(width, _WIDEST), subsequent_indent="  ") for note in notes]
    return "\n\n".join([*tables, *(["\n".join(wrapped)] if wrapped else [])])


def _blocks(groups: Sequence[int], widths: Sequence[int]) -> list[list[int]]:
    """The columns' places, block by block: as many groups as fit, those of group 0 before them."""
    labels = [place for place, group in enumerate(groups) if group == 0]
    others = [place for place, group in enumerate(groups) if group != 0]
    blocks = [list(labels)]
    for _, members in itertools.groupby(others, key=lambda place: groups[place]):
        group = list(members)
        wanted = sum(widths[place] + 2 for place in blocks[-1] + group) - 2
        if wanted > _WIDEST and len(blocks[-1]) > len(labels):
            blocks.append(list(labels))
        blocks[-1] += group
    return blocks


def markdown(rows: pd.DataFrame, notes: Sequence[str]) -> str:
    """A pipe table; the notes are paragraphs beneath."""
    lines = _cells(rows)
    rule = ["---:" if right else "---" for right in _numeric(lines)]
    escaped = [[" ".join(_escape_markdown(cell).split()) for cell in line] for line in lines]
    table = "\n".join(f"| {' | '.join(line)} |" for line in [escaped[0], rule, *escaped[1:]])
    return "\n\n".join([table, *(_escape_markdown(note) for note in notes)])


def latex(rows: pd.DataFrame, notes: Sequence[str]) -> str:
    """A tabular with the rules of booktabs; the notes are small paragraphs beneath."""
    lines = _cells(rows)
    columns = "".join("r" if right else "l" for right in _numeric(lines))
    header, *body = [" & ".join(" ".join(_escape_latex(cell).split()) for cell in line) + r" \\" for line in lines]
    beneath = [rf"\par{{\footnotesize {_escape_latex(note)}}}" for note in notes]
    return "\n".join(
        ["% needs \\usepackage{booktabs}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", header, r"\midrule"]
        + [*body, r"\bottomrule", r"\end{tabular}", *beneath]
    )


def csv(rows: pd.DataFrame, notes: Sequence[str]) -> str:
    """Comma-separated values with a header."""
    return str(rows.to_csv(index=False, lineterminator="\n"))


def json_list(rows: pd.DataFrame, notes: Sequence[str]) -> str:
    """A list of objects, one a row."""
    # not DataFrame.to_json: it rounds to 15 digits
    present = rows.astype(object).where(rows.notna(), None)
    return json.dumps(present.to_dict("records"), indent=2, allow_nan=False, ensure_ascii=False)


FORMATS: dict[str, Callable[[pd.DataFrame, Sequence[str]], str]] = {
    "text": text,
    "markdown": markdown,
    "latex": latex,
    "csv": csv,
    "json": json_list,
}


def _cells(rows: pd.DataFrame) -> list[list[str]]:
    body = [["" if pd.isna(value) else str(value) for value in row] for row in rows.itertuples(index=False)]
    return [[str(name) for name in rows.columns], *body]


def _numeric(lines: list[list[str]]) -> list[bool]:
    """Whether each column's cells begin like numbers: such columns are set flush right."""
    return [
        any(cells) and all(cell.lstrip(" -±")[:1].isdigit() or cell.strip() in ("", "-") for cell in cells)
        for cells in (column[1:] for column in zip(*lines, strict=True))
    ]


def _escape_markdown(cell: str) -> str:
    return "".join(f"\\{character}" if character in "\\|*_[]<>`" else character for character in cell)


def _escape_latex(cell: str) -> str:
    return cell.translate(str.maketrans(LATEX))
