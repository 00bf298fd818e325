from __future__ import annotations

from typing import Any

import pytest

from harness.experiment import validate
from harness.search import SearchSettings, ThenBest

RATE = {"distribution": "log-uniform", "low": 1e-5, "high": 1e-2}


def search(space: dict[str, Any], draws: int = 60, **settings: Any) -> SearchSettings:
    return validate(SearchSettings, {"draws": draws, "space": space, **settings}, where="test")


def test_every_value_of_a_choice_can_be_drawn() -> None:
    space = {"k": {"distribution": "choice", "values": [1, 2, 3]}}
    assert {point["k"] for point in search(space).points({})} == {1, 2, 3}


def test_the_first_draws_are_these_on_every_machine() -> None:
    first, second = search({"optimizer.lr": RATE}, draws=2, seed=2018, digits=6).points({})
    assert (first, second) == ({"optimizer.lr": 0.000598094}, {"optimizer.lr": 0.00178392})


def test_a_draw_knows_nothing_of_other_keys_and_of_their_order() -> None:
    space = {"lr": RATE, "gamma": {"distribution": "uniform", "low": 0, "high": 1}}
    turned = list(search(dict(reversed(space.items()))).points({}))
    assert list(search(space).points({})) == turned
    assert [{"lr": point["lr"]} for point in turned] == list(search({"lr": RATE}).points({}))


def test_digits_round_within_the_bounds() -> None:
    space = {"x": {"distribution": "uniform", "low": 0.1234, "high": 0.1236}}
    exact, rounded = (list(search(space, digits=digits).points({})) for digits in (None, 3))
    assert all(len(f"{point['x']!r}") > 10 for point in exact[:3])
    assert {point["x"] for point in rounded} == {0.1234, 0.1236}  # 0.123 and 0.124 lie outside
    assert {point["x"] for point in search(space, digits=4).points({})} == {0.1234, 0.1235, 0.1236}


def test_what_is_drawn_twice_is_one_point_and_more_draws_keep_its_place() -> None:
    space = {
        "k": {"distribution": "choice", "values": [1, 5]},
        "loss": {"distribution": "choice", "values": ["a", "b"]},
    }
    few, many = (list(search(space, draws=draws).points({})) for draws in (3, 100))
    assert len(many) == 4 and many[: len(few)] == few


def test_a_setting_is_drawn_only_where_it_holds() -> None:
    space = {"lr": RATE, "clip": RATE | {"where": {"loss": ["wgan"], "k": [1, 5]}}}
    for axes, keys in (
        ({"loss": "wgan", "k": 5}, {"lr", "clip"}),
        ({"loss": "wgan", "k": 2}, {"lr"}),
        ({"loss": "minimax", "k": 1}, {"lr"}),
    ):
        assert all(point.keys() == keys for point in search(space).points(axes))


@pytest.mark.parametrize(
    ("used", "fresh"), [((0,), [1, 2, 3]), ((7,), [0, 1, 2]), ((1, 0, 3), [2, 4, 5]), ((2, 1), [0, 3, 4])]
)
def test_the_best_have_seeds_that_the_search_has_not(used: tuple[int, ...], fresh: list[int]) -> None:
    assert ThenBest(seeds=3, metric="fid").fresh(used) == fresh
    assert ThenBest(seeds=5, metric="fid").fresh(used)[:3] == fresh
