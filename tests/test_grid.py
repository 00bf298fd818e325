from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError
from harness.grid import Grid, Point, load_grid, shipped_grids
from harness.plan import Plan, plan

Load = Callable[..., Grid]
BASE = """
name = "g"
[experiment]
dataset = "digits"
model = "mlp"
iterations = 3
optimizer = {name = "SGD", lr = 0.1}
"""
SEARCH = """
[search]
draws = {draws}
seed = {seed}
[search.space]
"optimizer.lr" = {{distribution = "log-uniform", low = 1e-4, high = 1e-1}}
ema = {{distribution = "uniform", low = 0.5, high = 0.75}}
loss = {{distribution = "choice", values = ["minimax", "non_saturating"]}}
"""


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Writes a grid file and loads it."""

    def loaded(rest: str = "", *overrides: str, base: str = BASE) -> Grid:
        path = tmp_path / "g.toml"
        path.write_text(base + rest)
        return load_grid(str(path), overrides=overrides)

    return loaded


def lr(point: Point) -> float | None:
    return point.experiment.optimizer.lr


def test_a_grid_without_axes_is_one_experiment(load: Load) -> None:
    (point,) = load().points
    assert point.axes == {} and point.experiment.seed == 0 and point.experiment.iterations == 3


def test_axes_are_multiplied_in_order_the_last_fastest_and_seeds_innermost(load: Load) -> None:
    grid = load('[axes]\nloss = ["minimax", "non_saturating"]\nk = [5, 1]\n', "seeds=[4, 2]")
    assert [(p.axes["loss"], p.axes["k"], p.experiment.seed) for p in grid.points] == [
        (loss, k, seed) for loss in ("minimax", "non_saturating") for k in (5, 1) for seed in (4, 2)
    ]
    assert all((p.experiment.loss, p.experiment.k) == (p.axes["loss"], p.axes["k"]) for p in grid.points)
    assert grid.axes == ["loss", "k"] and grid.name == "g"


def test_dotted_keys_reach_inside_and_leave_the_rest(load: Load) -> None:
    points = load('[axes]\n"optimizer.lr" = [0.1, 0.2]\n"generator.optimizer.momentum" = [0.7]\n').points
    assert [(lr(point), point.experiment.optimizer.name) for point in points] == [(0.1, "SGD"), (0.2, "SGD")]
    own = points[0].experiment.generator.optimizer
    assert own is not None and own.arguments == {"momentum": 0.7}


def test_a_table_as_axis_value_adds_to_the_shared_table(load: Load) -> None:
    points = load("[axes]\noptimizer = [{momentum = 0.5}, {lr = 0.3}]\n").points
    assert [(lr(p), p.experiment.optimizer.arguments) for p in points] == [(0.1, {"momentum": 0.5}), (0.3, {})]


def test_a_named_bundle_sets_all_it_holds_and_shows_its_name(load: Load) -> None:
    points = load(
        '[axes]\nsize = [{name = "small", batch_size = 8, generator = {hidden = [4]}}, '
        '{name = "large", "optimizer.lr" = 0.5}]\nk = [1, 2]\n'
    ).points
    assert [(p.axes["size"], p.axes["k"]) for p in points] == [("small", 1), ("small", 2), ("large", 1), ("large", 2)]
    assert [p.experiment.batch_size for p in points] == [8, 8, 64, 64]
    assert [lr(p) for p in points] == [0.1, 0.1, 0.5, 0.5]
    assert points[0].experiment.generator.model == {"hidden": [4]}


def test_exclude_drops_the_points_that_match_all_its_keys(load: Load) -> None:
    axes = '[axes]\nloss = ["minimax", "non_saturating"]\nk = [1, 2, 5]\n'
    points = load(axes + '[[exclude]]\nloss = "minimax"\nk = 5\n[[exclude]]\nk = 2\n').points
    found = [(p.axes["loss"], p.axes["k"]) for p in points]
    assert found == [("minimax", 1), ("non_saturating", 1), ("non_saturating", 5)]


def test_exclude_names_a_bundle_by_its_name(load: Load) -> None:
    bundles = '[axes]\nsize = [{name = "a", k = 1}, {name = "b", k = 2}]\n'
    assert [p.axes for p in load(bundles + '[[exclude]]\nsize = "a"\n').points] == [{"size": "b"}]


def test_search_draws_points_within_their_bounds(load: Load) -> None:
    points = load(SEARCH.format(draws=400, seed=0)).points
    rates = [math.log10(lr(point) or 0) for point in points]
    assert -4 <= min(rates) < -3.9 and -1.1 < max(rates) < -1
    assert sum(rate < -2.5 for rate in rates) == pytest.approx(200, abs=40)
    averages = [point.experiment.ema or 0 for point in points]
    assert 0.5 <= min(averages) < 0.51 and 0.74 < max(averages) < 0.75
    assert sum(point.experiment.loss == "minimax" for point in points) == pytest.approx(200, abs=40)


def test_search_is_a_function_of_its_seed_and_more_draws_keep_the_first_ones(load: Load) -> None:
    few, many, other = (
        [point.axes for point in load(SEARCH.format(draws=draws, seed=seed)).points]
        for draws, seed in ((5, 0), (9, 0), (5, 1))
    )
    assert many[:5] == few and len(many) == 9
    assert all(one != another for one, another in zip(few, other, strict=True))


def test_search_multiplies_with_axes_and_seeds(load: Load) -> None:
    grid = load("[axes]\nk = [1, 2]\n" + SEARCH.format(draws=3, seed=0), "seeds=[0, 1]")
    assert len(grid.points) == 2 * 3 * 2
    assert grid.axes == ["k", "optimizer.lr", "ema", "loss"]
    assert grid.points[0].axes["optimizer.lr"] == grid.points[6].axes["optimizer.lr"] == lr(grid.points[0])


def test_a_searched_setting_is_drawn_at_the_axis_values_that_it_is_for(load: Load) -> None:
    grid = load(
        '[axes]\nloss = ["minimax", "wgan"]\n[search]\ndraws = 3\n[search.space]\n'
        '"optimizer.lr" = {distribution = "uniform", low = 0.1, high = 0.2}\n'
        'weight_clip = {distribution = "uniform", low = 0.5, high = 1, where.loss = ["wgan"]}\n'
    )
    without, with_clip = grid.points[:3], grid.points[3:]
    assert [point.experiment.weight_clip for point in without] == [None] * 3
    assert all("weight_clip" not in point.axes for point in without)
    assert all(point.axes["weight_clip"] == point.experiment.weight_clip for point in with_clip)
    assert [lr(point) for point in without] == [lr(point) for point in with_clip]
    assert grid.axes == ["loss", "optimizer.lr", "weight_clip"]


def test_a_drawn_bundle_sets_all_it_holds_and_shows_its_name(load: Load) -> None:
    points = load(
        '[search]\ndraws = 20\n[search.space]\nsteps = {distribution = "choice", values = '
        '[{name = "one", k = 1, iterations = 10}, {name = "five", k = 5, iterations = 2}]}\n'
    ).points
    found = [(point.axes["steps"], point.experiment.k, point.experiment.iterations) for point in points]
    assert sorted(found) == [("five", 5, 2), ("one", 1, 10)]


def test_a_number_in_a_dotted_key_is_a_place_in_a_list(load: Load) -> None:
    adam = BASE.replace('"SGD", lr = 0.1', '"Adam", lr = 0.1, betas = [0.5, 0.9]')
    points = load('[axes]\n"optimizer.betas.0" = [0.1, 0.2]\n', base=adam).points
    assert [point.experiment.optimizer.arguments["betas"] for point in points] == [[0.1, 0.9], [0.2, 0.9]]


def test_settings_that_reach_into_a_bundle_leave_it_as_it_was(load: Load) -> None:
    axes = '[axes]\na = [{name = "r1", penalty = {name = "r1"}}]\nk = [1, 2]\n'
    first, _, _, last = load(
        axes + "[search]\ndraws = 2\n[search.space]\n"
        '"penalty.weight" = {distribution = "uniform", low = 1, high = 2, where.k = [1]}\n'
        '"optimizer.lr" = {distribution = "uniform", low = 0.1, high = 0.2}\n'
    ).points
    assert first.experiment.penalty and first.experiment.penalty.weight == first.axes["penalty.weight"]
    assert last.experiment.penalty and last.experiment.penalty.weight is None


def test_draws_of_a_search_whose_best_train_again_say_their_stage(load: Load) -> None:
    best = '[search.then_best]\nseeds = 2\nmetric = "fid"\n'
    grid, plain = load(SEARCH.format(draws=3, seed=0) + best), load(SEARCH.format(draws=3, seed=0))
    assert [point.axes for point in grid.points] == [{"stage": "search"} | point.axes for point in plain.points]
    assert [p.experiment.run_id for p in grid.points] == [p.experiment.run_id for p in plain.points]
    assert grid.axes == ["stage", *plain.axes]
    assert grid.evaluation.validation == ("fid",) and plain.evaluation.validation == ()


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("iterations=7", lambda grid: grid.points[0].experiment.iterations == 7),
        ("experiment.iterations=7", lambda grid: grid.points[0].experiment.iterations == 7),
        ("loss=minimax", lambda grid: grid.points[0].experiment.loss == "minimax"),
        ('loss="minimax"', lambda grid: grid.points[0].experiment.loss == "minimax"),
        ("optimizer.lr=0.5", lambda grid: lr(grid.points[0]) == 0.5),
        ("generator.hidden=[3, 3]", lambda grid: grid.points[0].experiment.generator.model == {"hidden": [3, 3]}),
        ("generator={hidden = [3]}", lambda grid: grid.points[0].experiment.generator.model == {"hidden": [3]}),
        ("name=other", lambda grid: grid.name == "other"),
        ("seeds=[3, 4]", lambda grid: [point.experiment.seed for point in grid.points] == [3, 4]),
        ("run.stack_size=3", lambda grid: grid.file.run.stack_size == 3),
        ("evaluation.samples=30", lambda grid: grid.file.evaluation.samples == 30),
        ("axes.k=[1, 2]", lambda grid: [point.axes for point in grid.points] == [{"k": 1}, {"k": 2}]),
        ("axes.optimizer.lr=[1, 2]", lambda grid: [lr(point) for point in grid.points] == [1, 2]),
        ('axes."optimizer.lr"=[1, 2]', lambda grid: [lr(point) for point in grid.points] == [1, 2]),
    ],
)
def test_an_override_sets_one_key(override: str, found: Callable[[Grid], bool], load: Load) -> None:
    assert found(load("", override))


def test_the_last_override_wins_and_an_axis_can_be_replaced(load: Load) -> None:
    assert load("", "iterations=7", "iterations=8").points[0].experiment.iterations == 8
    assert [p.axes["k"] for p in load("[axes]\nk = [1, 2]\n", "axes.k=[5]").points] == [5]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("iterations", "--set 'iterations': give key=value"),
        ("=3", "--set '=3': give key=value"),
        ("k=3", "--set 'k=3': k is an axis of this grid; use --set 'axes.k=[...]'"),
        ("ema=0.5", "--set 'ema=0.5': this grid searches ema; use --set 'search.space.ema={...}'"),
        ("search.drawz=3", "Did you mean 'search.draws'"),
        ("iterations.more=3", "--set 'iterations.more=3': experiment.iterations is a value, not a table"),
        ("iteration=3", "unknown key 'iteration'"),
        ("run.stack_sise=3", "Did you mean 'run.stack_size'"),
    ],
)
def test_a_bad_override_is_refused(override: str, message: str, load: Load) -> None:
    with pytest.raises(InputError) as error:
        load("[axes]\nk = [1, 2]\n" + SEARCH.format(draws=1, seed=0), override)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("search.draws=4", lambda search: search.draws == 4),
        ("search.then_best.seeds=4", lambda search: search.then_best.seeds == 4),
        (
            "search.space.optimizer.lr={distribution='uniform', low=0.1, high=0.2}",
            lambda search: search.space["optimizer.lr"].high == 0.2,
        ),
    ],
)
def test_an_override_reaches_into_a_search(override: str, found: Callable[[Any], bool], load: Load) -> None:
    best = '[search.then_best]\nseeds = 2\nmetric = "fid"\n'
    assert found(load(SEARCH.format(draws=1, seed=0) + best, override).file.search)


def test_an_override_of_a_grid_whose_axes_are_no_table_is_refused(load: Load) -> None:
    for override in ("k=1", "axes.k=[1]"):
        with pytest.raises(InputError, match="axes"):
            load("", override, base="axes = 3\n" + BASE)


def planned(load: Load, rest: str, base: str = BASE) -> Plan:
    return plan(load(rest, base=base), [])


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".a", "/a", "a/b", "a/../b", "a\\b", "a\n", "a\tb", "\x1b[2J", "a b", "$(a)", "a" * 101],
    ids=repr,
)
def test_a_name_that_is_no_plain_name_of_a_folder_is_refused(name: str, load: Load) -> None:
    with pytest.raises(InputError) as error:
        load("", base=BASE.replace('"g"', json.dumps(name)))
    assert f"name = {json.dumps(name)}" in str(error.value)


BAD: dict[str, tuple[str, str, str]] = {
    # what is wrong: (rest of the file, what replaces the base, what the message says)
    "not TOML": ("", "name = ", "is not TOML"),
    "no experiment": ("", 'name = "g"', "the key 'experiment' is missing"),
    "no name": ("", BASE.replace('name = "g"\n', ""), "the key 'name' is missing"),
    "a name that is no folder": ("", BASE.replace('"g"', '"../g"'), 'name = "../g"'),
    "unknown table": ("[axis]\nk = [1]\n", BASE, "unknown key 'axis' in {path}. Did you mean 'axes'"),
    "unknown key": ("iteration = 3\n", BASE, "unknown key 'iteration' in {path} [experiment]. Did you mean 'iter"),
    "unknown key in a table": ("latent = {sise = 3}\n", BASE, "Did you mean 'latent.size'"),
    "unknown key of an axis": ('[axes]\n"latent.sise" = [3]\n', BASE, "Did you mean 'latent.size'"),
    "unknown model setting": ("generator = {hiden = [3]}\n", BASE, "Did you mean 'hidden'"),
    "unknown optimizer setting": ('[axes]\n"optimizer.moment" = [0.5]\n', BASE, "Did you mean 'momentum'"),
    "unknown run setting": ("[run]\nstack_sise = 3\n", BASE, "Did you mean 'run.stack_size'"),
    "unknown search key": (
        '[search]\ndraws = 1\n[search.space]\nk = {distribution = "choice", valuez = [3]}\n',
        BASE,
        "Did you mean 'search.space.k.values'",
    ),
    "wrong type": ('batch_size = "many"\n', BASE, 'batch_size = "many": should be a valid integer'),
    "a date": ("loss = 2014-06-10\n", BASE, "date"),
    "axis that is no list": ("[axes]\nk = 3\n", BASE, "axes.k = 3: should be"),
    "empty axis": ("[axes]\nk = []\n", BASE, "axes.k = []"),
    "no seeds": ("", "seeds = []\n" + BASE, "seeds = []"),
    "negative seed": ("", "seeds = [-1]\n" + BASE, "seeds.0 = -1"),
    "k = 0": ("k = 0\n", BASE, "k = 0: should be greater than or equal to 1"),
    "k = 0 in an axis": ("[axes]\nk = [1, 0]\n", BASE, "k = 0: should be greater than or equal to 1"),
    "iterations = 0": ("", BASE.replace("= 3", "= 0"), "iterations = 0"),
    "unknown loss": ('loss = "minmax"\n', BASE, "unknown loss 'minmax'. Did you mean 'minimax'"),
    "unknown model": ("", BASE.replace("mlp", "mpl"), "unknown model 'mpl'. Did you mean 'mlp'"),
    "unknown data set": ("", BASE.replace("digits", "digit"), "unknown dataset 'digit'. Did you mean 'digits'"),
    "unknown optimizer": ("", BASE.replace("SGD", "SDG"), "unknown optimizer 'SDG'"),
    "unknown method": ('method = "gans"\n', BASE, "unknown method 'gans'. Did you mean 'gan'"),
    "seed as a setting": ("seed = 3\n", BASE, "use `seeds = [...]` at the top"),
    "seed as an axis": ("[axes]\nseed = [3]\n", BASE, "use `seeds = [...]` at the top"),
    "seed in a bundle": ('[axes]\nb = [{name = "a", seed = 3}]\n', BASE, "use `seeds = [...]` at the top"),
    "seed as a searched setting": (
        '[search]\ndraws = 1\n[search.space]\nseed = {distribution = "choice", values = [3]}\n',
        BASE,
        "use `seeds = [...]` at the top",
    ),
    "a hash as a setting": ('data_hash = "aa"\n', BASE, "the harness fills it in"),
    "exclude of no axis": ("[[exclude]]\nk = 3\n", BASE, "unknown axis 'k' in {path} [[exclude]]"),
    "exclude of all": ("[axes]\nk = [1]\n[[exclude]]\nk = 1\n", BASE, "every experiment is excluded"),
    "axis inside a value": ('[axes]\n"k.more" = [1]\n', BASE + "k = 1\n", "k is a value, not a table"),
    "the same experiment twice": ("[axes]\nk = [1, 1]\n", BASE, "k has 1 twice; drop or rename one"),
    "search without bounds": (
        '[search]\ndraws = 1\n[search.space]\nema = {distribution = "uniform", low = 1}\n',
        BASE,
        "search.space.ema",
    ),
    "log-uniform from zero": (
        '[search]\ndraws = 1\n[search.space]\nema = {distribution = "log-uniform", low = 0, high = 1}\n',
        BASE,
        "`low` > 0 to be log-uniform",
    ),
    "choice of nothing": (
        '[search]\ndraws = 1\n[search.space]\nk = {distribution = "choice"}\n',
        BASE,
        "`values` to choose from",
    ),
    "choice between bounds": (
        '[search]\ndraws = 1\n[search.space]\nk = {distribution = "choice", values = [1], low = 1}\n',
        BASE,
        "`values` alone",
    ),
    "uniform among values": (
        '[search]\ndraws = 1\n[search.space]\nema = {distribution = "uniform", values = [0.5]}\n',
        BASE,
        "`low` and `high`",
    ),
    "no draws": (
        '[search]\ndraws = 0\n[search.space]\nk = {distribution = "choice", values = [1]}\n',
        BASE,
        "search.draws = 0",
    ),
    "a searched axis": (
        '[axes]\nk = [1]\n[search]\ndraws = 1\n[search.space]\nk = {distribution = "choice", values = [1]}\n',
        BASE,
        "[search.space]: k is an axis; leave it to one",
    ),
    "a searched setting of a bundle": (
        '[axes]\na = [{name = "b", k = 1}]\n[search]\ndraws = 1\n'
        '[search.space]\nk = {distribution = "choice", values = [1]}\n',
        BASE,
        "two of [axes] and [search.space] set k; leave it to one",
    ),
    "a searched setting inside a bundle's table": (
        '[axes]\na = [{name = "b", penalty = {name = "r1", weight = 5}}]\n[search]\ndraws = 1\n'
        '[search.space]\n"penalty.weight" = {distribution = "choice", values = [1]}\n',
        BASE,
        "two of [axes] and [search.space] set penalty and penalty.weight, which overlap; leave it to one",
    ),
    "searched bundles of one name": (
        '[search]\ndraws = 1\n[search.space.a]\ndistribution = "choice"\n'
        'values = [{name = "b", k = 1}, {name = "b", k = 5}]\n',
        BASE,
        '[search.space]: a has "b" twice; drop or rename one',
    ),
    "a searched bundle without a name": (
        '[search]\ndraws = 1\n[search.space.a]\ndistribution = "choice"\nvalues = [{k = 1}]\n',
        BASE,
        '[search.space]: each table of a is a bundle and needs name = "..."',
    ),
    "a search at no axis": (
        "[axes]\nk = [1]\n[search]\ndraws = 1\n"
        '[search.space]\nema = {distribution = "choice", values = [0.5], where.kk = [1]}\n',
        BASE,
        "unknown axis 'kk' in {path} [search.space] ema.where. Did you mean 'k'",
    ),
    "a search at no axis value": (
        "[axes]\nk = [1]\n[search]\ndraws = 1\n"
        '[search.space]\nema = {distribution = "choice", values = [0.5], where.k = [2]}\n',
        BASE,
        "[search.space] ema.where: k = 2 is no value of that axis: [1]",
    ),
    "exclude of a searched setting": (
        SEARCH.format(draws=1, seed=0) + "[[exclude]]\nema = 0.5\n",
        BASE,
        "unknown axis 'ema' in {path} [[exclude]]",
    ),
    "unknown searched setting": (
        '[search]\ndraws = 1\n[search.space]\niteration = {distribution = "choice", values = [3]}\n',
        BASE,
        "unknown key 'iteration' in {path} [experiment]. Did you mean 'iterations'",
    ),
    "the best without seeds": (
        SEARCH.format(draws=1, seed=0) + '[search.then_best]\nmetric = "fid"\n',
        BASE,
        "the key 'search.then_best.seeds' is missing",
    ),
    "an axis of the harness's": (
        '[axes]\nstage = [{name = "a", k = 1}]\n'
        + SEARCH.format(draws=1, seed=0)
        + '[search.then_best]\nseeds = 1\nmetric = "fid"\n',
        BASE,
        "an axis 'stage' is filled in for search.then_best",
    ),
    "a place that a list has not": (
        '[axes]\n"optimizer.betas.2" = [0.5]\n',
        BASE.replace('"SGD", lr = 0.1', '"Adam", betas = [0.5, 0.9]'),
        "optimizer.betas is a list of 2; '2' is no place in it",
    ),
    "simultaneous with k = 2": ('k = 2\nupdates = "simultaneous"\n', BASE, "k = 2 must be 1"),
    "batch larger than the data": ("batch_size = 5000\n", BASE, "batch_size = 5000 is more than the 1197"),
}


@pytest.mark.parametrize("wrong", BAD)
def test_a_bad_grid_is_refused_with_file_key_and_way_out(wrong: str, load: Load, tmp_path: Path) -> None:
    rest, base, message = BAD[wrong]
    with pytest.raises(InputError) as error:
        planned(load, rest, base)
    path = str(tmp_path / "g.toml")
    assert path in str(error.value) and message.format(path=path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dmeo", "unknown grid 'dmeo'. Did you mean 'demo'"),
        ("nowhere/demo", "no grid file at nowhere/demo; check the path, or name a shipped grid: "),
        ("demo.tom", "unknown grid 'demo.tom'"),
        ("absent.toml", "no grid file at absent.toml"),
    ],
)
def test_an_absent_grid_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        load_grid(name)
    assert message in str(error.value)


def test_a_file_that_is_not_text_is_not_toml(tmp_path: Path) -> None:
    (tmp_path / "g.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not TOML"):
        load_grid(str(tmp_path / "g.toml"))


def test_the_shipped_grids_load_and_the_demo_is_36_runs() -> None:
    sizes = {name: len(load_grid(name).points) for name in shipped_grids()}
    assert sizes["demo"] == 36 and sizes["paper-mnist"] == 5
    assert sizes["lucic-digits"] == 7 * 8 and sizes["lucic-mnist"] == 7 * 100
    ids = [run.id for run in plan(load_grid("demo"), []).runs]
    assert len(set(ids)) == 36
