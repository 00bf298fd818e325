from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness import benchmarks
from harness.benchmarks.rendering import lines, show
from harness.errors import InputError
from harness.runs import read_json

SPREAD = {"median": 2.0, "lowest": 1.0, "highest": 3.5}
FIGURES: dict[str, Any] = {
    "machine": {"cores": 2, "device": "cpu"},
    "rates": {"copy": SPREAD, "product": SPREAD},
    "ways": [{"way": "packed", "rate": SPREAD}, {"way": "in processes", "rate": None}],
    "left_out": None,
    "paste": "[run]\nstack_size = 8",
}


def test_figures_are_aligned_lines_and_tables() -> None:
    assert lines(FIGURES) == [
        "machine",
        "  cores   2",
        "  device  cpu",
        "rates",
        "  copy     2 (1 to 3.5)",
        "  product  2 (1 to 3.5)",
        "ways",
        "  way                   rate",
        "  ------------  ------------",
        "  packed        2 (1 to 3.5)",
        "  in processes             -",
        "left_out  -",
        "paste",
        "  [run]",
        "  stack_size = 8",
    ]


def test_things_with_like_figures_stand_side_by_side() -> None:
    text = "\n".join(lines({"workloads": {"a": {"speed": 1.25, "products": 3}, "b": {"speed": 2.0, "products": 4}}}))
    assert [line.split() for line in text.splitlines()[3:]] == [["speed", "1.25", "2"], ["products", "3", "4"]]


@pytest.mark.parametrize(
    ("value", "text"), [(1.23456, "1.235"), (123456789.0, "1.235e+08"), (5, "5"), (None, "-"), ([1.5, 2.0], "1.5 2")]
)
def test_values_show_what_means_something(value: Any, text: str) -> None:
    assert show(value) == text


def test_an_option_of_another_benchmark_is_refused() -> None:
    with pytest.raises(InputError, match=r"bench train` takes no --members; it belongs to packed"):
        benchmarks.run("train", {"members": 4, "grid": None})


def test_figures_are_written_beside_printing(tmp_path: Path) -> None:
    benchmarks.write(FIGURES, tmp_path / "bench" / "packed.json")
    assert read_json(tmp_path / "bench" / "packed.json") == FIGURES
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        benchmarks.write(FIGURES, tmp_path / "file" / "packed.json")
