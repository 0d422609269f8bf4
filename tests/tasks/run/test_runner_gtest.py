"""The kind gtest: what becomes of tests whose process dies, hangs, lies or floods."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.run.runner import gtest
from tasks.run.runner.company import Progress
from tests.tasks.run.conftest import Wire, message, order_of, outcomes

BOTH = pytest.mark.parametrize("isolation", ["bubblewrap", "none"])


def run_one(wire: Wire, unit: dict[str, Any], build: Path, **fields: Any) -> list[dict[str, Any]]:
    (record,) = wire.run(order_of(unit, build=build, **fields))
    assert record["unit"] == unit["unit"]
    assert [attempt["ordinal"] for attempt in record["attempts"]] == list(range(1, len(record["attempts"]) + 1))
    return record["attempts"]


@BOTH
def test_a_crash_in_company_and_a_pass_alone_are_both_on_record(
    wire: Wire, fake_gtest: Any, fake_build: Path, isolation: str, sandboxed: str
) -> None:
    unit = fake_gtest({"A.One": "", "A.Two": "segv_in_company", "A.Three": "fail", "A.Four": "skip"})
    company, two, three = run_one(wire, unit, fake_build, sandbox=isolation)
    assert outcomes(company) == {"A.One": "passed", "A.Two": "crashed", "A.Three": "failed", "A.Four": "skipped"}
    assert "SIGSEGV" in message(company, "Two")
    assert "about to die" in message(company, "Two")
    assert "RUN" not in message(company, "Two")
    assert "expected 1" in message(company, "Three")
    assert [process["signal"] for process in company["processes"]] == [11, None]
    assert (two["mode"], two["test"], outcomes(two)) == ("alone", "A.Two", {"A.Two": "passed"})
    assert (three["mode"], three["test"], outcomes(three)) == ("alone", "A.Three", {"A.Three": "failed"})
    assert company["outcome"] == "crashed"
    assert company["isolation"].startswith(isolation)


def test_a_test_that_hangs_is_timed_out_and_the_rest_goes_on(wire: Wire, fake_gtest: Any, fake_build: Path) -> None:
    unit = fake_gtest({"A.One": "", "A.Two": "hang", "A.Three": ""}, test_timeout_seconds=1.0)
    company, alone = run_one(wire, unit, fake_build)
    assert outcomes(company) == {"A.One": "passed", "A.Two": "timed_out", "A.Three": "passed"}
    assert outcomes(alone) == {"A.Two": "timed_out"}


def test_what_the_units_time_does_not_reach_is_an_error_that_says_so(
    wire: Wire, fake_gtest: Any, fake_build: Path
) -> None:
    unit = fake_gtest({"A.One": "", "A.Two": "hang", "A.Three": ""}, timeout_seconds=1.0)
    (company,) = run_one(wire, unit, fake_build, retry_alone=0)
    assert outcomes(company) == {"A.One": "passed", "A.Two": "timed_out", "A.Three": "error"}
    assert "not reached" in message(company, "Three")
    assert "1 of 1 failing tests were not tried alone" in company["note"]


def test_a_binary_that_dies_before_any_test_gives_each_an_error_and_does_not_loop(
    wire: Wire, fake_gtest: Any, fake_build: Path
) -> None:
    (company,) = run_one(wire, fake_gtest({"A.One": "dies_at_once", "A.Two": ""}), fake_build)
    assert outcomes(company) == {"A.One": "error", "A.Two": "error"}
    assert "libmissing.so" in message(company, "One")
    assert len(company["processes"]) == 1


def test_a_missing_binary_gives_each_test_an_error(wire: Wire, fake_gtest: Any, fake_build: Path) -> None:
    unit = fake_gtest({"A.One": ""})
    (fake_build / "fake" / "binary").unlink()
    (company,) = run_one(wire, unit, fake_build)
    assert outcomes(company) == {"A.One": "error"}


def test_a_planned_test_that_the_binary_does_not_report_is_an_error(
    wire: Wire, fake_gtest: Any, fake_build: Path
) -> None:
    (company,) = run_one(wire, fake_gtest({"A.One": "", "A.Two": "unreported"}), fake_build)
    assert outcomes(company) == {"A.One": "passed", "A.Two": "error"}
    assert "did not report" in message(company, "Two")
    assert company["note"] == "planned, but not reported by their process: A.Two"


def test_a_note_names_some_of_many_tests_that_were_not_reported(wire: Wire, fake_gtest: Any, fake_build: Path) -> None:
    tests = {"A.One": "", **{f"A.T{n}": "unreported" for n in range(8)}}
    (company,) = run_one(wire, fake_gtest(tests), fake_build)
    assert company["note"] == "planned, but not reported by their process: A.T0, A.T1, A.T2, A.T3, A.T4 and 3 more"


def test_markers_that_a_test_prints_for_others_are_not_believed(wire: Wire, fake_gtest: Any, fake_build: Path) -> None:
    lie = "say:[       OK ] A.Three (0 ms)\n[ RUN      ] A.Three\n[       OK ] A.Three (0 ms)\n"
    unit = fake_gtest({"A.One": "", "A.Two": lie + "&&fail", "A.Three": "fail"})
    company = run_one(wire, unit, fake_build)[0]
    assert outcomes(company) == {"A.One": "passed", "A.Two": "failed", "A.Three": "failed"}


def test_a_lie_about_another_test_is_not_believed_when_its_process_dies_either(
    wire: Wire, fake_gtest: Any, fake_build: Path
) -> None:
    lie = "say:[       OK ] A.Three (0 ms)\n[ RUN      ] A.Nowhere\n[       OK ] A.Nowhere (0 ms)\n"
    unit = fake_gtest({"A.One": "", "A.Two": lie + "&&segv", "A.Three": "fail"})
    company = run_one(wire, unit, fake_build, retry_alone=0)[0]
    assert outcomes(company) == {"A.One": "passed", "A.Two": "crashed", "A.Three": "failed"}


def test_a_marker_behind_other_output_on_its_line_counts(wire: Wire, fake_gtest: Any, fake_build: Path) -> None:
    unit = fake_gtest({"A.One": "say:no newline here", "A.Two": "segv"})
    company = run_one(wire, unit, fake_build, retry_alone=0)[0]
    assert outcomes(company) == {"A.One": "passed", "A.Two": "crashed"}
    assert len(company["processes"]) == 1


def test_a_death_after_the_last_test_is_told_though_all_passed(wire: Wire, fake_gtest: Any, fake_build: Path) -> None:
    (company,) = run_one(wire, fake_gtest({"A.One": "", "A.Two": "dies_at_exit"}), fake_build)
    assert outcomes(company) == {"A.One": "passed", "A.Two": "passed"}
    assert company["outcome"] == "crashed"
    assert "outside of any test" in company["note"]


def test_tests_beyond_the_bound_are_not_tried_alone_and_the_note_says_so(
    wire: Wire, fake_gtest: Any, fake_build: Path
) -> None:
    attempts = run_one(wire, fake_gtest({f"A.T{n}": "fail" for n in range(5)}), fake_build, retry_alone=2)
    assert [attempt["test"] for attempt in attempts] == [None, "A.T0", "A.T1"]
    assert "3 of 5 failing tests were not tried alone: the bound is 2" in attempts[0]["note"]


def test_the_unit_in_hand_has_its_tries_alone_though_the_leases_deadline_has_passed(
    wire: Wire, fake_gtest: Any, fake_build: Path
) -> None:
    unit = fake_gtest({"A.One": "hang", "A.Two": "fail"}, test_timeout_seconds=1.0)
    attempts = run_one(wire, unit, fake_build, deadline_seconds=0.9)
    assert [attempt["test"] for attempt in attempts] == [None, "A.One", "A.Two"]


def test_a_unit_that_has_used_up_its_time_after_the_deadline_is_not_tried_alone_and_the_note_says_so(
    wire: Wire, fake_gtest: Any, fake_build: Path
) -> None:
    unit = fake_gtest({"A.One": "hang"}, timeout_seconds=1.0)
    (company,) = run_one(wire, unit, fake_build, deadline_seconds=0.9)
    assert "1 of 1 failing tests were not tried alone: its time has passed" in company["note"]


@BOTH
def test_a_flood_of_output_is_counted_and_costs_no_memory(
    wire: Wire, fake_gtest: Any, fake_build: Path, isolation: str, sandboxed: str
) -> None:
    flood = "for _ in range(200): sys.stdout.write('x' * 999_999 + '\\n');"
    unit = fake_gtest({"A.One": flood, "A.Two": ""})
    (company,) = run_one(wire, unit, fake_build, sandbox=isolation, output_cap_bytes=10_000)
    assert outcomes(company) == {"A.One": "passed", "A.Two": "passed"}
    assert company["output_bytes"] > 200_000_000
    assert len(company["output"]) < 11_000
    assert "bytes left out" in company["output"]
    assert "A.Two" in company["output"]


def test_a_memory_hog_is_ended_and_blamed(wire: Wire, fake_gtest: Any, fake_build: Path) -> None:
    hog = "kept = bytearray(300 << 20); kept[::4096] = b'x' * len(kept[::4096]); time.sleep(20);"
    unit = fake_gtest({"A.One": hog, "A.Two": ""}, memory_bytes=200 << 20)
    began = time.monotonic()
    company, alone = run_one(wire, unit, fake_build)
    assert outcomes(company) == {"A.One": "crashed", "A.Two": "passed"}
    assert "memory limit of 209715200 bytes" in message(company, "One")
    assert company["peak_memory_bytes"] > 200 << 20
    assert outcomes(alone) == {"A.One": "crashed"}
    assert time.monotonic() - began < 15


@BOTH
def test_a_unit_that_deletes_its_own_folder_keeps_its_results(
    wire: Wire, fake_gtest: Any, fake_build: Path, isolation: str, sandboxed: str
) -> None:
    gone = "import shutil; shutil.rmtree(os.environ['HOME'], ignore_errors=True);"
    unit = fake_gtest({"A.One": gone, "A.Two": "segv", "A.Three": "fail"})
    company = run_one(wire, unit, fake_build, sandbox=isolation, retry_alone=0)[0]
    assert outcomes(company) == {"A.One": "passed", "A.Two": "crashed", "A.Three": "failed"}


@BOTH
def test_daemons_that_a_unit_leaves_are_counted_and_killed(
    wire: Wire, fake_gtest: Any, fake_build: Path, isolation: str, sandboxed: str, tmp_path: Path
) -> None:
    mark = f"7{time.time_ns() % 10**8}"
    daemon = f"""
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0: os.execv('/bin/sleep', ['sleep', '{mark}']);
        os._exit(0)
