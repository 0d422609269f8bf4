"""The ledger for Python: data frames and Arrow, and nothing that changes anything."""

from __future__ import annotations

import doctest
import os
from pathlib import Path

import pytest
from sqlalchemy import exc, insert, text, update

from blocks.errors import CommonfleetError, LedgerError
from blocks.home import open_home
from blocks.ledger import Ledger, api
from blocks.ledger.place import record_url
from blocks.ledger.schema import plans, runs
from tasks.collect.segments import cut_segments
from tests.docs.pages import ROOT, Page
from tests.ledger_rows import Case, made_unit, make_run, open_made

FAILED = "SELECT test, outcome, started FROM results WHERE outcome = 'failed'"


@pytest.fixture
def reading(ledger: Ledger, database_url: str | None, tmp_path: Path):
    make_run(ledger, [made_unit("a", [Case("A.x"), Case("A.y", "failed", message="boom")])], run="one")
    cut_segments(ledger, everything=True)
    with api.connect(tmp_path / "home", url=database_url) as opened:
        yield opened


def test_a_query_gives_arrow_with_the_types_of_the_ledger(reading: api.Reading) -> None:
    table = reading.arrow(FAILED)
    assert table.to_pydict()["test"] == ["a::A.y"]
    assert str(table.schema.field("started").type) == "timestamp[us, tz=UTC]"
    assert [batch.num_rows for batch in reading.batches("SELECT i FROM range(25000) t(i)")] != [25000]


def test_a_query_gives_a_data_frame(reading: api.Reading) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is an extra")
    frame = reading.query(FAILED)
    assert frame["test"].tolist() == ["a::A.y"]
    assert frame["started"].iloc[0] == pandas.Timestamp("2026-09-21T14:13:21Z")
    assert [len(frame) for frame in reading.frames(FAILED)] == [1]


def test_without_pandas_it_is_said_what_to_do(reading: api.Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(CommonfleetError, match=r"commonfleet\[pandas\]"):
        reading.query(FAILED)


def test_a_wrong_query_names_the_columns_there_are(reading: api.Reading) -> None:
    with pytest.raises(LedgerError, match="results: run, suite"):
        reading.arrow("SELECT colour FROM results")
    assert reading.views()["results"][0] == "run"


def test_the_database_itself_refuses_every_change(reading: api.Reading) -> None:
    refused = (exc.OperationalError, exc.InternalError, LedgerError)
    ledger = reading._ledger
    for change in (insert(plans).values(id="p", created=0.0, document="{}"), update(runs).values(flow="x")):
        with pytest.raises(refused), ledger.read() as connection:
            connection.execute(change)


def test_a_ledger_that_is_written_to_is_read_meanwhile(
    ledger: Ledger, database_url: str | None, tmp_path: Path
) -> None:
    with api.connect(tmp_path / "home", url=database_url) as reading:
        assert reading.arrow("SELECT * FROM runs").num_rows == 0
        make_run(ledger, [made_unit("a", [Case("A.x")])], run="one")
        assert reading.arrow("SELECT run FROM results").to_pydict() == {"run": ["one"]}


def test_the_ledger_is_found_where_the_commands_find_it(
    reading: api.Reading, database_url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database_url is not None:
        record_url(open_home(tmp_path / "home"), database_url)
    monkeypatch.setenv("COMMONFLEET_HOME", str(tmp_path / "home"))
    with api.connect() as opened:
        assert opened.arrow("SELECT run FROM runs").to_pydict() == {"run": ["one"]}


def test_a_newer_ledger_and_one_that_is_not_there_are_refused_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no ledger"):
        api.connect(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    ledger = open_made(tmp_path / "home")
    with ledger.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(LedgerError, match="schema 9999"):
        api.connect(tmp_path / "home")
    (tmp_path / "home" / "version").write_text("99\n")
    with pytest.raises(CommonfleetError, match="version 99"):
        api.connect(tmp_path / "home")
    ledger.close()


def test_the_examples_of_the_page_give_what_they_show(
    ledger: Ledger, database_url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database_url is not None:
        pytest.skip("the examples open a state folder")
    pytest.importorskip("pandas", reason="pandas is an extra")
    make_run(ledger, [made_unit("test_api", [Case("A.passes"), Case("A.fails", "failed")])], run="r-1")
    monkeypatch.setitem(os.environ, "COMMONFLEET_HOME", str(tmp_path / "home"))
    examples = "\n".join(Page(ROOT / "docs" / "asking.md").blocks("python"))
    test = doctest.DocTestParser().get_doctest(examples, {}, "docs/asking.md", "docs/asking.md", 0)
    told: list[str] = []
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append).failed == 0, "".join(told)
    assert len(test.examples) > 5
