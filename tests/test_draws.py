from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from harness.draws import Draws
from harness.philox import Philox, philox

Draw = Callable[..., Tensor]
KINDS: dict[str, Draw] = {
    "uniform": Draws.uniform,
    "normal": Draws.normal,
    "dropout": lambda draws, *place, **batches: draws.dropout(*place, keep=0.7, **batches),
}
word = st.integers(0, 2**32 - 1)
seed = st.integers(0, 2**64 - 1)
some_kind = st.sampled_from(list(KINDS.values()))


def words(text: str) -> list[int]:
    return [int(part, 16) for part in text.split()]


def philox_by_hand(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 in Python's integers, as the paper writes it."""
    (r0, l0, r1, l1), (k0, k1) = counter, key
    for _ in range(10):
        first, second = r0 * 0xD2511F53, r1 * 0xCD9E8D57
        r0, l0, r1, l1 = (second >> 32) ^ l0 ^ k0, second % 2**32, (first >> 32) ^ l1 ^ k1, first % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [r0, l0, r1, l1]


def philox_of(counter: list[int], key: list[int]) -> list[int]:
    return [int(part) for part in philox([torch.tensor(c) for c in counter], [torch.tensor(k) for k in key])]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter: str, key: str, expected: str) -> None:
    assert philox_of(words(counter), words(key)) == words(expected)
    assert philox_by_hand(words(counter), words(key)) == words(expected)


@settings(deadline=None, max_examples=100)
@given(st.lists(word, min_size=4, max_size=4), st.lists(word, min_size=2, max_size=2))
def test_philox_equals_plain_integers(counter: list[int], key: list[int]) -> None:
    assert philox_of(counter, key) == philox_by_hand(counter, key)


@settings(deadline=None, max_examples=25)
@given(some_kind, seed, st.sampled_from([1, 2, 3, 4, 6]), st.integers(1, 9), st.integers(1, 3), st.integers(0, 99))
def test_the_parts_of_all_processes_are_the_whole(
    kind: Draw, seed: int, processes: int, width: int, batches: int, step: int
) -> None:
    whole = kind(Draws([seed, 5]), "z", step, 12, width, batches=batches)
    parts = [
        kind(Draws([seed, 5], rank=rank, processes=processes), "z", step, 12, width, batches=batches)
        for rank in range(processes)
    ]
    # Each process holds its rows of every batch: batches stand side by side.
    joined = torch.cat([part.view(2, batches, -1, width) for part in parts], dim=2)
    assert joined.view(2, -1, width).equal(whole)


@settings(deadline=None, max_examples=25)
@given(some_kind, st.lists(seed, min_size=1, max_size=6), st.integers(1, 9), st.integers(0, 200))
def test_a_members_numbers_do_not_depend_on_its_neighbours(kind: Draw, seeds: list[int], width: int, step: int) -> None:
    together = kind(Draws(seeds), "z", step, 4, width)
    alone = [kind(Draws([seed]), "z", step, 4, width) for seed in seeds]
    assert together.equal(torch.cat(alone))


@settings(deadline=None, max_examples=25)
@given(some_kind, st.lists(st.integers(0, 300), min_size=1, max_size=8), st.integers(1, 3))
def test_drawing_ahead_in_any_order_of_steps_changes_nothing(kind: Draw, steps: list[int], batches: int) -> None:
    ahead, one_by_one = Draws([7, 2**40]), Draws([7, 2**40], ahead=False)
    for step in steps:
        for width in (3, 8):
            place = ("z", step, 5, width)
            assert kind(ahead, *place, batches=batches).equal(kind(one_by_one, *place, batches=batches))


def test_blocks_of_any_size_hold_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Draws([1]).normal("z", 77, 10, 10)
    for values in (1, 250, 5000):
        monkeypatch.setattr("harness.draws._BLOCK_VALUES", values)
        assert Draws([1]).normal("z", 77, 10, 10).equal(expected)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_the_number_of_threads_changes_nothing(kind: Draw) -> None:
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(kind(Draws([3]), "z", 0, 301, 257))
    finally:
        torch.set_num_threads(threads)
    assert all(values.equal(found[0]) for values in found)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_more_samples_begin_with_the_fewer_and_any_part_can_be_drawn_alone(kind: Draw) -> None:
    draws = Draws([3, 4], rank=1, processes=2)
    many = kind(draws.whole(), "z", 0, 50, 7)
    assert kind(draws.whole(), "z", 0, 20, 7).equal(many[:, :20])
    assert kind(draws.whole(offset=20), "z", 0, 30, 7).equal(many[:, 20:])


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_purpose_step_seed_row_and_batch_each_change_the_numbers(kind: Draw) -> None:
    draws = Draws([0, 1, 2**32, 2**63])
    tables = [
        draws_of
        for place in (("z", 0), ("z", 1), ("z", 2**31), ("x", 0))
        for draws_of in kind(draws, *place, 2, 64, batches=2)
    ]
    rows = torch.stack(tables).view(-1, 64)
    assert len(set(map(tuple, rows.tolist()))) == len(rows) == 4 * 4 * 4


