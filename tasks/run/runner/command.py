"""The kind `command`: any program. Exit code 0 passes, 77 is skipped (as automake has it), everything else fails."""

from __future__ import annotations

from typing import Any, List, Mapping, Tuple

from . import process, single
from .output import Output
from .records import Json, result
from .workplace import Place

SKIPPED = 77


def run(
    place: Place,
    spec: Mapping[str, Any],
    name: str,
    limits: process.Limits,
    around: process.Surroundings,
    output: Output,
) -> Tuple[single.Single, List[Json]]:
    """One result, named after the unit."""
    argv = [fill(str(word), place) for word in spec["argv"]]
    done = single.run(lambda survivors: place.command(argv, survivors=survivors), limits, around, output)
    outcome = done.outcome(SKIPPED)
    seconds = done.ended.seconds if done.ended else None
    return done, [result("", "", name, outcome, seconds, None if outcome == "passed" else done.message())]


def fill(word: str, place: Place) -> str:
    """`{sources}`, `{build}` and `{python}` as they are on this machine; any other bracket is left as it is."""
    for key, value in (("sources", place.sources), ("build", place.build), ("python", place.python)):
        word = word.replace(f"{{{key}}}", value or "")
    return word
