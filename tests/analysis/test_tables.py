"""Tables: what enters a mean, what each error is, and every format."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from harness.analysis.formats import FORMATS, format_frame
from harness.analysis.frame import frame
from harness.analysis.tables import choose_keys, render, table
from harness.errors import InputError, UnknownName
from harness.runs import GridFolder, write_json

GRID_KEY = "parzen[test,n=10000,sigma=grid]"
REFINED_KEY = "parzen[test,n=10000,sigma=refined]"
LOSSES = ("non_saturating", "minimax")
LEARNING_RATES = (0.1, 0.05, 0.2)
MODELS = ("mlp", "maxout-mlp")

WHOLE = ("non_saturating", 0.1, "mlp")
HALF = ("non_saturating", 0.05, "mlp")
BROKEN = ("minimax", 0.2, "mlp")
UNMEASURED = ("non_saturating", 0.2, "maxout-mlp")
FLAGGED = ("minimax", 0.1, "maxout-mlp")


def test_means_and_both_errors_agree_with_hand_computation(grid: GridFolder) -> None:
    row = table(grid).loc[WHOLE, GRID_KEY]
    values = [10.0, 11.7, 16.8]
    mean = 38.5 / 3
    assert row["mean"] == pytest.approx(mean)
    assert row["standard_error"] == pytest.approx(math.sqrt(sum((value - mean) ** 2 for value in values) / 2 / 3))
    assert row["sampling_standard_error"] == pytest.approx(0.5 + mean / 100)


def test_one_seed_has_no_error_over_seeds(make_grid: Callable[..., GridFolder]) -> None:
    row = table(make_grid(seeds=(2,))).loc[WHOLE, GRID_KEY]
    assert row["mean"] == pytest.approx(16.8)
    assert pd.isna(row["standard_error"])
    assert row["sampling_standard_error"] == pytest.approx(0.5 + row["mean"] / 100)


def test_only_complete_evaluated_runs_enter_a_mean(grid: GridFolder) -> None:
    made = table(grid)
    assert made.loc[BROKEN, GRID_KEY]["mean"] == pytest.approx(36.8)
    assert made.loc[HALF, GRID_KEY]["mean"] == pytest.approx(6.7)
    assert made.loc[UNMEASURED, GRID_KEY]["mean"] == pytest.approx(29.8)


def test_every_run_is_counted_once(grid: GridFolder) -> None:
    made = table(grid).iloc[:-1]
    key, everything = made[GRID_KEY], made["all"]
    counted = key["runs"] + key["unevaluated"] + everything["failures"] + everything["unfinished"]
    assert (counted == everything["runs"]).all()
    assert made.loc[BROKEN, ("all", "failures")] == 2
    assert made.loc[HALF, ("all", "unfinished")] == 2
    assert made.loc[UNMEASURED, (GRID_KEY, "unevaluated")] == 2


def test_a_combination_without_any_value_is_nan_not_zero(make_grid: Callable[..., GridFolder]) -> None:
    made = table(make_grid(seeds=(0,)))
    assert pd.isna(made.loc[BROKEN, (GRID_KEY, "mean")])
    assert made.loc[BROKEN, (GRID_KEY, "runs")] == 0


def test_rows_keep_the_order_of_the_grid_file(grid: GridFolder) -> None:
    made = table(grid).iloc[:-1]
    assert list(made.index.names) == ["loss", "optimizer.lr", "model"]
    assert list(made.index) == [(loss, lr, model) for loss in LOSSES for lr in LEARNING_RATES for model in MODELS]


def test_an_axis_that_does_not_vary_is_left_out(grid: GridFolder) -> None:
    runs = frame([grid])
    part = table(runs[(runs["loss"] == "minimax") & (runs["model"] == "mlp")])
    assert part.index.name == "optimizer.lr"
    alone = table(runs[runs["id"] == runs["id"].iloc[0]])
    assert list(alone.index) == ["demo", "demo: training images"]


def test_controls_stand_beneath_with_their_own_error(grid: GridFolder) -> None:
    made = table(grid)
    assert made.index[-1] == ("training images", "", "")
    assert made[GRID_KEY].iloc[-1]["mean"] == 57.25
    assert made[GRID_KEY].iloc[-1]["sampling_standard_error"] == 1.0725
    assert pd.isna(made[GRID_KEY].iloc[-1]["standard_error"])
    assert made["all", "runs"].isna().tolist() == [False] * 12 + [True]


def test_a_companion_is_told_apart_from_runs_of_its_name(tmp_path: Path) -> None:
    grid = GridFolder(tmp_path / "controls")
    records = {GRID_KEY: {"value": 243.0, "standard_error": 2.0}}
    entries = []
    for number, row in enumerate(("training-images", "k-means")):
        run = grid.run(f"{number:016x}")
        run.write("provenance.json", {"outcome": "complete", "seconds": 1.0})
        run.write("evaluation.json", {"metrics": records})
        entries.append({"id": run.id, "axes": {"row": row}, "seed": 0})
    write_json(
        grid.path / "grid.json", {"schema": 1, "name": "controls", "axes": ["row"], "runs": entries, "stacks": []}
    )
    controls = {
        "training-images": {"metrics": {}, "trained": True},
        "k-means": {"metrics": records, "samples": {"source": "k-means, 598 centroids"}},
        "gaussian": {"metrics": records, "samples": {"source": "gaussian"}},
    }
    write_json(grid.path / "controls.json", controls)
    made = table(grid)
    assert list(made.index) == ["training-images", "k-means", "k-means (companion)", "gaussian"]
    assert made.attrs["notes"][-2:] == [
        "Rows without runs: other images in the place of samples (k-means, 598 centroids; gaussian), with their own "
        "sampling error.",
        "No companion of that name, since the grid trains it on as many images: training-images.",
    ]


def test_a_metric_that_some_rows_cannot_have_costs_no_column(make_grid: Callable[..., GridFolder]) -> None:
    grid = make_grid(seeds=(2,))
    drawn = GRID_KEY.replace("parzen", "parzen-draws").replace("sigma", "output=draws,sigma")
    for run in grid.runs():
        if run.evaluation() is not None:
            draws = {drawn: {"value": 0.5, "standard_error": 0.1}}
            if run.experiment()["loss"] == "minimax":
                draws = {"parzen-draws[test,n=10000]": {"value": None, "reason": "its samples are no means"}}
            run.write("evaluation.json", {"metrics": {GRID_KEY: {"value": 1.0, "standard_error": 0.1}, **draws}})
    shown = render(table(grid), "markdown").replace("\\", "")
    header = [cell.strip() for cell in shown.splitlines()[0].split("|")[1:-1]]
    assert header[3:] == [
        "parzen (nats)",
        "sampling",
        "parzen-draws (nats)",
        "sampling",
        "runs",
        "failures",
        "unfinished",
    ]
    cells = [cell.strip() for cell in next(line for line in shown.splitlines() if "minimax" in line).split("|")[4:-1]]
    assert cells == ["1.00", "± 0.10", "-", "-", "1", "0", "0"]
    assert "its samples are no means" in shown and "output=draws: binary images" in shown


def test_sigma_at_the_edge_is_counted_and_marked(grid: GridFolder) -> None:
    made = table(grid)
    assert made.loc[FLAGGED, (GRID_KEY, "sigma_at_edge")] == 1
    assert made[REFINED_KEY, "sigma_at_edge"].sum() == 0
    marked = [line for line in render(made, "text").splitlines() if " * " in line]
    assert len(marked) == 1
    assert marked[0].split()[:3] == ["minimax", "0.1", "maxout-mlp"]
    assert "edge of its range" in render(made, "text")


def test_a_metric_is_chosen_by_key_or_by_its_beginning(grid: GridFolder) -> None:
    runs = frame([grid])
    assert choose_keys(runs, GRID_KEY) == [GRID_KEY]
    assert choose_keys(runs, "parzen") == [GRID_KEY, REFINED_KEY]
    with pytest.raises(UnknownName, match="parzen"):
        table(grid, metric="parsen")


def test_a_metric_that_failed_everywhere_gives_its_reason_and_no_column(grid: GridFolder) -> None:
    record = {"value": None, "standard_error": None, "reason": "samples are constant"}
    grid.runs()[0].write("evaluation.json", {"metrics": {"parzen[test,n=10000]": record}})
    made = table(grid)
    assert "parzen[test,n=10000]" not in made
    assert made.loc[WHOLE, (GRID_KEY, "unevaluated")] == 1
    assert "samples are constant" in render(made, "text")


def test_a_beginning_that_fits_two_metrics_is_refused(grid: GridFolder) -> None:
    record = {"value": 1.0, "standard_error": None}
    grid.runs()[0].write("evaluation.json", {"metrics": {GRID_KEY: record, "parity[test]": record}})
    with pytest.raises(InputError, match="parity, parzen"):
        table(grid, metric="par")


def test_a_grid_without_evaluations_still_counts_its_runs(grid: GridFolder) -> None:
    for path in [*grid.path.glob("runs/*/evaluation.json"), grid.path / "controls.json"]:
        path.unlink()
    assert "36" in render(table(grid), "text")
    assert len(json.loads(render(table(grid), "json"))) == 12
    with pytest.raises(InputError, match="harness evaluate"):
        table(grid, metric="parzen")


def test_csv_parses_back_to_full_precision(grid: GridFolder) -> None:
    made = table(grid)
    parsed = pd.read_csv(io.StringIO(render(made, "csv")), dtype={"mean": "str"})
    assert {"loss", "optimizer.lr", "model", "control", "metric", "mean", "standard_error", "runs"} <= set(parsed)
    refined = parsed[parsed["metric"] == REFINED_KEY]
    assert [float(mean) for mean in refined["mean"]] == made[REFINED_KEY]["mean"].tolist()
    assert refined["control"].iloc[-1] == "training images"
    assert refined.iloc[-1][["loss", "optimizer.lr", "runs"]].isna().all()


def test_json_parses_back_with_null_for_what_is_absent(grid: GridFolder) -> None:
    rows = json.loads(render(table(grid), "json"))
    assert len(rows) == 26
    half = next(row for row in rows if (row["loss"], row["optimizer.lr"], row["model"]) == HALF)
    assert half["standard_error"] is None
    assert (half["runs"], half["unfinished"], half["metric"]) == (1, 2, GRID_KEY)
    assert half["sampling_standard_error"] == table(grid).loc[HALF, (GRID_KEY, "sampling_standard_error")]


def test_text_and_markdown_show_mean_error_and_what_was_measured(grid: GridFolder) -> None:
    for shown in (render(table(grid), "text"), render(table(grid), "markdown").replace("\\", "")):
        assert "12.8 ± 2.0" in shown
        assert GRID_KEY in shown
        assert "sigma 0.1067 to 0.1398" in shown
        assert "test_images 360" in shown
        assert "retraining is no part of it" in shown
        assert "1 diverged, 1 failed" in shown


def test_markdown_rows_have_the_cells_of_the_header(grid: GridFolder) -> None:
    lines = [line for line in render(table(grid), "markdown").splitlines() if line.startswith("|")]
    assert len(lines) == 15
    assert len({line.count("|") for line in lines}) == 1


def test_latex_escapes_every_special_character() -> None:
    rows = pd.DataFrame({"a_b": [r"5% & {x}^2 ~ #1 $ \ [ |"]})
    body = format_frame(rows, "latex", notes=["1 ± 2"]).splitlines()
    assert body[3] == r"a\_b \\"
    expected = r"5\% \& \{x\}\textasciicircum{}2 \textasciitilde{} \#1 \$ \textbackslash{} {[} \textbar{} \\"
    assert body[5] == expected
    assert body[-1] == r"\par{\footnotesize 1 $\pm$ 2}"


def test_latex_rows_have_the_columns_of_the_tabular(grid: GridFolder) -> None:
    shown = render(table(grid), "latex")
    columns = shown.split(r"\begin{tabular}{")[1].partition("}")[0]
    rows = [line for line in shown.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 14
    assert {row.count(" & ") for row in rows} == {len(columns) - 1}
    assert r"non\_saturating" in shown


def test_an_unknown_format_is_refused_with_the_nearest(grid: GridFolder) -> None:
    with pytest.raises(UnknownName, match="markdown"):
        render(table(grid), "markdwn")


@pytest.mark.parametrize("format", FORMATS)
def test_several_grids_are_told_apart(make_grid: Callable[..., GridFolder], format: str) -> None:
    grids = [make_grid(name=name, seeds=(1,)) for name in ("first", "second")]
    made = table(frame(grids))
    assert list(made.index[-2:]) == [(name, "training images", "", "") for name in ("first", "second")]
    assert "second" in render(made, format)


def test_csv_names_the_grid_of_a_control(make_grid: Callable[..., GridFolder]) -> None:
    grids = [make_grid(name=name, seeds=(1,)) for name in ("first", "second")]
    rows = list(csv.DictReader(io.StringIO(render(table(frame(grids), metric=GRID_KEY), "csv"))))
    assert [(row["grid"], row["loss"], row["control"]) for row in rows[-2:]] == [
        ("first", "", "training images"),
        ("second", "", "training images"),
    ]


def test_digits_follow_the_size_of_the_error(grid: GridFolder) -> None:
    for number, run in enumerate(grid.runs()):
        if run.evaluation():
            record = {"value": 1000.0 + 40 * (number % 3), "standard_error": None}
            run.write("evaluation.json", {"metrics": {"fid[test]": record}})
    write_json(grid.path / "controls.json", {})
    assert "1040 ± 23" in render(table(grid, metric="fid"), "text")


DRAWN = [("search", 0.1, 0, 3.0), ("search", 0.2, 0, 5.0), ("search", 0.3, 0, None), ("best", 0.1, 1, 4.0)]


@pytest.fixture
def searched(tmp_path: Path) -> GridFolder:
    """A grid of three draws, one of which diverged, and a run of the best."""
    grid = GridFolder(tmp_path / "searched")
    runs = []
    for stage, lr, seed, value in DRAWN:
        run = grid.run(f"{stage}-{lr}")
        run.write("provenance.json", {"outcome": "complete" if value else "diverged", "diverged_at": 3, "seconds": 1.0})
        if value:
            run.write(
                "evaluation.json", {"metrics": {"fid[x,validation,n=9]": {"value": value, "standard_error": 0.1}}}
            )
        runs.append({"id": run.id, "axes": {"stage": stage, "optimizer.lr": lr}, "seed": seed})
    manifest = {"schema": 1, "name": "searched", "axes": ["stage", "optimizer.lr"], "searched": ["optimizer.lr"]}
    write_json(grid.path / "grid.json", {**manifest, "runs": runs, "stacks": []})
    return grid


def test_the_draws_of_a_search_are_one_row_with_their_failures(searched: GridFolder) -> None:
    made = table(searched)
    assert [(stage, lr == 0.1) for stage, lr in made.index] == [("search", False), ("best", True)]
    draws, best = (made.iloc[place] for place in (0, 1))
    assert draws["fid[x,validation,n=9]", "mean"] == 4.0 and draws["all", "failures"] == 1
    assert draws["fid[x,validation,n=9]", "standard_error"] == pytest.approx(1.0)
    assert best["fid[x,validation,n=9]", "mean"] == 4.0 and best["fid[x,validation,n=9]", "runs"] == 1
    assert "fid validation" in render(made, "text")


def test_each_draw_is_a_row_where_it_is_wanted(searched: GridFolder) -> None:
    made = table(searched, draws=True)
    assert list(made.index) == [("search", 0.1), ("search", 0.2), ("search", 0.3), ("best", 0.1)]
    assert "each draw of a search is a row" in " ".join(made.attrs["notes"])
