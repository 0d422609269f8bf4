"""A file that kills, hangs or starves its reader costs itself, and every source that was named has one outcome."""

from __future__ import annotations

import gzip
import io
import os
import signal
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

from blocks.errors import CommonfleetError
from tasks.collect.readers import Limits, Reading, read
from tasks.collect.readers import pool as pooling

OK = b'<testsuite name="s"><testcase name="t" classname="C" time="1"/></testsuite>'
PATIENT = Limits(seconds=60.0)


def outcomes(*named: str | Path, limits: Limits = PATIENT, **options: object) -> dict[str, Reading]:
    found: dict[str, Reading] = {}
    for batch in read(named, limits=limits, **options):  # type: ignore[arg-type]
        for reading in batch.readings.values():
            assert reading.name not in found, "one outcome for each"
            found[reading.name] = reading
    return found


@pytest.fixture
def forty(tmp_path: Path) -> Path:
    for number in range(40):
        (tmp_path / f"r{number:02}.xml").write_bytes(OK.replace(b'"t"', f'"t{number}"'.encode()))
    return tmp_path


def test_a_folder_gives_every_file_in_it_an_outcome_and_its_rows_their_source(forty: Path) -> None:
    (batch,) = read([forty], limits=PATIENT)
    assert {reading.sentence() for reading in batch.readings.values()} == {"ingested (1)"}
    rows = {batch.readings[row["source"]].name: row["name"] for row in batch.cases.to_pylist()}
    assert rows == {str(forty / f"r{number:02}.xml"): f"t{number}" for number in range(40)}


def test_a_reader_that_dies_costs_one_file_of_its_batch(forty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real process is killed from outside while it has the 18th file in hand."""
    original = pooling._Process._take
    killed: list[int] = []

    def take(self: pooling._Process, size: int, stop: threading.Event) -> bytearray:
        if self._in_hand == 17 and not killed:
            killed.append(self._popen.pid)
            os.kill(self._popen.pid, signal.SIGSEGV)
            self._popen.wait()
            assert self._popen.stdout is not None
            os.set_blocking(self._popen.stdout.fileno(), False)
            while os.read(self._popen.stdout.fileno(), 1 << 20):
                pass  # what it had said before it died is lost with it
        return original(self, size, stop)

    monkeypatch.setattr(pooling._Process, "_take", take)
    found = outcomes(forty, workers=1)
    assert killed
    bad = {Path(name).name: reading.why for name, reading in found.items() if reading.outcome == "refused"}
    assert bad == {"r17.xml": "the process that read it was ended by SIGSEGV"}
    assert len(found) == 40


def test_a_file_that_takes_too_long_is_refused_and_the_rest_is_read(forty: Path) -> None:
    # 60 MB of small elements take a second or more; a hundredth of one is allowed.
    (forty / "slow.xml").write_bytes(b"<testsuite>" + b"<a/>" * 15_000_000 + b"</testsuite>")
    began = time.monotonic()
    found = outcomes(forty, limits=Limits(seconds=0.5, bytes_per_second=10**12), workers=1)
    slow = found.pop(str(forty / "slow.xml"))
    assert (slow.outcome, slow.why) == ("refused", "it took longer than 0.5 s")
    assert slow.digest.startswith("sha256:")
    assert time.monotonic() - began < 60
    assert len(found) == 40


def test_a_file_that_needs_too_much_memory_is_refused_and_the_rest_is_read(forty: Path) -> None:
    (forty / "large.json").write_bytes(b'{"testsuites": [' + b"[]," * 20_000_000 + b"[]]}")
    found = outcomes(forty, workers=1)
    large = found.pop(str(forty / "large.json"))
    assert large.outcome == "refused"
    assert "memory" in large.why
    assert {reading.outcome for reading in found.values()} == {"ingested"}


def test_whatever_is_named_is_answered_for(forty: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "void").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    named = ["missing.xml", str(tmp_path / "*.nothing"), tmp_path / "void", tmp_path / "pipe", "/dev/zero", "-", "a\0b"]
    found = outcomes(*named, stdin=io.BytesIO(gzip.compress(OK)))
    assert {Path(name).name: reading.sentence() for name, reading in found.items()} == {
        "missing.xml": "refused: it cannot be opened: No such file or directory",
        "*.nothing": "refused: nothing matches",
        "void": "refused: the folder holds no file",
        "pipe": "refused: it is no regular file",
        "zero": "refused: it is no regular file",
        "-": "ingested (1)",
        "a\ufffdb": "refused: it cannot be opened: embedded null byte",
    }


def test_a_file_that_is_named_twice_is_read_once(forty: Path) -> None:
    found = outcomes(forty / "r01.xml", forty / "*.xml", forty)
    assert len(found) == 40


def test_a_name_that_cannot_be_looked_at_is_one_refusal_and_no_end(forty: Path) -> None:
    found = outcomes(forty, forty / ("a" * 300))
    assert found.pop(str(forty / ("a" * 300))).outcome == "refused"
    assert len(found) == 40


def test_a_standard_input_without_an_end_is_refused_at_the_limit() -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            return b"x" * size

    found = outcomes("-", stdin=Endless(), limits=Limits(bytes=4 << 20))
    assert found["-"].why == "it is longer than 4 MB"


def test_a_reader_that_cannot_start_is_an_error_and_no_refusal(forty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling.sys, "executable", "/bin/false")
    with pytest.raises(CommonfleetError, match="does not start"):
        outcomes(forty)


def test_the_processes_end_when_the_caller_stops_asking(forty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "_BATCH_FILES", 1)
    reading = read([forty], limits=PATIENT, workers=2)
    assert isinstance(next(reading).cases, pa.Table)
    reading.close()
    children = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    alive = [Path(f"/proc/{pid}/cmdline").read_bytes() for pids in children for pid in pids]
    assert not [one for one in alive if b"readers.child" in one]
