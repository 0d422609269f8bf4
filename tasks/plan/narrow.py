"""Narrowing a profile to what somebody asked for. Each wish takes away; none adds what the profile lacks."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from blocks.catalog.mistakes import closest
from blocks.catalog.models import Catalog, Cell
from blocks.errors import PlanError
from tasks.plan.make import chosen_profile


def narrow(
    catalog: Catalog,
    profile: str,
    *,
    suites: Sequence[str] = (),
    environments: Sequence[str] = (),
    include: Sequence[str] = (),
    sample: float = 1.0,
    retry_alone: int | None = None,
) -> Catalog:
    """The catalog with `profile` cut down: only these suites, environments (globs), tests (globs), and share of them.

    Raises PlanError for a suite that the profile lacks, or when no cell of the matrix is left.
    """
    chosen = chosen_profile(catalog, profile)
    there = sorted({cell.suite for cell in chosen.matrix})
    for suite in suites:
        if suite not in there:
            raise PlanError(f"The profile `{profile}` has no suite `{suite}`.", do=closest(suite, there))
    cells = [
        _cut(cell, include, sample)
        for cell in chosen.matrix
        if (not suites or cell.suite in suites)
        and (not environments or any(fnmatchcase(cell.environment, glob) for glob in environments))
    ]
    if not cells:
        raise PlanError(
            f"No environment of the profile `{profile}` matches {', '.join(environments)}.",
            do=f"It has {', '.join(sorted({cell.environment for cell in chosen.matrix}))}.",
        )
    changed = catalog.model_copy(
        update={"profiles": {**catalog.profiles, profile: chosen.model_copy(update={"matrix": cells})}}
    )
    if retry_alone is None:
        return changed
    suites_ = {name: suite.model_copy(update={"retry_alone": retry_alone}) for name, suite in catalog.suites.items()}
    return changed.model_copy(update={"suites": suites_})


def _cut(cell: Cell, include: Sequence[str], sample: float) -> Cell:
    tier = cell.tier.model_copy(update={"sample": cell.tier.sample * sample})
    # A test must match the profile's globs and the wish's: the wish replaces an empty list and narrows no other.
    return cell.model_copy(update={"tier": tier, "include": list(include) or cell.include})
