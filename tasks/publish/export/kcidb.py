"""KCIDB v5.3: checkouts, their builds, and the tests that ran on those.

Ids are `origin:local-id` and the same however often a run is exported: a checkout and a build are named after the
digest of our build, a test after run, environment and test id. One object stands for each test of a run in an
environment, with the status of its final result; where several units have the test, the most serious status stands
(KCIDB's own order). What was planned and did not come about is told as well: a unit that was lost or not run, and a
planned test without a result, are MISS; what was skipped or left out of the plan is SKIP. Figures of benchmarks are
tests that are DONE, with a `number`.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import select

from blocks.canonical import canonical_json
from blocks.errors import CommonfleetError
from blocks.ledger import Ledger
from blocks.ledger.completeness import missing_tests, unit_counts
from blocks.ledger.query import Reader, open_query
from blocks.ledger.schema import builds, plan_units, plans, runs, settlements, units
from tasks.publish.export.written import listed
from tasks.publish.summary import iso

VERSION = {"major": 5, "minor": 3}
EXCERPT = 16_384
"""The longest `log_excerpt` that KCIDB takes, in characters."""

PRIORITY = ("FAIL", "ERROR", "MISS", "PASS", "DONE", "SKIP")
"""KCIDB's statuses, the one that stands for many first."""

STATUS = {
    "failed": "FAIL",  # it completed, and says that the code is at fault
    "error": "ERROR",  # it did not complete: whether the code is at fault is unknown
    "crashed": "ERROR",
    "timed_out": "ERROR",
    "passed": "PASS",
    "xfailed": "PASS",
    "xpassed": "PASS",
    "skipped": "SKIP",
}
OF_A_UNIT = {"lost": "MISS", "not_run": "MISS", "skipped": "SKIP"}
"""Of the planned tests of a unit that did not run."""

_ORIGIN = re.compile("[a-z0-9_]+")
_RESULTS = f"""SELECT environment, suite, test_id, any_value(test) AS test, any_value(file) AS file,
        any_value(cls) AS cls, any_value(name) AS name, min(started) AS started, sum(seconds) AS seconds,
        list(DISTINCT outcome) AS outcomes, arg_min(message, list_position({list(STATUS)}, outcome)) AS message,
        any_value(machine) AS machine, any_value(pool) AS pool, any_value(vendor) AS vendor
    FROM results WHERE final GROUP BY environment, suite, test_id ORDER BY environment, suite, test_id"""
_METRICS = """SELECT environment, suite, model, variant, metric, value, measured_in, low, high, samples, started,
        machine, pool, vendor, attempt FROM metrics ORDER BY environment, suite, model, variant, metric, attempt"""
_VERDICTS = "SELECT environment, suite, test, cause, gates FROM verdicts"


def pieces(ledger: Ledger, run: str, origin: str) -> Iterator[str]:
    """The document, piece by piece. Raises CommonfleetError for an origin that KCIDB would refuse."""
    if not _ORIGIN.fullmatch(origin):
        raise CommonfleetError(
            f"{origin!r} cannot be an origin of KCIDB.", do="Use lower-case letters, digits and underscores."
        )
    return _pieces(ledger, run, origin)


def _pieces(ledger: Ledger, run: str, origin: str) -> Iterator[str]:
    made = _builds(ledger, run)
    yield f'{{"version": {json.dumps(VERSION)},\n"checkouts": '
    yield from listed(_checkout(origin, *entry) for entry in made.items())
    yield ',\n"builds": '
    yield from listed(_build(origin, *entry) for entry in made.items())
    yield ',\n"tests": '
    yield from listed(_tests(ledger, run, origin))
    yield "}\n"


# -- builds --------------------------------------------------------------------------------------------------------


def _builds(ledger: Ledger, run: str) -> dict[str, dict[str, Any]]:
    """The builds of the run's environments, by digest, with what is known of their sources."""
    with ledger.read() as connection:
        document = connection.scalar(
            select(plans.c.document).join(runs, runs.c.plan == plans.c.id).where(runs.c.id == run)
        )
        environments = json.loads(document)["environments"] if document else []
        found: dict[str, dict[str, Any]] = {}
        for environment in environments:
            known = found.setdefault(
                environment["build_digest"], {"name": environment["build"], "environments": [], "manifest": {}}
            )
            known["environments"].append(environment)
        rows = connection.execute(select(builds).where(builds.c.digest.in_(list(found)))).all()
    for row in rows:
        found[row.digest] |= {
            "manifest": json.loads(row.manifest),
            "created": row.created,
            "sources": _sources(ledger, row.provenance),
        }
    return found


