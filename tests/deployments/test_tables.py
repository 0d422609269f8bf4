"""Tables: what is copied from them is whole, and a value is a line at most."""

from __future__ import annotations

import pytest

from deployments.cli import tables

RUN = "r-20260102-030405-abcdef0123"
ROW = {
    "id": RUN,
    "flow": "on_demand",
    "state": "concluded",
    "created": "2026-01-02T03:04:05Z",
    "units": {"planned": 4, "open": 1},
    "sentence": "Nothing is newly broken [so far], " + "and there is more to say " * 20 + "until here",
}


def test_in_a_pipe_a_run_is_one_whole_line(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_runs([ROW])

    _, line = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{RUN}  on_demand  concluded  2026-01-02 03:04  3/4")
    assert line.rstrip().endswith(str(ROW["sentence"]))


def test_a_narrow_terminal_shows_the_whole_id(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TTY_COMPATIBLE": "1", "COLUMNS": "50", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)

    tables.print_runs([ROW])

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 2, "this is not the narrow terminal that was meant"
    assert lines[1].startswith(RUN)


def test_a_value_of_many_lines_takes_one_in_a_query_s_answer(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"message": "\nfirst\nsecond\nthird", "long": "x" * 5000, "n": 1 / 3, "none": None}

    tables.print_answer(list(row), [[row]])

    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["message", "long", "n", "none"]
    assert line.split() == ["first", "…", "x" * 200, "…", "0.333333"]


def test_brackets_in_a_value_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    tables.print_answer(["test"], [[{"test": "test_add[float32]"}]])

    assert "test_add[float32]" in capsys.readouterr().out