"""
    unit = fake_gtest({"A.One": daemon, "A.Two": ""})
    (company,) = run_one(wire, unit, fake_build, sandbox=isolation)
    assert outcomes(company) == {"A.One": "passed", "A.Two": "passed"}
    assert company["survivors"] == 5
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if mark in _read(path)]
    assert left == []


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


@given(st.lists(st.from_regex(r"[A-Z][a-z]{0,40}\.[A-Z][a-z]{0,60}", fullmatch=True), max_size=50), st.integers(1, 400))
def test_filters_hold_every_name_once_and_keep_their_size(names: list[str], factor: int) -> None:
    many = [f"{name}{n}" for n in range(factor) for name in names]
    pieces = list(gtest.batches(many))
    assert [name for piece in pieces for name in piece] == many
    assert all(len(":".join(piece)) <= gtest.FILTER_BYTES for piece in pieces)


NOISE = st.sampled_from(
    [b"x", b"\n", b"[ RUN      ] ", b"[       OK ] ", b"A.One", b"A.Two", b" (7 ms)", b"[", b"\xff"]
)


@given(st.lists(NOISE, max_size=40), st.lists(st.integers(0, 300), max_size=10))
def test_it_does_not_matter_how_the_output_is_cut(noise: list[bytes], cuts: list[int]) -> None:
    text = b"[ RUN      ] A.One\n" + b"".join(noise) + b"\n[       OK ] A.One (7 ms)\n[ RUN      ] A.Two\n"

    def read(pieces: list[bytes]) -> Any:
        progress = Progress(["A.One", "A.Two"])
        progress.begin(["A.One", "A.Two"])
        reader = gtest.Reader(progress)
        for piece in pieces:
            reader.feed(piece)
        reader.close()
        return progress.in_hand, {name: (f.outcome, f.seconds) for name, f in progress.findings.items()}

    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    assert read([text[a:b] for a, b in itertools.pairwise(edges)]) == read([text])
