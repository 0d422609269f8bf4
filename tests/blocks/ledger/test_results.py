"""Ids and names of results: they are written into files for ever, so they must never change."""

from __future__ import annotations

import hashlib
import json

from hypothesis import given
from hypothesis import strategies as st

from blocks.ledger.results import MESSAGE_CAP, attempt_id, cap_message, display_name
from blocks.ledger.results import test_id as id_of_test


def test_an_attempts_id_is_a_hash_of_lease_unit_and_ordinal():
    expected = hashlib.sha256(json.dumps(["l-1", "u-1", 2], separators=(",", ":")).encode()).hexdigest()[:16]
    assert attempt_id("l-1", "u-1", 2) == "a-" + expected
    assert attempt_id("l-1", "u-1", 1) != attempt_id("l-1", "u-1", 2)


def test_a_tests_id_is_a_hash_of_suite_file_class_and_name():
    canonical = '["libtorch","test_api","Ünit","x"]'.encode()
    assert id_of_test("libtorch", "test_api", "Ünit", "x") == hashlib.sha256(canonical).hexdigest()[:32]


def test_moving_a_part_from_one_field_to_the_next_makes_another_test():
    assert id_of_test("s", "a", "b", "c") != id_of_test("s", "a", "bc", "")


def test_people_see_file_class_and_name():
    assert display_name("test_api", "Suite", "Works") == "test_api::Suite.Works"
    assert display_name("test_x.py", "", "test_a[1]") == "test_x.py::test_a[1]"


def test_a_long_message_keeps_its_start_and_more_of_its_end_and_says_what_went():
    message = "check failed" + "." * 50_000 + "the error"
    kept = cap_message(message)
    assert len(kept) <= MESSAGE_CAP
    assert kept.startswith("check failed")
    assert kept.endswith("the error")
    assert "characters left out" in kept


@given(st.text(max_size=200), st.integers(0, 200))
def test_a_capped_message_is_never_longer_than_the_cap(text: str, times: int):
    message = text * times
    kept = cap_message(message)
    assert len(kept) <= MESSAGE_CAP
    assert len(message) > MESSAGE_CAP or kept == message
