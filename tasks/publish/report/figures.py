"""What results and metrics say in sum: outcomes per suite and environment, the slowest tests, the benchmark tables."""

from __future__ import annotations

from collections import defaultdict

from blocks.ledger.query import Reader
from tasks.publish.report.story import BenchmarkTable, Figure, SlowTest

SLOWEST = 20
MODELS = 200
"""How many models one benchmark table shows."""
COLUMNS = 40

_ORDER = ("latency", "speedup", "train", "compile", "memory")
"""Metrics stand in the order of these words in their names, then as they are called."""
_VARIANTS = ("eager", "inductor")


def outcomes(reader: Reader, run: str) -> dict[tuple[str, str], dict[str, int]]:
    """(suite, environment) -> outcome -> tests that ended so. A test that was tried again alone counts by that try."""
    rows = reader.rows(
        """SELECT suite, environment, outcome, count(*) FROM results WHERE run = $run AND final
        GROUP BY ALL ORDER BY ALL""",
        {"run": run},
    )
    found: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for suite, environment, outcome, number in rows:
        found[suite, environment][outcome] = number
    return found


def in_company(reader: Reader, run: str) -> dict[str, int]:
    """outcome -> tests, before anything was tried again alone."""
    rows = reader.rows(
        "SELECT outcome, count(*) FROM results WHERE run = $run AND mode = 'company' GROUP BY ALL ORDER BY ALL",
        {"run": run},
    )
    return dict(rows)


def slow_tests(reader: Reader, run: str) -> tuple[SlowTest, ...]:
    """The slowest tests, each by its slowest try."""
    rows = reader.rows(
        """SELECT suite, environment, any_value(test), max(seconds) AS took, arg_max(outcome, seconds)
        FROM results WHERE run = $run AND seconds > 0
        GROUP BY suite, environment, test_id ORDER BY took DESC, test_id LIMIT $limit""",
        {"run": run, "limit": SLOWEST},
    )
    return tuple(SlowTest(*row) for row in rows)


def benchmarks(reader: Reader, run: str) -> tuple[BenchmarkTable, ...]:
    """A table per suite and environment; where a figure was measured twice, the later one stands."""
    rows = reader.rows(
        """SELECT suite, environment, model, metric, variant,
            arg_max({'value': value, 'unit': measured_in, 'low': low, 'high': high}, (started, attempt))
        FROM metrics WHERE run = $run AND isfinite(value)
        GROUP BY ALL ORDER BY suite, environment, model LIMIT $limit""",
        {"run": run, "limit": MODELS * COLUMNS},
    )
    tables: dict[tuple[str, str], dict[str, dict[tuple[str, str], Figure]]] = defaultdict(lambda: defaultdict(dict))
    for suite, environment, model, metric, variant, figure in rows:
        tables[suite, environment][model][metric, variant] = Figure(**figure)
    return tuple(_table(*where, models) for where, models in tables.items())


def _table(suite: str, environment: str, models: dict[str, dict[tuple[str, str], Figure]]) -> BenchmarkTable:
    columns = sorted({column for figures in models.values() for column in figures}, key=_rank)[:COLUMNS]
    return BenchmarkTable(suite, environment, tuple(columns), tuple(list(models.items())[:MODELS]))


def _rank(column: tuple[str, str]) -> tuple[int, bool, str, int, str]:
    metric, variant = column
    lowered = metric.lower()
    # "train" is looked for first: a train_speedup belongs beside the train step, not beside the speedup of inference.
    words = ("train", "compile", "memory", "latency", "speedup")
    place = next((_ORDER.index(word) for word in words if word in lowered), len(_ORDER))
    ordinal = _VARIANTS.index(variant) if variant in _VARIANTS else len(_VARIANTS)
    return place, "speedup" in lowered, lowered, ordinal, variant
