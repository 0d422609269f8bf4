"""What a part must look like to be believed: the tables below, and the plan's names for its tests.

A part comes from a machine, and what stands in it reaches SQL, Parquet and every query. It is checked whole before any
of it is kept, so that admission and the cutting of segments never disagree.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from blocks.errors import ProtocolError, TrustError
from blocks.lease import NAME_CHARACTERS, OUTCOMES, PROTOCOL, Part
from blocks.ledger.results import spellings
from blocks.ledger.rows import Origin, Rows
from tasks.collect.shapes import LAST_INT32, Unfit, listed, maybe, number, shape, table, text, whole, word

PART_BYTES = 256 << 20
NAME, TEST, MESSAGE, NOTE, OUTPUT = NAME_CHARACTERS, 8_000, 1 << 20, 20_000, 64 << 20
"""Longest texts that are believed, in characters. The runner's own caps (messages and notes of 16 Ki) lie below."""

_YEAR_10000 = 253_402_300_799.0  # no database shows a later time


# -- the tables --------------------------------------------------------------------------------------------------------

_OUTCOME, _SECONDS, _COUNT = word(*OUTCOMES), number(0), whole(0)
_RESULT = shape(
    {"file": text(NAME), "cls": text(NAME), "name": text(NAME, 1), "outcome": _OUTCOME, "seconds": maybe(_SECONDS)},
    optional={"message": maybe(text(MESSAGE))},
)
_METRIC = shape(
    {"model": text(NAME), "mode": text(NAME), "name": text(NAME), "value": number(), "unit": text(NAME)},
    optional={"low": maybe(number()), "high": maybe(number()), "samples": maybe(listed(number(), 1_000_000))},
)
_PROCESS = shape(
    {"argv": listed(text(1 << 20), 10_000), "exit": maybe(whole(-LAST_INT32)), "signal": maybe(_COUNT),
     "seconds": _SECONDS},
    optional={"env": table(text(NAME), 1000, key=text(NAME, 1))},
)  # fmt: skip
_ATTEMPT = shape(
    {
        "ordinal": whole(1, 100_000),
        "mode": word("company", "alone"),
        "test": maybe(text(TEST, 1)),
        "started": number(0, _YEAR_10000),
        "seconds": _SECONDS,
        "outcome": _OUTCOME,
        "results": listed(_RESULT, 1_000_000),
        "metrics": listed(_METRIC, 1_000_000),
        "processes": listed(_PROCESS, 1_000_000),
        "output": text(OUTPUT),
        "output_bytes": _COUNT,
        "isolation": text(NAME),
        "peak_memory_bytes": maybe(_COUNT),
        "survivors": _COUNT,
        "note": text(NOTE),
    }
)
_RECORD = shape({"unit": text(200, 1), "seq": _COUNT, "attempts": listed(_ATTEMPT, 100_000, 1)})
_part = shape(
    {
        "protocol": whole(PROTOCOL, PROTOCOL),
        "lease": text(200, 1),
        "part": whole(1, LAST_INT32),
        "records": listed(_RECORD, 100_000, 1),
    }
)


# -- the checks --------------------------------------------------------------------------------------------------------


def part_from(payload: bytes) -> Part:
    """The part in a signed payload. Raises ProtocolError for anything else, with the place and what belongs there."""
    if len(payload) > PART_BYTES:
        raise ProtocolError(f"A part of {len(payload)} bytes is too large; the limit is {PART_BYTES}.")
    try:
        value = json.loads(payload.decode(), parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"The part is no JSON that could be kept: {str(error)[:200]}.") from error
    try:
        _part(value)
    except Unfit as unfit:
        raise ProtocolError(f"The part is malformed: {unfit}.") from unfit
    part: Part = value
    units = [record["unit"] for record in part["records"]]
    if len(set(units)) != len(units):
        raise ProtocolError("A part tells of one unit twice.")
    for record in part["records"]:
        if [attempt["ordinal"] for attempt in record["attempts"]] != list(range(1, len(record["attempts"]) + 1)):
            raise ProtocolError("The attempts of a unit are numbered 1, 2, 3 in order.")
        for attempt in record["attempts"]:
            if attempt["mode"] == "alone" and (attempt["ordinal"] == 1 or attempt["test"] is None):
                raise ProtocolError("A try alone names its test, and follows one in company.")
    try:
        Rows().add(part, Origin("", "", part["lease"], part["part"], "", "", 0, "", ""))  # as the cutter will
    except TrustError as error:
        raise ProtocolError(f"The part is malformed: {error.__cause__!r}.") from error
    return part


def check_planned(part: Part, planned: Mapping[str, frozenset[str]]) -> None:
    """Only planned tests have results, and a try alone tells only of its own. Raises ProtocolError.

    `planned` has the names of `plan_names` for the units whose tests the plan lists. Without this, one unit's record
    could speak for tests of another.
    """
    for record in part["records"]:
        names = planned.get(record["unit"])
        if names is None:
            continue
        for attempt in record["attempts"]:
            alone = plan_name(attempt["test"] or "") if attempt["mode"] == "alone" else None
            if alone is not None and alone not in names:
                raise ProtocolError(f"{record['unit']} was tried alone with {alone[:200]!r}, which is not in its plan.")
            wanted = names if alone is None else {alone}
            for result in attempt["results"]:
                if wanted.isdisjoint(spellings(result["file"], result["cls"], result["name"])):
                    told = f"{result['file']}::{result['cls']}.{result['name']}"[:200]
                    why = "is not in the unit's plan" if alone is None else f"is not the one tried alone: {alone[:200]}"
                    raise ProtocolError(f"{record['unit']} has a result of {told!r}, which {why}.")


def plan_name(test: str) -> str:
    """A planned test's name as `spellings` writes it."""
    return test.replace("::", ".")


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _no_number(digits[:40])
