"""Files become results: each once, all of them accounted for, and none of it where a process is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from blocks.errors import LedgerError
from blocks.ledger import Ledger
from blocks.ledger.query import run_query
from blocks.ledger.schema import bundles, events
from blocks.signing import Key, verify
from tasks.collect.driver import open_run
from tasks.collect.ingest import Outcome, ingest
from tasks.collect.ingested import MANIFEST_TYPE
from tasks.collect.readers import Limits
from tasks.collect.readers.kept import raw
from tasks.publish.log.verify_files import verify_files
from tasks.publish.summary import run_summary
from tests.faults.rounds import rounds

PATIENT = Limits(seconds=60.0)


def report(path: Path, tests: int, *, bad: int = 0, tag: str = "t") -> Path:
    failure = '<failure message="no"/>'
    cases = "".join(
        f'<testcase classname="p.C" name="{tag}{n}" time="0.5">{failure if n < bad else ""}</testcase>'
        for n in range(tests)
    )
    path.write_text(f'<testsuite name="suite" tests="{tests}">{cases}</testsuite>')
    return path


def done(ledger: Ledger, key: Key, *named: Path, run: str = "R", **more: Any) -> dict[str, Outcome]:
    given = {"environment": "there", "limits": PATIENT, "workers": 1, **more}
    return {Path(one.reading.name).name: one for one in ingest(ledger, key, named, run=run, **given)}


def rows_of(ledger: Ledger, run: str = "R") -> Counter[str]:
    found = run_query(ledger, f"SELECT unit_name, count(*) AS n FROM results WHERE run = '{run}' GROUP BY ALL")
    return Counter({Path(row["unit_name"]).name: row["n"] for row in found})


def test_a_file_is_a_unit_with_an_attempt_and_its_rows(ledger: Ledger, key: Key, tmp_path: Path) -> None:
    outcome = done(ledger, key, report(tmp_path / "a.xml", 5, bad=2))["a.xml"]
    assert outcome.sentence() == "ingested (5)"
    summary = run_summary(ledger, "R")
    assert summary["units"] == {"planned": 1, "ran": 1, "skipped": 0, "not_run": 0, "lost": 0}
    assert summary["results"] == {"suite": {"failed": 2, "passed": 3}}
    assert (summary["flow"], summary["state"], summary["missing"]) == ("ingested", "complete", 0)
    assert summary["sentence"] == "1 file ingested: 5 results."
    ((attempt),) = run_query(ledger, "SELECT outcome, seconds, counted, suite, environment FROM attempts")
    assert attempt == {"outcome": "failed", "seconds": 2.5, "counted": True, "suite": "suite", "environment": "there"}


def test_the_same_content_is_one_whatever_it_is_called_and_whenever_it_comes(
    ledger: Ledger, key: Key, tmp_path: Path
) -> None:
    first = report(tmp_path / "a.xml", 3)
    (tmp_path / "b.xml").write_bytes(first.read_bytes())
    both = done(ledger, key, first, tmp_path / "b.xml")
    assert sorted(bool(one.again) for one in both.values()) == [False, True]
    (again,) = done(ledger, key, tmp_path / "b.xml").values()
    assert again.again
    assert again.word == "ingested"
    assert rows_of(ledger).total() == 3
    assert run_summary(ledger, "R")["units"]["planned"] == 1


def test_a_run_grows_and_two_runs_hold_the_same_file_each(ledger: Ledger, key: Key, tmp_path: Path) -> None:
    done(ledger, key, report(tmp_path / "a.xml", 3))
    done(ledger, key, report(tmp_path / "b.xml", 4, tag="u"))
    done(ledger, key, tmp_path / "a.xml", run="S")
    assert rows_of(ledger) == {"a.xml": 3, "b.xml": 4}
    assert rows_of(ledger, "S") == {"a.xml": 3}
    assert run_summary(ledger, "R")["sentence"] == "2 files ingested: 7 results."
    with ledger.read() as connection:
        digests = list(connection.scalars(select(bundles.c.digest)))
    assert len(set(digests)) == len(digests), "letting go of one run's bundles must not take another's"


def test_what_was_cut_off_is_kept_and_the_rest_is_missing(ledger: Ledger, key: Key, tmp_path: Path) -> None:
    whole = report(tmp_path / "a.xml", 10).read_text()
    (tmp_path / "a.xml").write_text(whole[: whole.index('name="t4"')])
    assert done(ledger, key, tmp_path / "a.xml")["a.xml"].sentence().startswith("salvaged (4 of 10)")
    assert run_summary(ledger, "R")["missing"] == 6


def test_what_is_refused_leaves_no_trace(ledger: Ledger, key: Key, tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("no report")
    assert done(ledger, key, tmp_path / "a.xml", tmp_path / "none.xml").keys() == {"a.xml", "none.xml"}
    with pytest.raises(LedgerError):
        run_summary(ledger, "R")


def test_the_raw_file_is_kept_and_what_we_know_is_signed_beside_it(ledger: Ledger, key: Key, tmp_path: Path) -> None:
    done(ledger, key, report(tmp_path / "a.xml", 3))
    with ledger.read() as connection:
        (about, file) = connection.execute(select(bundles).order_by(bundles.c.part)).all()
        told = list(connection.scalars(select(events.c.body).where(events.c.kind == "bundle.admitted")))
    assert raw(ledger.store.get(file.digest)) == (tmp_path / "a.xml").read_bytes()
    manifest = json.loads(verify(json.loads(ledger.store.get(about.digest)), MANIFEST_TYPE, key.public))
    assert [(one["name"], one["kept"], one["rows"]) for one in manifest["files"]] == [
        (str(tmp_path / "a.xml"), file.digest, 3)
    ]
    assert json.loads(told[0])["body"]["digest"] == json.loads(told[1])["body"]["manifest"] == about.digest
    assert verify_files(ledger).findings.count == 0


def test_an_admitted_root_can_be_computed_from_the_segment(ledger: Ledger, key: Key, tmp_path: Path) -> None:
    report(tmp_path / "a.xml", 50, bad=7)
    (tmp_path / "b.csv").write_text("dev,name,batch_size,speedup,abs_latency\ncpu,m,4,1.5,20.0\ncpu,n,4,nan,1\n")
    (tmp_path / "c.json").write_text(
        '{"tests": 1, "name": "AllTests", "testsuites": [{"name": "S", "tests": 1, "testsuite": '
        '[{"name": "ü", "status": "RUN", "result": "COMPLETED", "time": "0.25s", "classname": "S"}]}]}'
    )
    done(ledger, key, tmp_path)
    checked = verify_files(ledger)
    assert (checked.findings.count, checked.rows.bundles, checked.rows.rows, checked.rows.unproven) == (0, 3, 56, 0)


def test_a_run_that_was_driven_is_no_target(ledger: Ledger, key: Key, tmp_path: Path) -> None:
    seat = open_run(ledger, "nightly", {})
    with pytest.raises(LedgerError, match="was driven by commonfleet"):
        done(ledger, key, report(tmp_path / "a.xml", 1), run=seat.run)
    with pytest.raises(LedgerError, match="There is no run"):
        done(ledger, key, tmp_path / "a.xml", run="r-20200101-000000-abcdef")


@pytest.mark.parametrize("run", ["", "latest", "../x", "a b", "x" * 61, "-a", "ü"])
def test_a_name_that_cannot_be_kept_is_refused(run: str, ledger: Ledger, key: Key, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="is no name for a run"):
        done(ledger, key, report(tmp_path / "a.xml", 1), run=run)


def test_only_the_format_that_was_asked_for_is_taken(ledger: Ledger, key: Key, tmp_path: Path) -> None:
    outcome = done(ledger, key, report(tmp_path / "a.xml", 1), format="gtest-json")["a.xml"]
    assert outcome.sentence() == "refused: it is no gtest-json"
    with pytest.raises(LedgerError, match="There is no format"):
        done(ledger, key, tmp_path / "a.xml", format="yaml")


# -- several at once, and kills ------------------------------------------------------------------------------------


def start(home: Path, folder: Path) -> subprocess.Popen[bytes]:
    program = Path(sys.executable).with_name("commonfleet")
    quiet = subprocess.DEVNULL
    return subprocess.Popen(
        [str(program), "ingest", str(folder), "--run", "R"], stdout=quiet, stderr=quiet,
        env={**os.environ, "COMMONFLEET_HOME": str(home)}, start_new_session=True,
    )  # fmt: skip


def folder_of(root: Path, files: int, tests: int) -> Path:
    (root / "reports").mkdir(parents=True)
    for number in range(files):
        report(root / "reports" / f"r{number:03}.xml", tests, tag=f"x{number}_")
    return root / "reports"


def check(home: Path, files: int, tests: int) -> None:
    env = {**os.environ, "COMMONFLEET_HOME": str(home)}
    program = str(Path(sys.executable).with_name("commonfleet"))

    def asked(*arguments: str) -> Any:
        return json.loads(
            subprocess.run([program, *arguments, "--json"], env=env, check=True, capture_output=True).stdout
        )

    summary = asked("show", "R")
    assert summary["units"] == {"planned": files, "ran": files, "skipped": 0, "not_run": 0, "lost": 0}
    assert summary["results"] == {"suite": {"passed": files * tests}}
    assert summary["missing"] == 0
    counts = asked("query", "SELECT count(*) AS n, count(DISTINCT test_id) AS d FROM results")
    assert counts == [{"n": files * tests, "d": files * tests}]
    checked = asked("verify")
    assert checked["good"], checked


def test_two_processes_at_once_count_each_file_once(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 300, 20)
    both = [start(tmp_path / "home", folder) for _ in range(2)]
    assert [one.wait(120) for one in both] == [0, 0]
    check(tmp_path / "home", 300, 20)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_kill_9_at_any_moment_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    for number, dice in rounds("ingest-kill", full=60, sample=1):
        home, folder = tmp_path / f"home-{number}", folder_of(tmp_path / str(number), 200, 20)
        for _ in range(dice.randint(1, 4)):
            process = start(home, folder)
            time.sleep(dice.uniform(0.3, 2.5))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert start(home, folder).wait(120) == 0
        check(home, 200, 20)
