"""All kinds of pools by name. A new one is a file in this folder and a line here."""

from __future__ import annotations

from collections.abc import Callable

from blocks.catalog.models import PoolSpec
from blocks.errors import PlanError
from blocks.pools import local
from blocks.pools.base import Ground, Pool

KINDS: dict[str, Callable[[str, PoolSpec, Ground], Pool]] = {"local": local.open_pool}
"""kind -> what makes a pool of it, from its name and entry in the catalog. Opening asks nobody for anything."""


def open_pool(name: str, spec: PoolSpec, ground: Ground) -> Pool:
    """The pool of that name. Raises PlanError for a kind that this version does not have."""
    if spec.kind not in KINDS:
        raise PlanError(
            f"The pool `{name}` is of kind {spec.kind}, which this version cannot take machines from.",
            do=f"Use a pool of kind {' or '.join(KINDS)}.",
        )
    return KINDS[spec.kind](name, spec, ground)
