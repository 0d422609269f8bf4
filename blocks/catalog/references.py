"""What the catalog's entries say about each other and about the files beside them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from blocks.catalog.document import Document, Loc, Mistake, Place
from blocks.catalog.mistakes import closest
from blocks.catalog.models import Cell, Profile, SuiteSpec

CLOUD = re.compile(r"\b(aws|ec2|amazonaws|gcp|gce|googleapis|googlecloud|azure|azureml)\b", re.IGNORECASE)
PROSE = frozenset({"description", "reason", "note", "left_out"})
"""Keys whose text is for people and may say what it likes."""

NEEDED: dict[str, tuple[str, ...]] = {
    "gtest": ("files",),
    "pytest": ("sources", "files"),
    "benchmark": ("sources", "script"),
    "command": ("commands",),
}
FOREIGN: dict[str, tuple[str, ...]] = {
    "gtest": ("models", "script", "commands"),
    "pytest": ("models", "script", "commands"),
    "benchmark": ("files", "commands"),
    "command": ("files", "models", "script"),
}


@dataclass
class Entry:
    """One named thing of the catalog as it stands in its file; `model` is set once it has been validated."""

    section: str
    name: str
    body: Any
    document: Document
    loc: Loc
    model: Any = None

    def place(self, *inner: str | int) -> Place:
        return self.document.place((*self.loc, *inner))


Sections = dict[str, dict[str, Entry]]


def check_references(sections: Sections, quarantine: list[Entry], root: Path, mistakes: list[Mistake]) -> None:
    """Add a mistake for each name that is not there, each missing file, and each cloud where none may be."""
    for check in (_environments, _suites, _builds, _profiles, _clouds):
        mistakes.extend(check(sections, root))
    mistakes.extend(_quarantined(sections, quarantine))


def _valid(section: dict[str, Entry]) -> Iterator[Entry]:
    return (entry for entry in section.values() if entry.model is not None)


def _unknown(sections: Sections, section: str, name: str, place: Place) -> Iterator[Mistake]:
    if name not in sections[section]:
        yield Mistake(place, f"there is no {section[:-1]} `{name}`.", closest(name, sections[section]))


def _environments(sections: Sections, _: Path) -> Iterator[Mistake]:
    for entry in _valid(sections["environments"]):
        yield from _unknown(sections, "builds", entry.model.build, entry.place("build"))


def _builds(sections: Sections, root: Path) -> Iterator[Mistake]:
    for entry in _valid(sections["builds"]):
        consumer = getattr(entry.model, "consumer", None)
        if consumer is not None and not (root / consumer).is_dir():
            yield Mistake(entry.place("consumer"), f"the folder {root / consumer} is missing.")


def _suites(sections: Sections, root: Path) -> Iterator[Mistake]:
    for entry in _valid(sections["suites"]):
        suite: SuiteSpec = entry.model
        for key in NEEDED[suite.kind]:
            if not getattr(suite, key):
                yield Mistake(entry.place(), f"suite `{entry.name}` is a {suite.kind} suite and needs `{key}`.")
        for key in FOREIGN[suite.kind]:
            if getattr(suite, key):
                yield Mistake(entry.place(key), f"`{key}` means nothing in a {suite.kind} suite.", "Remove it.")
        yield from _files(entry, suite, root)
        yield from _sample_by(entry, suite)


def _files(entry: Entry, suite: SuiteSpec, root: Path) -> Iterator[Mistake]:
    folder = root / (suite.sources or "")
    if suite.sources is not None and not folder.is_dir():
        yield Mistake(entry.place("sources"), f"the sources folder {folder} is missing.")
    elif suite.script is not None and not (folder / suite.script).is_file():
        yield Mistake(entry.place("script"), f"the script {folder / suite.script} is missing.")
    for key in ("times", "class_times"):
        name = getattr(suite, key)
        if name is None:
            continue
        try:
            content = json.loads((root / name).read_bytes())
        except OSError:
            yield Mistake(entry.place(key), f"the file {root / name} is missing.")
        except ValueError as error:
            yield Mistake(entry.place(key), f"{root / name} is no JSON: {error}.")
        else:
            if not isinstance(content, dict):
                yield Mistake(entry.place(key), f"{root / name} should be job -> config -> file -> seconds.")


def _sample_by(entry: Entry, suite: SuiteSpec) -> Iterator[Mistake]:
    if suite.sample_by is None:
        return
    try:
        groups = re.compile(suite.sample_by).groups
    except re.error as error:
        yield Mistake(entry.place("sample_by"), f"`{suite.sample_by}` is no regular expression: {error}.")
        return
    if groups != 1:
        yield Mistake(entry.place("sample_by"), f"it should have one group and has {groups}.", "Use (?:...) elsewhere.")


def _profiles(sections: Sections, _: Path) -> Iterator[Mistake]:
    for entry in _valid(sections["profiles"]):
        profile: Profile = entry.model
        if profile.extends is not None:
            yield from _unknown(sections, "profiles", profile.extends, entry.place("extends"))
        elif not profile.matrix or not profile.pools:
            key = "matrix" if not profile.matrix else "pools"
            yield Mistake(entry.place(), f"profile `{entry.name}` needs `{key}`.")
        for index, pool in enumerate(profile.pools):
            yield from _unknown(sections, "pools", pool, entry.place("pools", index))
        seen: dict[tuple[str, str], int] = {}
        for index, cell in enumerate(profile.matrix):
            yield from _cell(sections, cell, entry.place("matrix", index))
            first = seen.setdefault((cell.environment, cell.suite), index)
            if first != index:
                what = f"`{cell.suite}` on `{cell.environment}` stands twice: first at {entry.place('matrix', first)}."
                yield Mistake(entry.place("matrix", index), what, "Put the filters into one cell.")


def _cell(sections: Sections, cell: Cell, place: Place) -> Iterator[Mistake]:
    yield from _unknown(sections, "environments", cell.environment, place)
    yield from _unknown(sections, "suites", cell.suite, place)
    environment, suite = sections["environments"].get(cell.environment), sections["suites"].get(cell.suite)
    if environment is None or suite is None or environment.model is None or suite.model is None:
        return
    if environment.model.accelerator == "cpu" and suite.model.devices:
        what = f"`{cell.suite}` needs {suite.model.devices} devices and `{cell.environment}` has none."
        yield Mistake(place, what, "Take an environment with an accelerator.")


def _quarantined(sections: Sections, quarantine: list[Entry]) -> Iterator[Mistake]:
    for entry in quarantine:
        if entry.model is None:
            continue
        yield from _unknown(sections, "suites", entry.model.suite, entry.place("suite"))
        for index, pattern in enumerate(entry.model.environments):
            if not any(fnmatchcase(name, pattern) for name in sections["environments"]):
                place = entry.place("environments", index)
                yield Mistake(place, f"no environment matches `{pattern}`.", closest(pattern, sections["environments"]))


def _clouds(sections: Sections, _: Path) -> Iterator[Mistake]:
    """Builds, environments, suites and the matrix are portable: they say what is needed, pools say what there is."""
    for section in ("builds", "environments", "suites"):
        for entry in sections[section].values():
            yield from _cloud(entry, (), {entry.name: entry.body})
    for entry in sections["profiles"].values():
        if isinstance(entry.body, dict):
            yield from _cloud(entry, ("matrix",), entry.body.get("matrix"))


def _cloud(entry: Entry, loc: Loc, value: Any) -> Iterator[Mistake]:
    if isinstance(value, dict):
        for key, inner in value.items():
            at = loc if key == entry.name and not loc else (*loc, key)
            yield from _cloud(entry, at, key)
            if key not in PROSE:
                yield from _cloud(entry, at, inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _cloud(entry, (*loc, index), inner)
    elif isinstance(value, str) and (found := CLOUD.search(value)):
        what = f"`{value[:80]}` names a cloud (`{found[0]}`)."
        right = "Builds, suites and the matrix say what is needed; only pools say where it comes from."
        yield Mistake(entry.place(*loc), what, right)
