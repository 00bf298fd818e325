"""The table in the 2014 paper's style: what was published, ours beside it, and a footnote that says how they differ."""

from __future__ import annotations

import csv
import io
import json
import math
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner

from baselines import BASELINES
from harness.analysis import paper
from harness.analysis.formats import FORMATS
from harness.analysis.paper import DRAWS, PARZEN, paper_table, render
from harness.cli import main
from harness.errors import InputError, UnknownName
from harness.methods import METHODS
from harness.runs import GridFolder, RunFolder, find_grids, write_json

FID = "fid[classifier-mnist,test,n=10000]"
REFINED = "parzen[test,n=10000,sigma=refined]"
HASHES = {"mnist": "a" * 64, "tfd": "b" * 64, "digits": "c" * 64}

Grid = Callable[..., GridFolder]
# method, axes, seed, log-likelihood (None: diverged)
Run = tuple[str, dict[str, Any], int, float | None]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    """Writes a grid of some runs on a data set, as training and evaluation leave it."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)

    def write(runs: list[Run], *, dataset: str = "mnist", name: str = "table1", fid: float = 5.0) -> GridFolder:
        grid = GridFolder(tmp_path / name)
        entries = []
        for number, (method, axes, seed, value) in enumerate(runs):
            run = grid.run(f"{number:016x}")
            entries.append({"id": run.id, "axes": axes, "seed": seed})
            shared = {"dataset": dataset, "data_hash": HASHES[dataset], "iterations": 4000, "batch_size": 100}
            settings = {"hidden": [500, 400], "burn_in": 200}
            run.write("experiment.json", {**shared, "method": method, "seed": seed, "baseline": settings})
            outcome = "diverged" if value is None else "complete"
            run.write("provenance.json", {"outcome": outcome, "diverged_at": 3, "seconds": 20.0 + seed})
            if value is not None:
                run.write("evaluation.json", {"metrics": metrics(value, fid)})
        axis_names = list(dict.fromkeys(key for _, axes, _, _ in runs for key in axes))
        stacks: list[Any] = []
        write_json(
            grid.path / "grid.json", {"schema": 1, "name": name, "axes": axis_names, "runs": entries, "stacks": stacks}
        )
        entry = {"metrics": metrics(242.6, 0.5), "dataset": {"name": dataset, "hash": HASHES[dataset]}}
        write_json(grid.path / "controls.json", {"training-images": entry})
        return grid

    return write


def metrics(value: float, fid: float) -> dict[str, Any]:
    """An evaluation's records."""
    return {
        REFINED: {"value": value + 1, "standard_error": 1.5, "sigma": 0.2},
        PARZEN: {"value": value, "standard_error": 2.0 + value / 1000, "sigma": 0.2, "sigma_at_edge": value > 260},
        FID: {"value": fid, "standard_error": 0.1},
    }


TWO_SEEDS: list[Run] = [
    ("vae", {"method": "vae"}, 0, 220.0),
    ("dbn", {"method": "dbn"}, 0, 250.0),
    ("dbn", {"method": "dbn"}, 1, 254.0),
]


def test_the_published_numbers_are_those_of_table_1() -> None:
    found = {key: (entry["value"], entry["standard_error"]) for key, entry in paper.published().items()}
    mnist = {"dbn": (138, 2), "stacked-cae": (121, 1.6), "deep-gsn": (214, 1.1), "gan": (225, 2)}
    faces = {"dbn": (1909, 66), "stacked-cae": (2110, 50), "deep-gsn": (1890, 29), "gan": (2057, 26)}
    assert found == {("mnist", name): pair for name, pair in mnist.items()} | {
        ("tfd", name): pair for name, pair in faces.items()
    }


