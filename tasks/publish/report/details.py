"""What the ledger knows of single failing tests: their tries, what they printed, the command that shows them again."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import escape
from sqlalchemy import Connection, select

from blocks.errors import TrustError
from blocks.lease import BAD
from blocks.ledger.query import Reader
from blocks.ledger.schema import attempts, plan_units, plans, runs
from blocks.store import Store
from tasks.publish.report import facts
from tasks.publish.report.command import reproduce
from tasks.publish.report.story import Clip, Failure, Try
from tasks.publish.report.words import clip

MESSAGE = 6_000
OUTPUT = 8_000
COMMAND = 4_000
"""Characters of each that are shown. A command is shown whole or not at all."""

Key = tuple[str, str, str]
"""(suite, environment, test)"""


@dataclass(frozen=True)
class Standing:
    """The verdict that stands for a test; an empty cause where there is none yet."""

    cause: str
    gates: bool
    evidence: Mapping[str, Any]


@dataclass
class Budget:
    """Bytes that may still be put on the page, as they are when escaped."""

    left: int

    def clip(self, text: str, limit: int) -> Clip | None:
        """The text, clipped; None when there is none or no room for it."""
        clipped = clip(text, limit)
        return clipped if text and self.takes(clipped.head + clipped.tail) else None

    def takes(self, text: str) -> bool:
        """Whether there is room for the text, which is then used up."""
        needed = len(escape(text).encode("utf-8", "replace"))
        if needed > self.left:
            return False
        self.left -= needed
        return True


class Details:
    """What the ledger knows of the chosen tests, looked up in a few statements for all of them."""

    def __init__(self, connection: Connection, reader: Reader, store: Store, run: str, chosen: Sequence[Key]) -> None:
        self._store = store
        self._results = _results(reader, run, chosen)
        used = {result["attempt"] for results in self._results.values() for result in results}
        self._attempts = _attempts(connection, run, used)
        self._units = _units(connection, run, {row.unit for row in self._attempts.values()})
        self._builds = _builds(connection, run)
        self._shown: set[str] = set()

    def failure(self, key: Key, verdict: Standing, budget: Budget) -> Failure:
        suite, environment, test = key
        results = self._results.get(key, [])
        bad = [result for result in results if result["outcome"] in BAD]
        worst = next((result for result in bad if result["message"]), bad[0] if bad else None)
        told = bad[-1] if bad else None
        command = self._command(results)
        return Failure(
            suite=suite,
            environment=environment,
            test=test,
            unit=results[0]["unit_name"] if results else "",
            outcome=worst["outcome"] if worst else str(verdict.evidence.get("final", "unknown")),
            cause=verdict.cause,
            gates=verdict.gates,
            # The attempts stand as tries already.
            evidence=facts.flat({key: value for key, value in verdict.evidence.items() if key != "attempts"}),
            tries=tuple(Try(r["mode"], r["outcome"], r["seconds"], r["machine"]) for r in results[:12]),
            message=budget.clip((worst or {}).get("message") or "", MESSAGE),
            output=self._output(told, budget) if told else None,
            command=command if len(command) <= COMMAND and budget.takes(command) else "",
        )

    def _output(self, result: Mapping[str, Any], budget: Budget) -> Clip | None:
        """The output of the attempt, once: many tests of one process failed with the same output."""
        row = self._attempts.get(result["attempt"])
        if row is None or row.id in self._shown:
            return None
        self._shown.add(row.id)
        detail = facts.parsed(row.detail)
        text = str(detail.get("output_tail") or "") or self._stored(detail.get("output_digest"))
        # The end of an output says what happened; its beginning is the same for every unit.
        return budget.clip(text[-OUTPUT:], OUTPUT)

    def _stored(self, digest: Any) -> str:
        if not isinstance(digest, str):
            return ""
        try:
            return self._store.get(digest).decode("utf-8", "replace")
        except (FileNotFoundError, TrustError) as error:
            return f"(The output cannot be shown: {error})"

    def _command(self, results: Sequence[Mapping[str, Any]]) -> str:
        """From the try alone where there was one: it ran just this test."""
        ordered = sorted(results, key=lambda result: (result["mode"] != "alone", result["outcome"] not in BAD))
        for result in ordered:
            row = self._attempts.get(result["attempt"])
            unit = self._units.get(row.unit) if row else None
            processes = facts.parsed(row.detail).get("processes") if row else None
            if row is None or unit is None or not processes:
                continue
            test, build = row.test or test_of(unit["kind"], result), self._builds.get(unit["environment"], "")
            return reproduce(unit["kind"], unit["spec"], test, processes[-1], build)
        return ""


def test_of(kind: str, result: Mapping[str, Any]) -> str:
    """The name by which a kind knows a test; empty where a unit of it cannot be narrowed to one."""
    file, cls, name = result["file"], result["cls"], result["name"]
    if kind == "gtest":
        return f"{cls}.{name}" if cls else str(name)
    return "::".join(part for part in (file, cls, name) if part) if kind == "pytest" else ""


# pytest collects functions named test_*: this one is no test.
test_of.__test__ = False  # type: ignore[attr-defined]


def _results(reader: Reader, run: str, chosen: Sequence[Key]) -> dict[Key, list[dict[str, Any]]]:
    """Every counted result of the chosen tests, in order of time."""
    if not chosen:
        return {}
    rows = reader.dicts(
        """SELECT r.suite, r.environment, r.test, r.unit_name, r.attempt, r.mode, r.outcome, r.seconds, r.machine,
            r.file, r.cls, r.name, r.message
        FROM results r
        JOIN (SELECT unnest($suites) AS suite, unnest($environments) AS environment, unnest($tests) AS test) c
            ON c.suite = r.suite AND c.environment = r.environment AND c.test = r.test
        WHERE r.run = $run
        QUALIFY row_number() OVER (PARTITION BY r.suite, r.environment, r.test ORDER BY r.started, r.ordinal) <= 20
        ORDER BY r.started, r.ordinal, r.attempt""",
        {
            "run": run,
            "suites": [key[0] for key in chosen],
            "environments": [key[1] for key in chosen],
            "tests": [key[2] for key in chosen],
        },
    )
    found: dict[Key, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["suite"], row["environment"], row["test"]].append(row)
    return found


def _attempts(connection: Connection, run: str, ids: Iterable[str]) -> dict[str, Any]:
    return {
        row.id: row
        for some in _batches(sorted(ids))
        for row in connection.execute(
            select(attempts.c.id, attempts.c.unit, attempts.c.test, attempts.c.detail).where(
                attempts.c.run == run, attempts.c.id.in_(some)
            )
        )
    }


def _units(connection: Connection, run: str, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    plan = connection.scalar(select(runs.c.plan).where(runs.c.id == run))
    found = {}
    for some in _batches(sorted(ids), 50):
        query = select(plan_units.c.unit, plan_units.c.body).where(
            plan_units.c.plan == plan, plan_units.c.unit.in_(some)
        )
        for unit, body in connection.execute(query):
            found[unit] = {
                key: value for key, value in json.loads(body).items() if key in ("kind", "spec", "environment")
            }
    return found


def _builds(connection: Connection, run: str) -> dict[str, str]:
    """environment -> digest of its build."""
    query = select(plans.c.document).join(runs, runs.c.plan == plans.c.id).where(runs.c.id == run)
    document = facts.parsed(connection.scalar(query))
    return {environment["name"]: environment["build_digest"] for environment in document.get("environments", ())}


def _batches(ids: Sequence[str], size: int = 500) -> Iterator[Sequence[str]]:
    return (ids[at : at + size] for at in range(0, len(ids), size))
