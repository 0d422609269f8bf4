"""A backup is one moment of the ledger with all that it names, or it is no backup; a restore is the same ledger."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from blocks.errors import CommonfleetError, LedgerError
from blocks.home import Home, check_whole, located, open_home
from blocks.ledger import Ledger
from blocks.ledger.copying import sums
from blocks.ledger.query import run_query
from blocks.ledger.schema import segments
from blocks.signing import load_or_make_key
from tasks.collect.segments import cut_segments
from tasks.keep.backup import MANIFEST, PARTIAL, back_up
from tasks.keep.restore import restore
from tests.faults.rounds import SOAK, rounds
from tests.ledger_rows import Case, made_unit, make_run, open_made

SQLITE = pytest.mark.parametrize("database_url", [None], ids=["sqlite"])
"""A backup is SQLite wherever it came from: what becomes of it need not be tried twice."""
ALL = "SELECT * FROM all_results ORDER BY ALL"


def home_at(folder: Path) -> Home:
    return Home(folder)


def read_back(folder: Path) -> Ledger:
    return open_made(open_home(folder).root)


def test_a_restored_ledger_answers_as_the_one_that_was_backed_up(home: Home, ledger: Ledger, tmp_path: Path) -> None:
    rows = run_query(ledger, ALL)
    with ledger.read() as connection:
        tables = sums(connection)

    made = back_up(home, ledger, tmp_path / "backup")
    put = restore(home_at(tmp_path / "new"), tmp_path / "backup")

    assert made.missing == made.altered == ()
    assert put.files == made.files
    restored = read_back(tmp_path / "new")
    assert run_query(restored, ALL) == rows
    assert len(rows) == 3 * 12 * 3
    with restored.read() as connection:
        assert sums(connection) == tables
    assert restored.store.has(restored.store.put_bytes(b"the provenance"))
    restored.close()
    checked = subprocess.run(["sha256sum", "-c", "--quiet", "files.sha256"], cwd=tmp_path / "backup")
    assert checked.returncode == 0


def test_keys_are_copied_only_when_asked_for(home: Home, ledger: Ledger, tmp_path: Path) -> None:
    key = load_or_make_key(home.keys / "agent.key")

    back_up(home, ledger, tmp_path / "without")
    back_up(home, ledger, tmp_path / "with", keys=True)
    restore(home_at(tmp_path / "new"), tmp_path / "with")

    assert not list((tmp_path / "without").rglob("*.key"))
    file = tmp_path / "new" / "keys" / "agent.key"
    assert load_or_make_key(file).id == key.id
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.soak
def test_a_backup_while_runs_go_on_is_one_moment(home: Home, ledger: Ledger, tmp_path: Path) -> None:
    stop = threading.Event()

    def work() -> None:
        number = 0
        while not stop.is_set():
            make_run(ledger, [made_unit("u", [Case("S.a"), Case("S.b")])], run=f"w-{number}")
            cut_segments(ledger, everything=True)
            number += 1

    worker = threading.Thread(target=work)
    worker.start()
    try:
        time.sleep(0.3)
        for number in range(5 if SOAK else 1):
            folder = tmp_path / f"b{number}"
            assert back_up(home, ledger, folder).missing == ()
            restore(home_at(tmp_path / f"n{number}"), folder)
            restored = read_back(tmp_path / f"n{number}")
            whole = "SELECT run, count(*) AS n FROM results WHERE run LIKE 'w-%' GROUP BY run"
            assert {row["n"] for row in run_query(restored, whole)} <= {2}
            (there,) = run_query(restored, "SELECT count(*) AS n FROM runs")
            (seen,) = run_query(restored, "SELECT count(DISTINCT run) AS n FROM results")
            assert there == seen
            restored.close()
    finally:
        stop.set()
        worker.join()


def test_files_replaced_while_they_are_copied_are_found_by_taking_the_records_again(
    home: Home, ledger: Ledger, tmp_path: Path
) -> None:
    """As a compaction does: the rows of a segment go into another file, and the first one is removed."""
    done: list[str] = []

    def compact(what: str) -> None:
        if not what.startswith("copying") or "files" not in what or done:
            return
        done.append(what)
        with ledger.write() as connection:
            row = connection.execute(segments.select()).first()
            assert row is not None
            old = ledger.results / row.path
            old.rename(old.with_name("replaced.parquet"))
            path = str(Path(row.path).with_name("replaced.parquet"))
            connection.execute(segments.update().where(segments.c.path == row.path).values(path=path))

    made = back_up(home, ledger, tmp_path / "backup", tell=compact)

    assert done
    assert made.missing == ()
    assert list((tmp_path / "backup").rglob("replaced.parquet"))


def test_what_is_missing_or_altered_in_the_ledger_is_told(home: Home, ledger: Ledger, tmp_path: Path) -> None:
    one, other = sorted(ledger.results.rglob("*.parquet"))[:2]
    one.unlink()
    content = bytearray(other.read_bytes())
    content[len(content) // 2] ^= 1
    other.write_bytes(content)

    made = back_up(home, ledger, tmp_path / "backup")

    assert made.missing == (str(one.relative_to(home.root)),)
    assert made.altered == (str(other.relative_to(home.root)),)


# -- what is no backup ---------------------------------------------------------------------------------------------


@pytest.fixture
def backup(home: Home, ledger: Ledger, tmp_path: Path) -> Path:
    back_up(home, ledger, tmp_path / "backup")
    return tmp_path / "backup"


@pytest.mark.parametrize("part", ["ledger.db", "results", "store", "files.sha256"])
@pytest.mark.parametrize("harm", ["one bit", "gone"])
@SQLITE
def test_a_backup_that_was_altered_is_refused_and_nothing_is_put_anywhere(
    backup: Path, tmp_path: Path, part: str, harm: str
) -> None:
    path = backup / part
    victim = path if path.is_file() else next(p for p in sorted(path.rglob("*")) if p.is_file())
    if harm == "gone":
        victim.unlink()
    else:
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)

    with pytest.raises(LedgerError):
        restore(home_at(tmp_path / "new"), backup)
    assert not [path for path in (tmp_path / "new").rglob("*") if path.is_file()]


@SQLITE
def test_a_state_folder_in_use_is_left_alone(backup: Path, home: Home, ledger: Ledger) -> None:
    before = sorted(home.root.rglob("*"))
    with pytest.raises(LedgerError, match="not empty"):
        restore(home, backup)
    assert sorted(home.root.rglob("*")) == before


@SQLITE
def test_a_folder_with_something_in_it_is_left_alone(home: Home, ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(LedgerError, match="not empty"):
        back_up(home, ledger, tmp_path)
    assert (tmp_path / "mine").read_text() == "mine"


@SQLITE
def test_a_newer_backup_is_refused(backup: Path, tmp_path: Path) -> None:
    manifest = json.loads((backup / MANIFEST).read_text())
    (backup / MANIFEST).write_text(json.dumps({**manifest, "schema": "9999"}))
    with pytest.raises(LedgerError, match="9999"):
        restore(home_at(tmp_path / "new"), backup)


@SQLITE
def test_a_backup_whose_records_are_fewer_than_it_says_is_refused(backup: Path, tmp_path: Path) -> None:
    manifest = json.loads((backup / MANIFEST).read_text())
    manifest["tables"]["events"]["rows"] += 1
    (backup / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(LedgerError):
        restore(home_at(tmp_path / "new"), backup)


# -- kill -9 -------------------------------------------------------------------------------------------------------


def killed(program: str, after_seconds: float) -> bool:
    """Run it and kill it then; whether it was still at it."""
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stderr=subprocess.DEVNULL)
    try:
        process.wait(after_seconds)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return True
    assert process.returncode == 0
    return False


SLOWLY = """
    import os, time
    from pathlib import Path
    real = os.fsync
    os.fsync = lambda descriptor: (time.sleep(0.05), real(descriptor))
