"""Figures: written, small, and different where the runs differ."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from harness.analysis.curves import POINTS, curves
from harness.analysis.figures import MAX_BYTES, columns_for, to_png
from harness.analysis.frame import frame
from harness.analysis.intervals import metric_by_axis
from harness.analysis.pictures import grid_samples, mosaic, samples
from harness.analysis.plots import write_plots, write_run_plots
from harness.errors import UnknownName
from harness.runs import GridFolder, write_npz, write_parquet

GRID_KEY = "parzen[test,n=10000,sigma=grid]"


def texts(figure: Figure | None) -> str:
    """All words in a figure."""
    assert figure is not None
    labels = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        labels += [axes.get_title(loc="left"), *(text.get_text() for text in axes.texts)]
        labels += [label.get_text() for label in axes.get_yticklabels()]
    return "\n".join(labels)


def test_a_grid_has_three_figures_of_under_a_megabyte(grid: GridFolder) -> None:
    paths = write_plots(grid)
    assert [path.relative_to(grid.path) for path in paths] == [
        Path("plots", name) for name in ("curves.png", "samples.png", "metric.png")
    ]
    for path in paths:
        assert 5_000 < path.stat().st_size < MAX_BYTES
        assert imread(path)[..., :3].std() > 0.05


def test_only_the_kinds_asked_for_are_written(grid: GridFolder, tmp_path: Path) -> None:
    assert [path.name for path in write_plots(grid, tmp_path / "grid", kinds=["metric", "curves"])] == [
        "curves.png",
        "metric.png",
    ]
    assert [path.name for path in write_run_plots(grid.runs()[0], tmp_path / "run", kinds=["samples"])] == [
        "samples.png"
    ]
    assert [path.name for path in tmp_path.glob("*/*")].count("samples.png") == 1


def test_figures_differ_between_runs(grid: GridFolder, tmp_path: Path) -> None:
    first, second = (write_run_plots(grid.runs()[number], tmp_path / str(number)) for number in (0, 1))
    for one, other in zip(first, second, strict=True):
        assert (imread(one) != imread(other)).any()


def test_curves_have_a_panel_a_combination_and_say_what_is_missing(grid: GridFolder) -> None:
    panels = {f"panel {number}": grid.runs()[3 * number : 3 * number + 3] for number in range(12)}
    figure = curves(panels, title="all", columns=6)
    assert figure is not None
    assert len(figure.axes) == 24
    assert all(f"panel {number}" in texts(figure) for number in range(12))
    assert "without a history, not drawn: 3" in texts(figure)
    assert "did not complete" in texts(figure)


def test_the_mean_curve_is_over_complete_runs(grid: GridFolder) -> None:
    runs = grid.runs()[30:33]  # complete, diverged, failed
    figure = curves({"one": runs}, title="one")
    history = runs[0].history()
    assert figure is not None
    assert history is not None
    thick = [line for line in figure.axes[0].get_lines() if line.get_linewidth() > 1.5]
    np.testing.assert_allclose(thick[0].get_ydata(), history["discriminator_loss"])


def test_long_histories_are_thinned_to_block_means(grid: GridFolder) -> None:
    run = grid.runs()[0]
    steps = np.arange(1, 1001)
    write_parquet(run.path / "history.parquet", pd.DataFrame({"iteration": steps, "loss": steps.astype(float)}))
    figure = curves({"one": [run]}, title="one")
    assert figure is not None
    line = figure.axes[0].get_lines()[-1]
    assert len(line.get_xdata()) == POINTS
    assert list(line.get_ydata())[:2] == [3.0, 8.0]
    assert "mean of 5 iterations" in texts(figure)


def test_the_equilibrium_is_drawn_for_two_term_losses_alone(grid: GridFolder) -> None:
    run = grid.runs()[0]

    def levels() -> list[float]:
        figure = curves({"one": [run]}, title="one")
        assert figure is not None
        return [float(line.get_ydata()[0]) for line in figure.axes[0].get_lines() if len(line.get_ydata()) == 2]

    assert levels() == [math.log(4)]
    run.write("experiment.json", {"loss": "wgan"})
    assert levels() == []


def test_infinite_values_leave_a_gap(grid: GridFolder) -> None:
    run = grid.runs()[0]
    history = pd.DataFrame({"iteration": [1, 2, 3], "discriminator_loss": [1.0, np.inf, np.nan]})
    write_parquet(run.path / "history.parquet", history)
    figure = curves({"one": [run]}, title="one")
    assert figure is not None
    assert all(np.isfinite(figure.axes[0].get_ylim()))


def test_too_many_panels_are_cut_and_the_caption_says_so(grid: GridFolder) -> None:
    panels = {run.id: [run] for run in grid.runs()}
    assert "first 24 of 36 combinations" in texts(curves(panels, title="all"))
    assert "first 24 of 36 combinations" in texts(grid_samples({run.id: run for run in grid.runs()}, title="all"))


def test_a_mosaic_holds_each_image_in_its_place() -> None:
    images = np.random.default_rng(0).random((6, 3, 8, 8)).astype(np.float32)
    picture = mosaic(images, columns=3)
    assert picture.shape == (17, 26, 3)
    np.testing.assert_array_equal(picture[9:17, 18:26], images[5].transpose(1, 2, 0))
    assert (picture[8] == 1).all()


@pytest.mark.parametrize("dimensions", [1, 2])
def test_toys_are_drawn_in_original_units(grid: GridFolder, dimensions: int) -> None:
    run = grid.runs()[0]
    points = np.random.default_rng(0).random((100, dimensions, 1, 1)).astype(np.float32)
    write_npz(run.path / "samples.npz", images=points)
    affine = {"offset": [-3.0] * dimensions, "scale": [6.0] * dimensions}
    run.write("provenance.json", {**(run.provenance() or {}), "affine": affine})
    for figure in (samples(run, title="toy"), grid_samples({"one": run}, title="toys")):
        assert figure is not None
        assert figure.axes[0].get_xlim() == (-3.0, 3.0)
        assert figure.axes[0].dataLim.x0 < -2


@pytest.mark.parametrize("edges", [(3.0, 3.0), (3.0, 5.0)])
def test_panels_of_toys_share_their_labels_where_they_share_a_scale(edges: tuple[float, ...], grid: GridFolder) -> None:
    runs = grid.runs()[:2]
    for run, edge in zip(runs, edges, strict=True):
        write_npz(run.path / "samples.npz", images=np.zeros((9, 2, 1, 1), np.float32))
        affine = {"offset": [-edge] * 2, "scale": [2 * edge] * 2}
        run.write("provenance.json", {**(run.provenance() or {}), "affine": affine})
    figure = grid_samples({run.id: run for run in runs}, title="toys")
    assert figure is not None
    figure.draw_without_rendering()
    labelled = [any(tick.label1.get_visible() for tick in axes.yaxis.get_major_ticks()) for axes in figure.axes]
    assert labelled == [True, len(set(edges)) > 1]


def test_the_metric_figure_names_runs_that_do_not_count(grid: GridFolder) -> None:
    shown = texts(metric_by_axis(frame([grid]), GRID_KEY, title="metric"))
    for words in ("1 diverged, 1 failed", "1 pending, 1 running", "2 unevaluated", "training images", GRID_KEY):
        assert words in shown


def test_an_outlier_becomes_an_arrow(grid: GridFolder) -> None:
    evaluation = grid.runs()[0].evaluation()
    assert evaluation is not None
    evaluation["metrics"][GRID_KEY]["value"] = -1e6
    grid.runs()[0].write("evaluation.json", evaluation)
    figure = metric_by_axis(frame([grid]), GRID_KEY, title="metric")
    assert figure is not None
    assert figure.axes[0].get_xlim()[0] > -100
    assert "Arrows" in texts(figure)


def test_a_grid_that_has_not_begun_has_no_figures(grid: GridFolder) -> None:
    for pattern in ("history.parquet", "samples.npz", "evaluation.json"):
        for path in grid.path.glob(f"runs/*/{pattern}"):
            path.unlink()
    assert write_plots(grid) == []
    assert not (grid.path / "plots").exists()


def test_an_unknown_metric_is_refused(grid: GridFolder) -> None:
    with pytest.raises(UnknownName, match="parzen"):
        write_plots(grid, metric="fid")


def test_a_heavy_figure_is_written_with_fewer_dots(tmp_path: Path) -> None:
    figure = Figure(figsize=(8, 8))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(np.random.default_rng(0).random((900, 900, 3)))
    path = to_png(figure, tmp_path / "noise.png")
    assert imread(path).shape[0] < 8 * 120
    assert path.stat().st_size < MAX_BYTES


def test_panels_stand_in_whole_blocks_of_the_last_axes() -> None:
    assert columns_for([2, 3, 2], 12) == 6
    assert columns_for([2, 3, 2], 11) == 4
    assert columns_for([1], 1) == 1
    assert columns_for([3, 10], 30) == 4


def test_drawing_leaves_pyplot_alone() -> None:
    code = "import sys, harness.analysis.plots; assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
