"""No file breaks the reading of others, or of itself: each ends soon, in bounds, with the outcome that is right."""

from __future__ import annotations

import os
import resource

import pytest

from tasks.collect.readers import Limits, Reading, read
from tests.tasks.collect.readers import hostile
from tests.tasks.collect.readers.hostile import CORPUS, Hostile

SEED = int(os.environ.get("HOSTILE_SEED", "20260731"))
MOST_SECONDS = 5.0
MOST_BYTES = 1 << 30


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reading]:
    """Each file's reading. The clock on the wall is left out of it: the machine may be busy."""
    folder = tmp_path_factory.mktemp("hostile")
    print(f"HOSTILE_SEED={SEED}")
    hostile.write(folder, SEED)
    patient = Limits(seconds=100.0)
    assert patient.memory_bytes == MOST_BYTES
    readings = [one for batch in read([folder], workers=2, limits=patient) for one in batch.readings.values()]
    for path in folder.iterdir():
        path.unlink()  # 300 MB that pytest would keep
    by_name = {os.path.basename(reading.name): reading for reading in readings}
    assert len(by_name) == len(readings) == len(CORPUS), "a file has no outcome, or two"
    return by_name


def test_the_corpus_holds_at_least_40_files() -> None:
    assert len({one.name for one in CORPUS}) == len(CORPUS) >= 40


@pytest.mark.parametrize("one", CORPUS, ids=lambda one: one.name)
def test_every_hostile_file_ends_in_time_with_its_outcome(one: Hostile, outcomes: dict[str, Reading]) -> None:
    reading = outcomes[one.name]
    assert reading.outcome == one.outcome, reading
    if one.cases >= 0:
        assert reading.cases == one.cases, reading
    told = reading.why + " " + " ".join(f"{issue.kind} {issue.message}" for issue in reading.issues)
    assert one.tells in told, reading
    assert reading.seconds < MOST_SECONDS, "of a processor"
    assert reading.digest.startswith("sha256:")


def test_no_process_that_read_the_corpus_held_a_gigabyte(outcomes: dict[str, Reading]) -> None:
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert 0 < peak < MOST_BYTES
