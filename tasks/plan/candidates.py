"""Which files of a suite may hold tests, and which were declared to be none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from blocks.catalog.models import SuiteSpec
from blocks.errors import PlanError


@dataclass(frozen=True)
class Candidate:
    """A file that may hold tests: its path below the root, and the name that people and times files use."""

    path: str
    name: str


@dataclass(frozen=True)
class Candidates:
    files: tuple[Candidate, ...]
    left_out: tuple[tuple[str, str], ...]
    """(path, reason) of files that match a glob and are declared to be no tests."""


def find_candidates(root: Path, suite_name: str, suite: SuiteSpec) -> Candidates:
    """The suite's globs applied to `root`. Raises PlanError where nothing at all matches: a typo must not look like a
    suite that passed."""
    paths = sorted({path for pattern in suite.files for path in _matching(root, pattern)})
    left_out = [(path, reason) for path in paths if (reason := _declared(path, suite.left_out))]
    omitted = {path for path, _ in left_out}
    files = [path for path in paths if path not in omitted]
    if not paths:
        raise PlanError(
            f"Suite `{suite_name}`: nothing in {root} matches {', '.join(suite.files)}.",
            do="Correct the suite's `files` in the catalog, or take it out of the profile.",
        )
    return Candidates(tuple(_named(files, suite.kind)), tuple(left_out))


def _matching(root: Path, pattern: str) -> Iterable[str]:
    try:
        found = [path for path in root.glob(pattern) if path.is_file()]
    except (ValueError, NotImplementedError) as error:  # an empty or absolute pattern
        raise PlanError(f"`{pattern}` is no glob: {error}.", do="Correct `files` in the catalog.") from error
    return (path.relative_to(root).as_posix() for path in found)


def _declared(path: str, left_out: dict[str, str]) -> str | None:
    name = path.rsplit("/", 1)[-1]
    for pattern, reason in left_out.items():
        if fnmatchcase(path, pattern) or fnmatchcase(name, pattern):
            return reason
    return None


def _named(paths: list[str], kind: str) -> Iterable[Candidate]:
    """Binaries are called by their last name where that is clear; pytest files keep their path (it is in node ids)."""
    last_names = Counter(path.rsplit("/", 1)[-1] for path in paths)
    for path in paths:
        last = path.rsplit("/", 1)[-1]
        yield Candidate(path, last if kind == "gtest" and last_names[last] == 1 else path)