def test_every_published_number_has_its_source() -> None:
    with open(Path(paper.__file__).parent / "published.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(row["source"] and float(row["value"]) and row["method"] in METHODS | {"vae": None} for row in rows)
    assert {row["error"] for row in rows if row["standard_error"]} >= {"over test images"}


def test_both_files_are_installed_with_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["harness"]
    package = Path(paper.__file__).parents[1]
    installed = {path for pattern in patterns for path in package.glob(pattern)}
    assert {package / "analysis" / name for name in ("published.csv", "methods.toml")} <= installed


def test_every_method_is_described() -> None:
    described = paper.methods()
    assert METHODS.keys() <= described.keys()
    assert all(entry["name"] and entry["shows"].endswith(".") for entry in described.values())
    assert all(described[method]["differs"].endswith(".") for _, method in paper.published())


def test_settings_of_the_footnote_are_settings_of_the_methods() -> None:
    for method, kind in BASELINES.items():
        named = [key.removeprefix("baseline.") for key in paper.methods()[method].get("settings", [])]
        assert set(named) <= kind.of.settings_class.model_fields.keys(), method


def test_published_and_ours_stand_side_by_side_with_both_errors(make: Grid) -> None:
    row = paper_table([make(TWO_SEEDS)]).loc[("mnist", "dbn", "")]
    assert (row["published", "value"], row["published", "standard_error"]) == (138, 2)
    assert row[PARZEN, "mean"] == 252.0
    assert row[PARZEN, "standard_error"] == pytest.approx(math.sqrt(8) / math.sqrt(2))
    assert row[PARZEN, "sampling_standard_error"] == pytest.approx(2.252)
    assert row[PARZEN, "runs"] == 2
    assert row[FID, "mean"] == 5.0


def test_rows_follow_the_publication_then_the_grids_then_companions(make: Grid) -> None:
    made = paper_table([make(TWO_SEEDS)])
    assert list(made.loc["mnist"].index) == [
        ("dbn", ""),
        ("stacked-cae", ""),
        ("deep-gsn", ""),
        ("gan", ""),
        ("vae", ""),
        ("training-images", paper.COMPANION),
    ]
    assert pd.isna(made.loc[("mnist", "gan", ""), (PARZEN, "mean")])
    assert made.loc[("mnist", "vae", "")]["published"].isna().all()


def test_text_shows_a_line_a_method(make: Grid) -> None:
    lines = [" ".join(line.split()) for line in render(paper_table([make(TWO_SEEDS)]), "text").splitlines()]
    assert lines[0] == "method setting published (nats) ours (nats) sampling seeds fid"
    assert lines[2] == "DBN 138 ± 2 252.0 ± 2.0 ± 2.3 2 5.00 ± 0.00"
    assert lines[3] == "Stacked CAE 121 ± 1.6 - - -"


def test_runs_of_one_method_that_differ_by_more_than_the_seed_are_rows_of_their_own(make: Grid) -> None:
    grid = make([("gan", {"k": k, "loss": "minimax"}, seed, 200.0 + k) for k in (1, 5) for seed in (0, 1)])
    made = paper_table([grid]).loc["mnist"].loc["gan"]
    assert list(made.index) == ["k=1", "k=5"]
    assert made[PARZEN, "mean"].tolist() == [201.0, 205.0]
    assert made["published", "value"].tolist() == [225, 225]


def test_settings_that_look_alike_are_not_one_row(make: Grid) -> None:
    made = paper_table([make([("gan", {"lr": lr}, 0, 100 + lr) for lr in (0.1, 0.1 + 1e-9)])])
    assert list(made.loc["mnist"].loc["gan"].index) == ["lr=0.1", "lr=0.1 (2)"]
    assert "lr=0.1 (2)" in render(made, "text")


def test_data_sets_stand_beside_each_other(make: Grid) -> None:
    faces = make([("dbn", {}, 0, 1900.0), ("gan", {}, 0, 2000.0)], dataset="tfd", name="faces", fid=9.0)
    made = paper_table([make(TWO_SEEDS), faces])
    lines = [line for line in render(made, "markdown").splitlines() if line.startswith("|")]
    header = [cell.strip() for cell in lines[0].split("|")]
    row = [cell.strip() for cell in next(line for line in lines if line.startswith("| DBN")).split("|")]
    shown = dict(zip(header, row, strict=True))
    assert shown["mnist: published (nats)"] == "138 ± 2" and shown["tfd: published (nats)"] == "1909 ± 66"
    assert shown["mnist: ours (nats)"].startswith("252") and shown["tfd: ours (nats)"].startswith("1900")
    assert "across folds" in render(made, "text")


def test_two_data_sets_of_one_name_are_told_apart(make: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make([("vae", {}, 0, 1.0)], dataset="digits", name="first")
    monkeypatch.setitem(HASHES, "digits", "d" * 64)
    second = make([("vae", {}, 0, 2.0)], dataset="digits", name="second")
    made = paper_table([first, second])
    assert list(made.index.unique("dataset")) == ["digits cccccccc", "digits dddddddd"]
    assert made[PARZEN, "runs"].dropna().tolist() == [1, 1]


def test_a_data_set_without_publication_has_no_such_column(make: Grid) -> None:
    made = paper_table([make(TWO_SEEDS, dataset="digits")])
    shown = render(made, "text")
    assert list(made.loc["digits"].index.unique(0)) == ["dbn", "vae", "training-images"]
    assert "published (nats)" not in shown
    assert "published on digits: nothing" in shown
    assert paper.methods()["dbn"]["differs"] not in " ".join(shown.split())


def test_the_footnote_says_what_rows_show_and_how_they_differ(make: Grid) -> None:
    notes = paper_table([make(TWO_SEEDS)]).attrs["notes"]
    dbn = paper.methods()["dbn"]
    settings = "Settings: hidden [500, 400], burn_in 200, iterations 4000, batch_size 100."
    seconds = "Training took 20 to 21 s, all runs of a stack together."
    assert f"DBN: {dbn['shows']} {dbn['differs']} {settings} {seconds}" in notes
    assert "Goodfellow et al., Generative Adversarial Nets (2014), Table 1; error over test images;" in notes[0]
    assert f"ours on mnist: {PARZEN}; sigma 0.2." in notes
    assert not any(note.startswith("Stacked CAE") for note in notes), "no run of it"


def test_the_footnote_says_each_thing_once(make: Grid) -> None:
    notes = paper_table([make(TWO_SEEDS)]).attrs["notes"]
    sentences = [sentence for note in notes for sentence in note.split(". ") if "Training took" not in sentence]
    assert len(sentences) == len(set(sentences))


def change(run: RunFolder, *, draws: float | None = None, reason: str | None = None, **samples: str) -> None:
    """Add to a run's record the figure of binary draws, or why there is none, and facts of its samples."""
    record = run.evaluation()
    assert record is not None
    if draws is not None:
        record["metrics"][DRAWS] = {"value": draws, "standard_error": 1.0}
    if reason is not None:
        record["metrics"]["parzen-draws[test,n=10000]"] = {"value": None, "standard_error": None, "reason": reason}
    run.write("evaluation.json", {**record, "samples": samples})


def test_binary_draws_stand_beside_the_means(make: Grid) -> None:
    grid = make(TWO_SEEDS)
    for run, draws in zip(grid.runs(), (None, 10.0, 14.0), strict=True):
        change(run, draws=draws, reason="its samples are no means." if draws is None else None)
    made = paper_table([grid])
    assert made.loc[("mnist", "dbn", ""), (DRAWS, "mean")] == 12.0
    shown = render(made, "text")
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert lines[0] == "method setting published (nats) ours (nats) sampling draws (nats) sampling seeds fid"
    assert lines[2].startswith("DBN 138 ± 2 252.0 ± 2.0 ± 2.3 12.0 ± 2.0 ± 1.0 2")
    assert next(line for line in lines if line.startswith("VAE")).startswith("VAE - 220.0 ± 2.2 - - 1")
    together = " ".join(lines)
    assert f"draws on mnist: {DRAWS}." in together and "each pixel drawn with the probability" in together
    assert "unevaluated: its samples are no means." in together


def test_without_draws_nothing_is_said_of_them(make: Grid) -> None:
    assert "draws" not in render(paper_table([make(TWO_SEEDS)]), "text")


def test_the_footnote_says_what_records_say_of_samples(make: Grid) -> None:
    grid = make(TWO_SEEDS)
    for run in grid.runs()[1:]:
        change(run, shows="Means; chains start elsewhere.")
    [line] = [note for note in paper_table([grid]).attrs["notes"] if note.startswith("DBN: ")]
    assert line.startswith(f"DBN: Means; chains start elsewhere. {paper.methods()['dbn']['differs']}")


def test_a_method_says_where_chains_start_if_it_has_some() -> None:
    for method, kind in BASELINES.items():
        has_chains = {"chains", "burn_in"} <= kind.of.settings_class.model_fields.keys()
        assert ("chains start from" in paper.methods()[method]["shows"]) == has_chains, method


def test_a_method_whose_samples_are_means_says_so() -> None:
    for method, kind in BASELINES.items():
        shows = paper.methods()[method]["shows"].lower()
        assert ("means of the pixels" in shows or shows.startswith("reconstructions")) == kind.of.bernoulli_means, (
            method
        )


def folds(make: Grid) -> GridFolder:
    """A grid of one run on each of three folds of TFD."""
    runs: list[Run] = [("dbn", {"dataset": f"tfd:{fold}"}, 0, 1900.0 + 10 * fold) for fold in range(3)]
    grid = make(runs, dataset="tfd", name="faces")
    entries = {}
    for fold, run in enumerate(grid.runs()):
        content = f"{fold}" * 64
        run.write("experiment.json", {**run.experiment(), "data_hash": content})
        dataset = {"name": f"tfd:{fold}", "hash": content}
        entries[f"training-images tfd:{fold}"] = {"metrics": metrics(2000.0 + 30 * fold, 0.5), "dataset": dataset}
    write_json(grid.path / "controls.json", entries)
    return grid


def test_folds_of_one_data_set_are_one_row_with_their_error(make: Grid) -> None:
    made = paper_table([folds(make)])
    assert list(made.index.unique("dataset")) == ["tfd"]
    row = made.loc[("tfd", "dbn", "")]
    assert (row["published", "value"], row[PARZEN, "mean"], row[PARZEN, "runs"]) == (1909, 1910.0, 3)
    assert row[PARZEN, "standard_error"] == pytest.approx(10 / math.sqrt(3))
    beside = made.loc[("tfd", "training-images", paper.COMPANION)]
    assert (beside[PARZEN, "mean"], beside[PARZEN, "sampling_standard_error"]) == (2030.0, pytest.approx(4.03))
    assert beside[PARZEN, "standard_error"] == pytest.approx(30 / math.sqrt(3))
    assert beside[PARZEN, "sigma_at_edge"] == 3 and pd.isna(beside["all", "runs"])
    assert "tfd: runs on 3 folds are one row; its errors are across folds, as published." in made.attrs["notes"]


def test_companions_that_the_grid_trains_are_named(make: Grid) -> None:
    grid = make([("dbn", {"method": "dbn"}, 0, 250.0), ("training-images", {"method": "training-images"}, 0, 243.0)])
    dataset = {"name": "mnist", "hash": HASHES["mnist"]}
    entry = {"metrics": metrics(319.0, 0.5), "dataset": dataset, "samples": {"source": "k-means, 7 centroids"}}
    trained = {"metrics": {}, "dataset": dataset, "trained": True}
    write_json(grid.path / "controls.json", {"training-images": trained, "k-means": entry})
    made = paper_table([grid])
    assert [(method, setting) for _, method, setting in made.index[-2:]] == [
        ("training-images", ""),
        ("k-means", paper.COMPANION),
    ]
    notes = made.attrs["notes"]
    assert any(note.startswith("companion: other images in the place of samples (k-means, 7 centro") for note in notes)
    assert any(note.endswith("trains it on as many images: training-images.") for note in notes)


def test_many_values_of_a_setting_are_counted(make: Grid) -> None:
    grid = make([("gan", {"k": k}, 0, 200.0) for k in range(5)])
    for number, run in enumerate(grid.runs()):
        run.write("experiment.json", {**run.experiment(), "k": number, "loss": ("minimax", "hinge")[number % 2]})
    shown = " ".join(render(paper_table([grid]), "text").split())
    assert "loss minimax or hinge, k of 5 values" in shown


def test_runs_that_do_not_count_are_counted(make: Grid) -> None:
    runs: list[Run] = [("dbn", {}, 0, 250.0), ("dbn", {}, 1, None)]
    made = paper_table([make(runs)])
    assert made.loc[("mnist", "dbn", ""), (PARZEN, "runs")] == 1
    assert made.loc[("mnist", "dbn", ""), ("all", "failures")] == 1
    assert "failures" in render(made, "text") and "1 complete, 1 diverged" in render(made, "text")
    assert "failures" not in render(paper_table([make(TWO_SEEDS, name="sound")]), "text")


def test_sigma_at_the_edge_is_marked(make: Grid) -> None:
    shown = render(paper_table([make([("dbn", {}, 0, 261.0)])]), "text")
    assert "261.0 *" in shown and "edge of its range" in shown


def test_the_refined_bandwidth_is_left_to_the_other_style(make: Grid) -> None:
    made = paper_table([make(TWO_SEEDS)])
    assert REFINED not in made
    assert "refined" not in render(made, "text")


def test_csv_and_json_hold_full_precision_and_the_published_source(make: Grid) -> None:
    made = paper_table([make([*TWO_SEEDS, ("dbn", {"method": "dbn"}, 2, 250.1)])])
    from_csv = list(csv.DictReader(io.StringIO(render(made, "csv"))))
    from_json = json.loads(render(made, "json"))
    assert len(from_csv) == len(from_json) == 2 * 6
    row = next(row for row in from_json if (row["method"], row["metric"]) == ("dbn", PARZEN))
    assert row["mean"] == made.loc[("mnist", "dbn", ""), (PARZEN, "mean")]
    assert (row["published"], row["published_error"], row["runs"]) == (138, "over test images", 3)
    assert float(next(row for row in from_csv if row["method"] == "dbn")["mean"]) == row["mean"]
    other = next(row for row in from_json if (row["method"], row["metric"]) == ("dbn", FID))
    assert other["published"] is None and other["mean"] == 5.0


def test_csv_has_no_rows_of_metrics_that_a_data_set_lacks(make: Grid) -> None:
    faces = make([("dbn", {}, 0, 1900.0)], dataset="tfd", name="faces")
    for path in [*faces.path.glob("runs/*/evaluation.json"), faces.path / "controls.json"]:
        path.write_text(path.read_text().replace("classifier-mnist", "classifier-tfd"))
    rows = list(csv.DictReader(io.StringIO(render(paper_table([make(TWO_SEEDS), faces]), "csv"))))
    assert {(row["dataset"], row["metric"]) for row in rows if "fid" in row["metric"]} == {
        ("mnist", FID),
        ("tfd", "fid[classifier-tfd,test,n=10000]"),
    }


@pytest.mark.parametrize("format", FORMATS)
def test_the_command_prints_every_format(make: Grid, format: str) -> None:
    grid = make(TWO_SEEDS)
    answer = CliRunner().invoke(main, ["table", str(grid.path), "--style", "paper", "--format", format])
    assert answer.exit_code == 0
    assert answer.output.strip() == render(paper_table(find_grids(grid.path)), format).strip()
    assert "138" in answer.output


def test_an_unknown_format_is_refused(make: Grid) -> None:
    with pytest.raises(UnknownName, match="latex"):
        render(paper_table([make(TWO_SEEDS)]), "latx")


@pytest.mark.parametrize("option", [["--metric", "fid"], ["--draws"]])
def test_options_of_the_other_style_are_refused(make: Grid, option: list[str]) -> None:
    answer = CliRunner().invoke(main, ["table", str(make(TWO_SEEDS).path), "--style", "paper", *option])
    assert isinstance(answer.exception, InputError) and "--style axes" in str(answer.exception)


def test_a_grid_without_the_published_figure_is_refused_with_the_way_out(make: Grid) -> None:
    grid = make(TWO_SEEDS)
    for path in grid.path.glob("runs/*/evaluation.json"):
        path.write_text(path.read_text().replace("n=10000,sigma", "n=500,sigma"))
    with pytest.raises(InputError, match=r"n=500,sigma=grid.*--samples-count 10000"):
        paper_table([grid])
    for path in grid.path.glob("runs/*/evaluation.json"):
        path.unlink()
    with pytest.raises(InputError, match="there is no metric"):
        paper_table([grid])


def test_a_run_that_does_not_say_its_method_is_refused(make: Grid) -> None:
    grid = make(TWO_SEEDS)
    grid.runs()[1].write("experiment.json", {"dataset": "mnist", "data_hash": "a"})
    with pytest.raises(InputError, match="lacks method"):
        paper_table([grid])
