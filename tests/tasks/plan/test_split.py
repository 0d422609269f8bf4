"""Cutting tests into pieces: nothing is lost, nothing is doubled, the order stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.plan.split import split_by_time, split_evenly

seconds = st.floats(0, 500, allow_nan=False)
weights = st.lists(seconds, max_size=60)


@given(weights, st.floats(0.1, 300), st.floats(0, 60))
def test_every_test_is_in_exactly_one_piece_and_the_order_stays(
    durations: list[float], target: float, start: float
) -> None:
    tests = [f"t{i}" for i in range(len(durations))]
    known = dict(zip(tests, durations, strict=True))
    pieces = split_by_time(tests, known.__getitem__, target_seconds=target, start_seconds=start)
    assert [test for piece in pieces for test in piece] == tests
    assert all(pieces)


@given(weights, st.floats(1, 300), st.floats(0, 60))
def test_no_piece_is_longer_than_the_target_plus_its_longest_test(
    durations: list[float], target: float, start: float
) -> None:
    tests = [f"t{i}" for i in range(len(durations))]
    known = dict(zip(tests, durations, strict=True))
    budget = max(target - start, target / 10)
    for piece in split_by_time(tests, known.__getitem__, target_seconds=target, start_seconds=start):
        times = [known[test] for test in piece]
        assert sum(times) <= max(budget, target - start) + max(times) + 1e-6


@given(st.lists(seconds, min_size=1, max_size=60), st.integers(1, 20))
def test_fixed_shards_are_at_most_as_many_as_asked_for(durations: list[float], pieces: int) -> None:
    tests = [f"t{i}" for i in range(len(durations))]
    known = dict(zip(tests, durations, strict=True))
    cut = split_evenly(tests, known.__getitem__, pieces=pieces)
    assert len(cut) <= pieces
    assert [test for piece in cut for test in piece] == tests


def test_equal_tests_make_equal_pieces() -> None:
    tests = [f"t{i}" for i in range(100)]
    pieces = split_by_time(tests, lambda _: 1.0, target_seconds=30, start_seconds=5)
    assert [len(piece) for piece in pieces] == [25, 25, 25, 25]


def test_what_fits_the_target_stays_whole_and_a_long_test_is_never_cut() -> None:
    assert split_by_time(["a", "b"], lambda _: 5.0, target_seconds=10, start_seconds=0) == [("a", "b")]
    assert split_by_time(["a"], lambda _: 1000.0, target_seconds=10, start_seconds=0) == [("a",)]
    assert split_by_time([], lambda _: 1.0, target_seconds=10, start_seconds=20) == []


def test_two_long_tests_among_short_ones_are_kept_apart() -> None:
    known = {"a": 0.1, "b": 10.0, "c": 0.1, "d": 10.0, "e": 0.1}
    pieces = split_by_time(list(known), known.__getitem__, target_seconds=11, start_seconds=0)
    assert [("b" in piece, "d" in piece) for piece in pieces] == [(True, False), (False, True)]
