"""Entries: every event has one, it fits the published form, and nothing else looks like it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.canonical import canonical_json, digest_bytes
from blocks.ledger.entries import LONGEST, content_path, entry_of, pack, pointed_at, unpack


def test_an_event_is_its_own_entry() -> None:
    content = canonical_json({"at": 1.5, "body": {}, "kind": "run.opened", "nonce": "00", "run": "r-1"})
    assert entry_of(content) == content
    assert pointed_at(content) is None


@pytest.mark.parametrize("length", [LONGEST - 1, LONGEST, LONGEST + 1, 8_000_000])
def test_an_entry_fits_its_length_however_long_the_event_is(length: int) -> None:
    content = b'{"at":' + b"1" * (length - 7) + b"}"
    entry = entry_of(content)
    assert unpack(pack([entry, b"x"])) == [entry, b"x"]
    if length > LONGEST:
        assert pointed_at(entry) == digest_bytes(content)
        assert content_path(digest_bytes(content)) == f"content/{digest_bytes(content)[7:]}"
    else:
        assert entry == content


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_a_bundle_gives_back_its_entries(entries: list[bytes]) -> None:
    assert unpack(pack(entries)) == entries


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=5), st.data())
def test_a_bundle_that_was_cut_is_noticed(entries: list[bytes], data: st.DataObject) -> None:
    bundle = pack(entries)
    cut = bundle[: data.draw(st.integers(1, len(bundle) - 1))]
    try:
        read = unpack(cut)
    except ValueError:
        return
    assert read == entries[: len(read)]
    assert len(read) < len(entries)