"""


@pytest.mark.soak
def test_a_backup_that_was_killed_is_no_backup_and_can_be_gone_on_with(
    home: Home, ledger: Ledger, database_url: str | None, tmp_path: Path
) -> None:
    folder = tmp_path / "backup"
    program = f"""{SLOWLY}
    from blocks.home import open_home
    from tasks.keep.backup import back_up
    from tests.ledger_rows import open_made
    home = open_home(Path({str(home.root)!r}))
    ledger = open_made(home.root, {database_url!r})
    back_up(home, ledger, Path({str(folder)!r}), tell=lambda what: print(what))
    """
    cut_short = 0
    for _, dice in rounds(f"backup killed, {ledger.engine.dialect.name}", full=20, sample=1):
        if killed(program, dice.uniform(0.4, 1.5)):
            cut_short += 1
            if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).exists():
                assert (folder / PARTIAL).exists()
            with pytest.raises(LedgerError, match="no complete backup"):
                restore(home_at(tmp_path / "new"), folder)
        else:
            shutil.rmtree(folder)
    assert cut_short

    back_up(home, ledger, folder)
    restore(home_at(tmp_path / "new"), folder)
    restored = read_back(tmp_path / "new")
    assert run_query(restored, ALL) == run_query(ledger, ALL)
    restored.close()


def test_a_second_restore_that_fails_leaves_the_first_ones_half_known_as_such(
    home: Home, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(home, ledger, tmp_path / "backup")
    place = located(tmp_path / "new")
    place.restoring.mkdir(parents=True)  # as a kill in the middle leaves it:
    shutil.copyfile(tmp_path / "backup" / "ledger.db", place.root / "ledger.db")
    segment = next((tmp_path / "backup" / "results").rglob("*.parquet"))
    segment.write_bytes(segment.read_bytes()[:-1])
    with pytest.raises(LedgerError, match="not as it was made"):
        restore(place, tmp_path / "backup")
    with pytest.raises(CommonfleetError, match="restore"):
        check_whole(place)


@SQLITE
def test_a_restore_that_was_killed_is_no_state_folder_and_can_be_repeated(
    backup: Path, ledger: Ledger, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    program = f"""{SLOWLY}
    from blocks.home import Home
    from tasks.keep.restore import restore
    restore(Home(Path({str(new)!r})), Path({str(backup)!r}))
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stderr=subprocess.DEVNULL)
    while not (new / ".restoring").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    with pytest.raises(CommonfleetError, match="restore"):
        open_home(new)

    restore(home_at(new), backup)
    restored = read_back(new)
    assert run_query(restored, ALL) == run_query(ledger, ALL)
    restored.close()


def test_a_full_disk_leaves_no_backup_and_says_what_to_do(home: Home, ledger: Ledger, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(small)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("a small disk cannot be mounted here")
    try:
        with pytest.raises(LedgerError, match=r"full|could not be copied") as told:
            back_up(home, ledger, small / "backup")
        assert "space" in told.value.do
        with pytest.raises(LedgerError, match="no complete backup"):
            restore(home_at(tmp_path / "new"), small / "backup")
    finally:
        subprocess.run(["umount", str(small)], check=True)
