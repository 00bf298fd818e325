"""Images in rows and columns: each in its place, with its words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from harness.analysis.figures import MAX_BYTES, to_png
from harness.analysis.pictures import mosaic
from harness.analysis.sheets import FIGURES, chains, conditions, interpolation, neighbours, sweep

RNG = np.random.default_rng(0)
IMAGES = RNG.random((3, 5, 1, 8, 8), dtype=np.float32)
FACTS = {
    "classes": np.array([0, 1, 2]),
    "components": np.array([0, 7, 112]),
    "values": np.array([-2.05, -0.3, -1e-17, 0.3, 2.05]),
    "way": np.array("linear"),
    "fractions": np.linspace(0, 1, 5),
    "method": np.array("deep-gsn"),
    "times": np.arange(500, 505),
    "burn_in": np.array(500),
}
DISTANCES = np.array([812.3, 0.0, 10_234.6])


def words(figure: Figure) -> list[str]:
    """What stands beside and above the images."""
    return [text.get_text() for text in figure.axes[0].texts]


def shown(figure: Figure) -> np.ndarray:
    """The pixels of the images."""
    return np.asarray(figure.axes[0].get_images()[0].get_array())


@pytest.mark.parametrize("kind", FIGURES)
def test_every_image_stands_in_its_row_and_column(kind: str) -> None:
    figure = FIGURES[kind](IMAGES, FACTS, title="t")
    assert np.array_equal(shown(figure), mosaic(IMAGES.reshape(15, 1, 8, 8), columns=5))


def test_a_sweep_names_components_and_values() -> None:
    figure = sweep(IMAGES, FACTS, title="t", about="minimax, seed 0. ")
    assert words(figure) == ["z[0]", "z[7]", "z[112]", "-2.05", "-0.30", "0.00", "0.30", "2.05"]
    assert any(text.get_text().startswith("minimax, seed 0. Each row: one component") for text in figure.texts)


def test_conditions_name_their_classes() -> None:
    assert words(conditions(IMAGES, FACTS, title="t")) == ["class 0", "class 1", "class 2"]


@pytest.mark.parametrize(("way", "line"), [("linear", "straight line"), ("spherical", "great circle")])
def test_an_interpolation_names_its_ends_and_its_way(way: str, line: str) -> None:
    figure = interpolation(IMAGES, {**FACTS, "way": np.array(way)}, title="t")
    assert words(figure) == ["0 to 1", "2 to 3", "4 to 5", "0.00", "0.25", "0.50", "0.75", "1.00"]
    assert any(line in text.get_text().replace("\n", " ") for text in figure.texts)


@pytest.mark.parametrize(
    ("times", "told"),
    [
        (range(500, 505), ["Each column is the next step", "The first column is the run's first samples"]),
        (range(1, 101, 20), ["From column to column: 20 steps", "samples are taken from 500 steps on"]),
    ],
)
def test_chains_say_how_they_start_and_how_many_steps_they_have_walked(times: range, told: list[str]) -> None:
    figure = chains(IMAGES, {**FACTS, "times": np.array(times)}, title="t")
    assert words(figure) == ["chain 0", "chain 1", "chain 2", *map(str, times)]
    caption = figure.texts[1].get_text().replace("\n", " ")
    for words_told in (*told, "Markov chain of the Deep GSN", "start from binary draws of the mean training image"):
        assert words_told in caption


def test_neighbours_stand_framed_on_the_right_with_their_distances() -> None:
    nearest = RNG.random((3, 1, 8, 8), dtype=np.float32)
    figure = neighbours(IMAGES, nearest, DISTANCES, title="t")
    beside = np.concatenate([IMAGES, nearest[:, None]], axis=1).reshape(18, 1, 8, 8)
    assert np.array_equal(shown(figure), mosaic(beside, columns=6))
    assert [word for word in words(figure) if word] == ["812", "0", "10235", "nearest"]
    frames = [patch.get_bbox() for patch in figure.axes[0].patches]
    assert [(frame.x0, frame.width) for frame in frames] == [(44.0, 9.0)] * 3
    assert [frame.y0 for frame in frames] == [-1.0, 8.0, 17.0]


@pytest.mark.parametrize("shape", [(1, 2, 1, 8, 8), (3, 5, 3, 40, 28), (2, 20, 1, 5, 9)])
def test_no_word_leaves_the_figure_or_covers_another(shape: tuple[int, ...], tmp_path: Path) -> None:
    rows, columns = shape[:2]
    images = np.zeros(shape, np.float32)
    facts = {
        "classes": np.arange(100, 100 + rows),
        "components": np.arange(100, 100 + rows),
        "values": np.linspace(-1.7, 1.7, columns),
        "way": np.array("linear"),
        "fractions": np.linspace(0, 1, columns),
        "method": np.array("deep-gsn"),
        "times": np.arange(99_000, 99_000 + 50 * columns, 50),
        "burn_in": np.array(500),
    }
    figures = [
        make(images, facts, title="t", about="minimax · k=5 · maxout-mlp, seed 2, run 0123456789abcdef. ")
        for make in FIGURES.values()
    ]
    figures.append(neighbours(images, images[:, 0], np.full(rows, 12_345.0), title="t"))
    for number, figure in enumerate(figures):
        assert to_png(figure, tmp_path / f"{number}.png").stat().st_size < MAX_BYTES
        axes = figure.axes[0]
        boxes = [text.get_window_extent() for text in (*figure.texts, *axes.texts) if text.get_text()]
        boxes.append(axes.get_window_extent())
        for place, box in enumerate(boxes):
            assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
            assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1
            assert not any(box.overlaps(other) for other in boxes[place + 1 :])