@given(
    counter=st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4),
    seed=st.integers(0, 2**64 - 1),
    blocks=st.integers(1, 40),
)
def test_the_cipher_in_c_gives_the_words_of_the_tensors(counter: list[int], seed: int, blocks: int) -> None:
    counter[0] = min(counter[0], 2**32 - blocks)  # what a table's rows and lanes stay below
    key = [torch.tensor(seed & 0xFFFFFFFF), torch.tensor(seed >> 32)]
    first = counter[0] + torch.arange(blocks)
    expected = torch.stack(philox([first, *(torch.tensor(word) for word in counter[1:])], key), -1)
    assert Philox().words(seed, counter, blocks).tolist() == expected.tolist()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_other_devices_draw_the_same_numbers(kind: Draw) -> None:
    here, elsewhere = (Draws([3, 2**40], rank=1, processes=2) for _ in range(2))
    elsewhere._in_c = None  # as where there is no CPU to run it
    assert kind(here, "z", 5, 30, 7, batches=2).equal(kind(elsewhere, "z", 5, 30, 7, batches=2))


def test_the_kinds_share_no_words() -> None:
    draws = Draws([0])
    uniform, normal = draws.uniform("z", 0, 1, 4096)[0, 0], draws.normal("z", 0, 1, 4096)[0, 0]
    assert abs(float(torch.corrcoef(torch.stack([uniform, normal]))[0, 1])) < 0.06


def test_uniform_numbers_fill_the_unit_interval_evenly() -> None:
    values = Draws([2014]).uniform("z", 0, 1000, 100).flatten()
    assert values.min() >= 0 and values.max() < 1
    assert (values * 2**24 == (values * 2**24).round()).all()
    assert stats.kstest(values.numpy().astype(np.float64), "uniform").pvalue > 0.01


def test_normal_numbers_are_standard_normal() -> None:
    values = Draws([2014]).normal("z", 0, 1000, 100).flatten().double()
    assert stats.kstest(values.numpy(), "norm").pvalue > 0.01
    moments = [float((values**power).mean()) for power in (1, 2, 3, 4)]
    # Four standard errors of each moment of a standard normal.
    errors = [4 * (variance / len(values)) ** 0.5 for variance in (1, 2, 15, 96)]
    assert all(abs(m - e) < tol for m, e, tol in zip(moments, (0, 1, 0, 3), errors, strict=True))


@pytest.mark.parametrize("keep", [0.5, 0.8, 0.999, 1.0])
def test_dropout_keeps_at_its_rate_and_scales_by_its_inverse(keep: float) -> None:
    mask = Draws([2014]).dropout("d", 0, 1000, 100, keep=keep)
    kept = mask > 0
    assert mask[kept].eq(torch.tensor(1 / keep)).all()
    assert abs(float(kept.double().mean()) - keep) <= 4 * (keep * (1 - keep) / mask.numel()) ** 0.5 + 2**-17


def test_neighbours_in_a_row_a_column_a_step_and_a_member_are_uncorrelated() -> None:
    draws = Draws([0, 1])
    now, later = draws.uniform("z", 0, 300, 300), draws.uniform("z", 1, 300, 300)
    pairs = [
        (now[0, 1:], now[0, :-1]),
        (now[0, :, 1:], now[0, :, :-1]),
        (now[0], later[0]),
        (now[0], now[1]),
    ]
    for one, other in pairs:
        correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
        assert abs(float(correlation)) < 4 / 300


def test_float64_holds_the_same_numbers_as_float32() -> None:
    for kind in KINDS.values():
        single, double = (kind(Draws([9], dtype=dtype), "z", 3, 5, 6) for dtype in (torch.float32, torch.float64))
        assert double.dtype == torch.float64 and single.equal(double.float())


def test_orders_are_permutations_that_differ_between_epochs_and_members() -> None:
    orders = Draws([0, 1]).orders("order", 5, 3, 100)
    assert orders.shape == (2, 3, 100) and orders.dtype == torch.int64
    assert (orders.sort(-1).values == torch.arange(100)).all()
    assert len(set(map(tuple, orders.view(-1, 100).tolist()))) == 6


def test_an_epochs_order_depends_on_its_number_and_the_members_seed_alone() -> None:
    orders = Draws([0, 1]).orders("order", 0, 8, 50)
    assert Draws([1, 0], rank=1, processes=5).orders("order", 6, 2, 50)[0].equal(orders[1, 6:])


def test_every_image_comes_first_about_equally_often() -> None:
    first = Draws([2014]).orders("order", 0, 4000, 8)[0, :, 0]
    assert stats.chisquare(first.bincount(minlength=8)).pvalue > 0.01
