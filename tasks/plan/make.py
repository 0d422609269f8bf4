"""The plan of a profile: everything that a run is expected to account for, before anything runs.

A cell of the matrix becomes units in four steps: find the files (candidates.py), ask for their tests (discovery.py),
choose and cut them (select.py, split.py, units.py), then put an estimate on each (estimates.py). The first three depend
only on the catalog and the build, so the same work has the same plan id; the last only decides the order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from blocks.catalog.load import default_root
from blocks.catalog.mistakes import closest
from blocks.catalog.models import Catalog, Cell, Profile
from blocks.errors import PlanError
from blocks.plan import Plan, Skip, Unit, longest_first, with_estimate
from tasks.plan.candidates import find_candidates
from tasks.plan.discovery import Discover, list_all
from tasks.plan.estimates import NOTHING_MEASURED, Estimates
from tasks.plan.place import SourceTree, Unpacked
from tasks.plan.times import suite_times
from tasks.plan.units import Part, from_commands, from_listing, from_models, question

Progress = Callable[[str, int, int], None]
"""Hears (suite, files asked, files in all) while tests are being listed."""


def _quiet(suite: str, done: int, total: int) -> None: ...


async def make_plan(
    catalog: Catalog,
    profile: str,
    *,
    environments: Mapping[str, Unpacked],
    sources: Mapping[str, SourceTree],
    discover: Discover,
    root: Path | None = None,
    estimates: Estimates = NOTHING_MEASURED,
    cache: Path | None = None,
    at_once: int = 2,
    progress: Progress = _quiet,
) -> Plan:
    """The plan of `profile`. `environments` and `sources` say where builds and suites' own files are unpacked.

    `root` is the catalog's folder (times files are relative to it), `cache` where answers to `discover` are kept.
    Raises PlanError for an unknown profile, a missing environment, or when nothing would run.
    """
    chosen = chosen_profile(catalog, profile)
    units: list[Unit] = []
    left_out: list[Skip] = []
    for cell in chosen.matrix:
        part = _part(catalog, cell, environments, sources, root or default_root())
        for made in await _planned(part, discover, cache, at_once, progress):
            if isinstance(made, Skip):
                left_out.append(made)
            else:
                units.append(_estimated(made, estimates))
    if not units:
        raise PlanError(
            f"Nothing would run: the profile `{profile}` gives no unit.",
            do="Look at the filters and samples of its matrix.",
        )
    used = {cell.environment for cell in chosen.matrix}
    return Plan(
        environments=tuple(environments[name].environment for name in sorted(used)),
        units=longest_first(units),
        left_out=tuple(left_out),
        sources={cell.suite: sources[cell.suite].digest for cell in chosen.matrix if cell.suite in sources},
    )


def chosen_profile(catalog: Catalog, profile: str) -> Profile:
    """The profile of that name. Raises PlanError."""
    if profile not in catalog.profiles:
        raise PlanError(f"There is no profile `{profile}`.", do=closest(profile, catalog.profiles))
    return catalog.profiles[profile]


def _part(
    catalog: Catalog,
    cell: Cell,
    environments: Mapping[str, Unpacked],
    sources: Mapping[str, SourceTree],
    root: Path,
) -> Part:
    suite = catalog.suites[cell.suite]
    if cell.environment not in environments:
        raise PlanError(f"The build of environment `{cell.environment}` is not unpacked, so nothing can be listed.")
    if suite.sources is not None and cell.suite not in sources:
        raise PlanError(f"The files of suite `{cell.suite}` are not unpacked, so nothing can be listed.")
    environment = catalog.environments[cell.environment]
    times = suite_times(suite, root, job=cell.environment, config=environment.config)
    return Part(cell, suite, environment, environments[cell.environment], sources.get(cell.suite), times)


async def _planned(
    part: Part, discover: Discover, cache: Path | None, at_once: int, progress: Progress
) -> Iterable[Unit | Skip]:
    if part.suite.kind == "command":
        return from_commands(part)
    if part.suite.kind == "benchmark":
        return from_models(part, await _models(part, discover, cache))
    folder = part.on.root if part.suite.kind == "gtest" or part.sources is None else part.sources.root
    found = await asyncio.to_thread(find_candidates, folder, part.cell.suite, part.suite)
    total = len(found.files)
    progress(part.cell.suite, 0, total)
    listings = await list_all(
        [question(part, candidate.path) for candidate in found.files],
        discover,
        cache=cache,
        at_once=at_once,
        done=lambda answered: progress(part.cell.suite, answered, total),
    )
    made: list[Unit | Skip] = [part.skip(path, reason) for path, reason in found.left_out]
    for candidate, listing in zip(found.files, listings, strict=True):
        made.extend(from_listing(part, candidate, listing))
    return made


async def _models(part: Part, discover: Discover, cache: Path | None) -> list[str]:
    """The suite's models; where the catalog names none, what the script says it has."""
    if part.suite.models:
        return part.suite.models
    script = part.suite.script or ""
    (listing,) = await list_all([question(part, script)], discover, cache=cache, at_once=1)
    if not listing.tests:
        raise PlanError(
            f"Suite `{part.cell.suite}`: {script} does not say which models it has. {listing.error}".rstrip(),
            do="Name them in the suite's `models`.",
        )
    return list(listing.tests)


def _estimated(unit: Unit, estimates: Estimates) -> Unit:
    seconds = estimates.seconds(unit.suite, unit.environment, unit.name, max(1, len(unit.tests)))
    return unit if seconds is None else with_estimate(unit, seconds)