def _sources(ledger: Ledger, provenance: str) -> list[dict[str, Any]]:
    """What went into a build, as its provenance names it; nothing where that is not in the store any more."""
    try:
        data = ledger.store.get(provenance)
        envelope = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        statement = json.loads(base64.b64decode(envelope["payload"]))
        return list(statement["predicate"]["buildDefinition"]["resolvedDependencies"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _checkout(origin: str, digest: str, known: Mapping[str, Any]) -> dict[str, Any]:
    git: Mapping[str, Any] = next((one for one in known.get("sources", ()) if "gitCommit" in one.get("digest", {})), {})
    commit = git.get("digest", {}).get("gitCommit", "")
    url = str(git.get("uri", "")).removeprefix("git+").partition("@")[0]
    return {
        "id": f"{origin}:{_short(digest)}",
        "origin": origin,
        "tree_name": known["name"],
        "git_commit_hash": commit if re.fullmatch("[0-9a-f]{40}", commit) else None,
        "git_repository_url": url if url.startswith("https://") else None,
        "start_time": iso(known.get("created")),
        "valid": True,
        "misc": {"version": known["manifest"].get("version") or None},
    }


def _build(origin: str, digest: str, known: Mapping[str, Any]) -> dict[str, Any]:
    arch = str(known["manifest"].get("runtime", {}).get("arch", ""))
    return {
        "id": f"{origin}:{_short(digest)}",
        "checkout_id": f"{origin}:{_short(digest)}",
        "origin": origin,
        "start_time": iso(known.get("created")),
        "architecture": arch if re.fullmatch("[a-z0-9_]+", arch) else None,
        "config_name": known["name"],
        "status": "PASS",
        "misc": {"digest": digest, "environments": [environment["name"] for environment in known["environments"]]},
    }


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:32]


# -- tests ---------------------------------------------------------------------------------------------------------


def _tests(ledger: Ledger, run: str, origin: str) -> Iterator[dict[str, Any]]:
    with ledger.read() as connection:
        document = connection.scalar(
            select(plans.c.document).join(runs, runs.c.plan == plans.c.id).where(runs.c.id == run)
        )
    plan = json.loads(document) if document else {"environments": [], "left_out": []}
    made = {one["name"]: f"{origin}:{_short(one['build_digest'])}" for one in plan["environments"]}
    context = _Context(run, origin, made, {one["name"]: one for one in plan["environments"]})
    with open_query(ledger, f"{_RESULTS} {_METRICS} {_VERDICTS} units", runs=[run]) as reader:
        verdicts = {row[:3]: {"cause": row[3], "gates": row[4]} for row in reader.rows(_VERDICTS)}
        for rows in reader.stream(_RESULTS)[1]:
            for row in rows:
                yield _result(context, row, verdicts.get((row["environment"], row["suite"], row["test"])))
        for rows in reader.stream(_METRICS)[1]:
            yield from (_metric(context, row) for row in rows)
        yield from _silent(ledger, reader, context)
    for skip in plan.get("left_out", ()):
        yield context.test(
            skip["environment"], skip["suite"], skip["name"], "SKIP", what="left_out", why=skip["reason"]
        )


class _Context:
    """What every test of a run shares."""

    def __init__(self, run: str, origin: str, made: Mapping[str, str], environments: Mapping[str, Any]) -> None:
        self.run, self._origin, self._made, self._environments = run, origin, made, environments

    def test(
        self, environment: str, suite: str, name: str, status: str, *, identity: str = "", what: str = "", why: str = ""
    ) -> dict[str, Any]:
        """A test object; without an `identity` of its own it is named after what is said here."""
        local = identity or hashlib.sha256(canonical_json([suite, name, what, why])).hexdigest()[:32]
        facts = {key: value for key, value in self._environments.get(environment, {}).items() if value}
        return {
            "id": f"{self._origin}:{self.run}/{environment}/{local}",
            "build_id": self._made.get(environment, f"{self._origin}:unknown"),
            "origin": self._origin,
            "path": path(suite, *name.replace("::", "\n").split("\n")),
            "comment": name,
            "status": status,
            "environment": {"comment": environment, "misc": facts},
            "log_excerpt": why[:EXCERPT] or None,
            "misc": {"run": self.run, "suite": suite, "what": what or None},
        }


def path(*parts: str) -> str:
    """A dot-separated path of words that KCIDB allows: every other character is an underscore."""
    words = (re.sub("[^a-zA-Z0-9_-]+", "_", word) for part in parts for word in part.split("."))
    return ".".join(word for word in words if word)


def _result(context: _Context, row: Mapping[str, Any], verdict: Mapping[str, Any] | None) -> dict[str, Any]:
    statuses = {STATUS.get(outcome, "ERROR") for outcome in row["outcomes"]}
    status = min(statuses, key=PRIORITY.index)
    body = context.test(row["environment"], row["suite"], row["test"], status, identity=row["test_id"])
    body["path"] = path(row["suite"], row["file"], row["cls"], row["name"])
    body |= {
        "start_time": row["started"],
        "duration": row["seconds"],
        "log_excerpt": (row["message"] or "")[-EXCERPT:] or None,
    }
    body["misc"] |= {"outcomes": sorted(row["outcomes"]), "verdict": verdict, "test_id": row["test_id"]}
    body["environment"]["misc"] |= {key: row[key] for key in ("machine", "pool", "vendor")}
    return body


def _metric(context: _Context, row: Mapping[str, Any]) -> dict[str, Any]:
    name = "::".join(part for part in (row["model"], row["variant"], row["metric"]) if part)
    body = context.test(row["environment"], row["suite"], name, "DONE", what=row["attempt"])
    number = {
        "value": row["value"],
        "unit": row["measured_in"],
        "prefix": "binary" if row["measured_in"] == "bytes" else "metric",
    }
    body |= {"number": number, "start_time": row["started"]}
    body["misc"] |= {key: row[key] for key in ("low", "high", "samples")}
    body["environment"]["misc"] |= {key: row[key] for key in ("machine", "pool", "vendor")}
    return body


def _silent(ledger: Ledger, reader: Reader, context: _Context) -> Iterator[dict[str, Any]]:
    """The planned tests that have no result: those of units that did not run, and those that are missing."""
    with ledger.read() as connection:
        counts = unit_counts(connection, [context.run])
        standing: dict[str, tuple[str, str]] = {}
        query = select(settlements).where(settlements.c.run == context.run, settlements.c.terminal != "ran")
        for row in connection.execute(query.order_by(settlements.c.ordinal)):
            standing[row.unit] = (row.terminal, row.reason)
        ran = select(settlements.c.unit).where(settlements.c.run == context.run, settlements.c.terminal == "ran")
        ended_well = set(connection.scalars(ran.where(settlements.c.ordinal > 1)))
        plan = connection.scalar(select(runs.c.plan).where(runs.c.id == context.run))
        seen = {unit for (unit,) in reader.rows("SELECT DISTINCT unit FROM results")}
        for unit in sorted(standing.keys() - ended_well - seen):
            body = connection.scalar(
                select(plan_units.c.body).where(plan_units.c.plan == plan, plan_units.c.unit == unit)
            )
            terminal, reason = standing[unit]
            planned = json.loads(body or "{}")
            for test in planned.get("tests") or [planned.get("name", unit)]:
                where = (planned.get("environment", ""), planned.get("suite", ""), test)
                yield context.test(*where, OF_A_UNIT[terminal], what=f"unit {terminal}", why=reason)
        _, missing = missing_tests(connection, reader, context.run, counts)
        for one in missing:
            yield context.test(one.environment, one.suite, one.test, "MISS", what="no result")
        open_units = select(units.c.environment, units.c.suite, units.c.name).where(
            units.c.run == context.run, units.c.state != "terminal"
        )
        for environment, suite, name in connection.execute(open_units):
            yield context.test(environment, suite, name, "MISS", what="unit open")
