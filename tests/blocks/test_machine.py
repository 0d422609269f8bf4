"""A machine's states: only the ways in the table, and none that forgets a machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.errors import HostError
from blocks.machine import FIRST, STATES, TRANSITIONS, State, allowed, move


def reachable(start: State) -> set[State]:
    found: set[State] = set()
    ahead = [start]
    while ahead:
        state = ahead.pop()
        found.add(state)
        ahead += [after for after in TRANSITIONS[state] if after not in found]
    return found


def test_the_usual_life_is_allowed() -> None:
    life: list[State] = [
        "planned", "submitting", "accepted", "booting", "ready", "leased", "ready", "leased", "releasing", "released",
    ]  # fmt: skip
    state = FIRST
    for wanted in life:
        state = move("m", state, wanted)
    assert state == "released"


def test_every_state_is_in_the_table_and_can_be_reached_and_left_to_released() -> None:
    assert set(TRANSITIONS) == set(STATES) == reachable(FIRST)
    assert all("released" in reachable(state) for state in STATES)


def test_released_is_the_end_and_the_only_one() -> None:
    assert [state for state in STATES if not TRANSITIONS[state]] == ["released"]


def test_a_machine_that_may_exist_and_is_not_given_up_is_released_through_releasing() -> None:
    into = {state for state in STATES if "released" in TRANSITIONS[state]}
    assert into == {"planned", "failed", "lost", "releasing"}


@given(st.sampled_from(STATES), st.sampled_from(STATES))
def test_any_other_way_is_refused_and_says_which_there_are(current: State, wanted: State) -> None:
    if allowed(current, wanted):
        assert move("m1", current, wanted) == wanted
    else:
        with pytest.raises(HostError, match="m1") as caught:
            move("m1", current, wanted)
        assert all(way in str(caught.value) for way in TRANSITIONS[current])
