"""From admitted bundles to the columns of a segment: one row per result, one per metric. Without Arrow (`tables.py`),
so that a driver, which checks what it admits by laying it out, does not load it.

The rows of an attempt share its facts, so those are laid out once per attempt and spread over its results by
index. What the orchestrator knows (machine, pool, vendor, counted) comes from the records, never from the bundle.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from blocks.errors import TrustError
from blocks.lease import OUTCOMES, AttemptRecord, Metric, Part, Result, worst
from blocks.ledger.results import attempt_id, cap_message, display_name, test_id
from blocks.store import Store

ATTEMPT_COLUMNS = (
    "run", "environment", "suite", "unit", "unit_name", "planned", "attempt", "ordinal", "mode", "counted", "reason",
    "bundle", "lease", "part", "machine", "slot", "pool", "vendor", "started",
)  # fmt: skip
RESULT_COLUMNS = ("test_id", "file", "cls", "name", "test", "outcome", "seconds", "message", "final")
METRIC_COLUMNS = ("model", "variant", "metric", "value", "measured_in", "low", "high", "samples")


@dataclass(frozen=True)
class AttemptFacts:
    """What the records say of one attempt, and of its unit."""

    suite: str
    unit_name: str
    planned: int  # tests that the plan expects of the unit
    counted: bool
    reason: str


@dataclass(frozen=True)
class Origin:
    """Where a bundle came from, by our own records. `attempts` is keyed by (unit, ordinal)."""

    run: str
    environment: str
    lease: str
    part: int
    bundle: str
    machine: str
    slot: int
    pool: str
    vendor: str
    attempts: Mapping[tuple[str, int], AttemptFacts] = field(default_factory=dict)


_UNKNOWN = AttemptFacts("", "", 0, False, "no attempt on record")


def read_part(store: Store, digest: str) -> Part:
    """The part in the bundle with this digest. Its signature was checked at admission; the digest is checked here.

    Raises TrustError where the bundle is gone or is not what was admitted.
    """
    advice = "Restore the store from a backup; the part's rows are missing from every query until then."
    try:
        envelope = json.loads(gzip.decompress(store.get(digest)))
        part: Part = json.loads(_payload(envelope))
    except FileNotFoundError as error:
        raise TrustError(f"The admitted bundle {digest} is not in the store any more.", do=advice) from error
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise TrustError(f"The admitted bundle {digest} cannot be read: {error}.", do=advice) from error
    return part


def _payload(envelope: dict[str, Any]) -> bytes:
    return base64.b64decode(envelope["payload"])


class Rows:
    """Collects parts as columns, which `tables.py` makes into Arrow tables. `size` is about the bytes of text held."""

    def __init__(self) -> None:
        self.results = 0
        self.metrics = 0
        self.size = 0
        self.attempt_columns: dict[str, list[Any]] = {name: [] for name in ATTEMPT_COLUMNS}
        self.result_columns: dict[str, list[Any]] = {name: [] for name in RESULT_COLUMNS}
        self.metric_columns: dict[str, list[Any]] = {name: [] for name in METRIC_COLUMNS}
        self.attempt_of: dict[str, list[int]] = {"results": [], "metrics": []}

    def add(self, part: Part, origin: Origin) -> None:
        """Take in every attempt of a part, or nothing of it: TrustError where it is not shaped like one.

        One row of each test is `final`: it stands for the test in its unit. That is the last try alone where there
        was one, else the worst in company, so that counting final rows counts each test once.
        """
        columns = [
            *self.attempt_columns.values(),
            *self.result_columns.values(),
            *self.metric_columns.values(),
            *self.attempt_of.values(),
        ]
        lengths = [len(column) for column in columns]
        try:
            self._add(part, origin)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            for column, length in zip(columns, lengths, strict=True):
                del column[length:]
            raise TrustError(f"The admitted bundle {origin.bundle} is not shaped like a part: {error!r}.") from error
        self.results = len(self.attempt_of["results"])
        self.metrics = len(self.attempt_of["metrics"])

    def _add(self, part: Part, origin: Origin) -> None:
        for record in part["records"]:
            standing: dict[str, tuple[bool, int]] = {}  # test -> (was alone, row)
            for attempt in record["attempts"]:
                facts = origin.attempts.get((record["unit"], attempt["ordinal"]), _UNKNOWN)
                self._add_attempt(record["unit"], attempt, facts, origin)
                index = len(self.attempt_columns["run"]) - 1
                for result in attempt["results"]:
                    self._add_result(result, facts.suite)
                    self._stand(standing, attempt["mode"] == "alone")
                self.attempt_of["results"].extend([index] * len(attempt["results"]))
                for metric in attempt["metrics"]:
                    self._add_metric(metric)
                self.attempt_of["metrics"].extend([index] * len(attempt["metrics"]))

    def _add_attempt(self, unit: str, attempt: AttemptRecord, facts: AttemptFacts, origin: Origin) -> None:
        values = {
            "run": origin.run, "environment": origin.environment, "suite": facts.suite, "unit": _text(unit),
            "unit_name": facts.unit_name, "planned": facts.planned,
            "attempt": attempt_id(origin.lease, unit, attempt["ordinal"]),
            "ordinal": _int32(attempt["ordinal"]), "mode": _text(attempt["mode"]),
            "counted": facts.counted, "reason": facts.reason, "bundle": origin.bundle, "lease": origin.lease,
            "part": origin.part, "machine": origin.machine, "slot": origin.slot, "pool": origin.pool,
            "vendor": origin.vendor, "started": _microseconds(attempt["started"]),
        }  # fmt: skip
        for name, column in self.attempt_columns.items():
            column.append(values[name])

    def _add_result(self, result: Result, suite: str) -> None:
        file, cls, name = _text(result["file"]), _text(result["cls"]), _text(result["name"])
        message = cap_message(_text(result.get("message") or "")) or None
        column = self.result_columns
        column["test_id"].append(test_id(suite, file, cls, name))
        column["file"].append(file)
        column["cls"].append(cls)
        column["name"].append(name)
        column["test"].append(display_name(file, cls, name))
        # A word that we do not know must look bad, never good.
        column["outcome"].append(result["outcome"] if result["outcome"] in OUTCOMES else "error")
        column["seconds"].append(_seconds(result.get("seconds")))
        column["message"].append(message)
        column["final"].append(False)
        self.size += 200 + 2 * len(name) + len(message or "")

    def _stand(self, standing: dict[str, tuple[bool, int]], alone: bool) -> None:
        """Let the row added last stand for its test, if it says more than the one that does."""
        tests, outcomes, final = (
            self.result_columns["test_id"],
            self.result_columns["outcome"],
            self.result_columns["final"],
        )
        row = len(tests) - 1
        was_alone, before = standing.get(tests[row], (False, -1))
        if before >= 0 and (
            was_alone > alone or (not alone and worst([outcomes[before], outcomes[row]]) != outcomes[row])
        ):
            return
        if before >= 0:
            final[before] = False
        final[row] = True
        standing[tests[row]] = (alone, row)

    def _add_metric(self, metric: Metric) -> None:
        column = self.metric_columns
        column["model"].append(_text(metric["model"]))
        column["variant"].append(_text(metric["mode"]))
        column["metric"].append(_text(metric["name"]))
        column["value"].append(float(metric["value"]))
        column["measured_in"].append(_text(metric["unit"]))
        column["low"].append(_number(metric.get("low")))
        column["high"].append(_number(metric.get("high")))
        samples = metric.get("samples")
        column["samples"].append(None if samples is None else [float(sample) for sample in samples])
        self.size += 200 + 8 * len(samples or ())


def _text(value: object) -> str:
    """Text that has a UTF-8 form (a test may print a lone surrogate), the same one that canonical JSON gives it."""
    text = value if isinstance(value, str) else str(value)
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _seconds(value: object) -> float | None:
    """A duration that can be one; what cannot (negative, not a number) is unknown."""
    if isinstance(value, int | float) and math.isfinite(value) and value >= 0:
        return float(value)
    return None


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _int32(value: int) -> int:
    if not 0 <= value < 2**31:  # said here: Arrow would only say it when all parts are made into one column
        raise ValueError(f"{value} does not fit into its column")
    return int(value)


def _microseconds(seconds: float) -> int | None:
    """A wall-clock time as Arrow keeps it; one outside the years 1970 to 9999 (a broken clock) is unknown."""
    return int(seconds * 1_000_000) if 0 <= seconds < 253_402_300_800 else None
