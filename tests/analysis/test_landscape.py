"""Landscapes of toys: each panel its scores, its samples and the training points, in original units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from harness.analysis.figures import MAX_BYTES, to_png
from harness.analysis.landscape import COLUMNS, Panel, landscape

RNG = np.random.default_rng(0)
CORNERS = np.array([[-3.0, -1.0], [3.0, 1.0]])
TRAINING = RNG.uniform(*CORNERS, (50, 2))


def drawn(panels: int, caption: str = "A round is 50 iterations long.") -> tuple[list[Panel], Figure]:
    """Some panels and their figure."""
    made = [
        Panel(
            f"round {number}, iteration {1000 * number}",
            RNG.normal(0, 20, (40, 40)).astype(np.float32),
            RNG.uniform(*CORNERS, (30, 2)),
        )
        for number in range(panels)
    ]
    return made, landscape(made, TRAINING, CORNERS, title="energy-toys: landscape", caption=caption)


def test_a_panel_shows_its_scores_and_points_where_they_are() -> None:
    panels, figure = drawn(3)
    shown = [axes for axes in figure.axes if axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in shown] == [panel.name for panel in panels]
    for panel, axes in zip(panels, shown, strict=True):
        [image] = axes.get_images()
        assert np.array_equal(np.asarray(image.get_array()), panel.logits)
        assert image.origin == "lower" and image.get_extent() == [-3.0, 3.0, -1.0, 1.0]
        points = [np.asarray(collection.get_offsets()) for collection in axes.collections]
        assert np.array_equal(points[0], TRAINING) and np.array_equal(points[1], panel.samples)
        assert (axes.get_xlim(), axes.get_ylim()) == ((-3.0, 3.0), (-1.0, 1.0))


def test_all_panels_have_the_same_colours_which_a_far_point_does_not_stretch() -> None:
    panels = drawn(2)[0]
    panels[1].logits[0, 0] = -1e6
    figure = landscape(panels, TRAINING, CORNERS, title="t", caption="c")
    [(low, high)] = {image.get_clim() for axes in figure.axes[:2] for image in axes.get_images()}
    assert -80 < low < -30 < 30 < high < 80


@pytest.mark.parametrize("panels", [1, 2, COLUMNS, 12])
def test_no_word_leaves_the_figure_or_covers_another(panels: int, tmp_path: Path) -> None:
    figure = drawn(panels, caption="Ascents of the logit from even noise end there. " * 9)[1]
    assert to_png(figure, tmp_path / "landscape.png").stat().st_size < MAX_BYTES
    boxes = [text.get_window_extent() for text in figure.texts]
    for axes in figure.axes:
        boxes.append(axes.get_tightbbox())
    for place, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])
