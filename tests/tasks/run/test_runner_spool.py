"""What is written stays written, and is clean enough for every later reader."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.lease import NAME_CHARACTERS
from tasks.run.runner import output, parts, records, spool


def test_a_full_disk_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, times = os.fsync, iter([True, True, False])

    def full(fd: int) -> None:
        if next(times, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(fd)

    monkeypatch.setattr(spool.os, "fsync", full)
    monkeypatch.setattr(spool, "RETRY_SECONDS", 0.01)
    path = tmp_path / "00000001.json"
    assert spool.write_when_there_is_room(str(path), b"{}", durable=True, give_up=lambda: False)
    assert path.read_bytes() == b"{}"
    assert [one.name for one in tmp_path.iterdir()] == ["00000001.json"]


def test_a_really_full_disk_keeps_what_was_there_and_no_half_file(tmp_path: Path) -> None:
    """On a file system of one megabyte of its own."""
    script = f"""
import sys, os; sys.path.insert(0, {str(Path.cwd())!r})
from tasks.run.runner import spool
spool.write("/small/a.json", b"x" * 600_000)
tries = []
def give_up():
    tries.append(1)
    if len(tries) == 2: os.unlink("/small/filler")
    return len(tries) > 5
open("/small/filler", "wb").write(b"x" * 300_000)
spool.RETRY_SECONDS = 0.01
assert spool.write_when_there_is_room("/small/b.json", b"y" * 300_000, durable=True, give_up=give_up)
print(len(tries), sorted(os.listdir("/small")), os.path.getsize("/small/a.json"), os.path.getsize("/small/b.json"))
"""
    argv = ["bwrap", "--dev-bind", "/", "/", "--size", str(1 << 20), "--tmpfs", "/small", sys.executable, "-c", script]
    try:
        told = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("bubblewrap is not installed")
    if "bwrap:" in told.stderr:
        pytest.skip(told.stderr)
    assert told.stdout.split() == ["2", "['a.json',", "'b.json']", "600000", "300000"], told.stderr


def test_giving_up_on_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(spool.os, "fsync", full)
    assert not spool.write_when_there_is_room(str(tmp_path / "a"), b"", durable=True, give_up=lambda: True)


def put(folder: Path, seq: int, size: int = 10) -> None:
    (folder / "spool").mkdir(parents=True, exist_ok=True)
    spool.write(
        spool.record_path(str(folder), seq), spool.encode({"unit": f"u{seq}", "seq": seq, "attempts": ["x" * size]})
    )


def test_large_records_are_spread_over_parts(tmp_path: Path) -> None:
    for seq in range(1, 6):
        put(tmp_path, seq, parts.PART_BYTES // 2 - 100)
    seen, acked = [], 0
    while (part := parts.collect(str(tmp_path), "l", acked)) is not None:
        acked = part["part"]
        seen.append([record["seq"] for record in part["records"]])
    assert seen == [[1, 2], [3, 4], [5]]


@given(st.lists(st.sampled_from(["put", "collect", "ack", "crash"]), max_size=40))
def test_every_record_is_delivered_once_and_parts_do_not_change(tmp_path_factory: Any, steps: list[str]) -> None:
    folder = tmp_path_factory.mktemp("lease")
    seq, acked = 0, 0
    given_out: dict[int, Any] = {}
    for step in [*steps, "ack", "collect", "ack", "collect"]:
        if step == "put":
            seq += 1
            put(folder, seq)
        elif step == "ack":
            acked = max(given_out, default=0)
        else:
            part = parts.collect(str(folder), "l", acked)
            if part is not None:
                assert part["part"] == acked + 1
                assert given_out.setdefault(part["part"], part) == part
    assert [record["seq"] for number in sorted(given_out) for record in given_out[number]["records"]] == list(
        range(1, seq + 1)
    )


def test_a_crash_between_remembering_and_removing_loses_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, 1)
    assert parts.collect(str(tmp_path), "l", 0) is not None

    def killed(path: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(parts.os, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            parts.collect(str(tmp_path), "l", 1)
    assert parts.collect(str(tmp_path), "l", 1) is None
    put(tmp_path, 2)
    again = parts.collect(str(tmp_path), "l", 1)
    assert again is not None
    assert [record["seq"] for record in again["records"]] == [2]


@given(st.text(alphabet=st.characters(codec=None), max_size=200))
def test_any_text_becomes_one_that_every_reader_can_hold(text: str) -> None:
    body = records.result("f", "c", text, "failed", float("nan"), text)
    again = json.loads(spool.encode(body))
    assert again["seconds"] is None
    assert "\0" not in again["name"]
    again["name"].encode()
    assert again["name"]


def test_a_name_that_is_too_long_is_cut_and_still_its_own() -> None:
    """It turns up where nothing could be planned; one of them must not cost the whole lease."""
    names = {records.result("f", "c", "x" * 5000 + str(n) + "x" * 5000, "passed")["name"] for n in range(3)}
    assert len(names) == 3
    assert all(len(name) <= NAME_CHARACTERS == records.NAME_CAP for name in names)
    assert records.result("f", "c", "x" * 4000, "passed")["name"] == "x" * 4000
    common = {"ordinal": 1, "mode": "alone", "started": 0, "seconds": 0, "results": [], "isolation": ""}
    assert len(records.attempt(test="x" * 9000, **common)["test"]) <= NAME_CHARACTERS


@given(st.lists(st.binary(max_size=50), max_size=50), st.integers(0, 60))
def test_output_keeps_head_and_tail_and_counts_all(pieces: list[bytes], cap: int) -> None:
    kept = output.Output(cap)
    for piece in pieces:
        kept.add(piece)
    whole = b"".join(pieces)
    assert kept.total == len(whole)
    head, tail = cap // 2, cap - cap // 2
    if len(whole) <= cap:
        assert kept.text() == whole.decode("utf-8", "replace")
    else:
        end = whole[len(whole) - tail :] if tail else b""
        cut = b"\n[... %d bytes left out ...]\n" % (len(whole) - cap)
        assert kept.text() == (whole[:head] + cut + end).decode("utf-8", "replace")


def test_a_gigabyte_of_output_costs_the_runner_little_memory() -> None:
    kept, piece = output.Output(100_000), b"x" * (1 << 18)
    tracemalloc.start()
    for _ in range(4096):
        kept.add(piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kept.total == 1 << 30
    assert peak < 4 << 20
