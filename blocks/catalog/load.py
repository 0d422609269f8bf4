"""Reading the catalog: every `*.yaml` of a folder becomes one checked `Catalog`.

The top-level keys (builds, environments, suites, pools, profiles, quarantine) may be spread over the files as reads
best. All mistakes are told at once, each as `file:line: what is wrong. What would be right.`
"""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

import blocks
from blocks.catalog.document import Document, Mistake, Place, read_document
from blocks.catalog.mistakes import closest, from_validation
from blocks.catalog.models import AnyBuild, Catalog, EnvironmentSpec, Name, PoolSpec, Profile, Quarantined, SuiteSpec
from blocks.catalog.profiles import flatten
from blocks.catalog.references import Entry, Sections, check_references
from blocks.errors import CatalogError

MODELS: dict[str, Any] = {
    "builds": AnyBuild,
    "environments": EnvironmentSpec,
    "suites": SuiteSpec,
    "pools": PoolSpec,
    "profiles": Profile,
}
MAX_FILES = 256


@dataclass(frozen=True)
class Loaded:
    """A catalog, the folder that its paths are relative to, and what somebody should look at soon."""

    catalog: Catalog
    root: Path
    warnings: tuple[str, ...]


def default_root() -> Path:
    """The catalog that ships with commonfleet, or the one that COMMONFLEET_CATALOG names."""
    chosen = os.environ.get("COMMONFLEET_CATALOG")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(blocks.__file__).parent.parent / "deployments" / "catalog"


def load_catalog(root: Path) -> Catalog:
    """The catalog in `root`. Raises CatalogError naming every mistake with its file and line."""
    return read_catalog(root).catalog


def read_catalog(root: Path, *, today: datetime.date | None = None) -> Loaded:
    """The catalog in `root` with its warnings (quarantine entries that have expired by `today`).

    Raises CatalogError naming every mistake with its file and line.
    """
    mistakes: list[Mistake] = []
    documents = [read_document(file, mistakes) for file in _files(root)]
    sections = _merge(documents, mistakes)
    quarantine = _quarantine(documents, mistakes)
    for name, model in MODELS.items():
        for entry in sections[name].values():
            entry.model = _validated(entry, model, mistakes)
    if all(document.readable for document in documents):  # else half of the names would seem to be missing
        check_references(sections, quarantine, root, mistakes)
    profiles = flatten(sections["profiles"], mistakes)
    if mistakes:
        raise _refusal(root, mistakes)
    catalog = Catalog(
        **{name: {key: entry.model for key, entry in sections[name].items()} for name in MODELS if name != "profiles"},
        profiles=profiles,
        quarantine=[entry.model for entry in quarantine],
    )
    return Loaded(catalog, root, tuple(_expired(quarantine, today or datetime.datetime.now(datetime.UTC).date())))


def _files(root: Path) -> list[Path]:
    files = sorted(root.glob("*.yaml"))
    if not files:
        raise CatalogError(
            f"There is no catalog in {root}: no *.yaml file stands there.",
            do="Set COMMONFLEET_CATALOG to the folder that holds it, or unset it for the one that ships.",
        )
    if len(files) > MAX_FILES:
        raise CatalogError(f"{root} holds {len(files)} YAML files; a catalog has at most {MAX_FILES}.")
    return files


def _merge(documents: list[Document], mistakes: list[Mistake]) -> Sections:
    """All entries by section and name; a name that two files give is a mistake that names both."""
    sections: Sections = {name: {} for name in MODELS}
    for document in documents:
        for key, content in document.data.items():
            place = document.place((key,))
            if key not in MODELS and key != "quarantine":
                mistakes.append(Mistake(place, f"`{key}` is no section.", closest(key, [*MODELS, "quarantine"])))
            elif key in MODELS and not isinstance(content, dict):
                if content is not None:
                    mistakes.append(Mistake(place, f"`{key}` should hold names, each with its keys."))
            elif key in MODELS:
                for name, body in content.items():
                    _add(sections[key], Entry(key, name, body, document, (key, name)), mistakes)
    return sections


def _add(section: dict[str, Entry], entry: Entry, mistakes: list[Mistake]) -> None:
    other = section.setdefault(entry.name, entry)
    if other is not entry:
        what = f"{entry.section[:-1]} `{entry.name}` stands twice: first at {other.place()}."
        mistakes.append(Mistake(entry.place(), what, "Keep one of them, or give one another name."))


def _quarantine(documents: list[Document], mistakes: list[Mistake]) -> list[Entry]:
    entries = []
    for document in documents:
        content = document.data.get("quarantine")
        if content is None:
            continue
        if not isinstance(content, list):
            mistakes.append(Mistake(document.place(("quarantine",)), "`quarantine` should be a list."))
            continue
        for index, body in enumerate(content):
            entry = Entry("quarantine", str(index), body, document, ("quarantine", index))
            entry.model = _validated(entry, Quarantined, mistakes)
            entries.append(entry)
    return entries


def _validated(entry: Entry, model: Any, mistakes: list[Mistake]) -> Any:
    try:
        TypeAdapter(Name).validate_python(entry.name)
        return TypeAdapter(model).validate_python(entry.body)
    except ValidationError as error:
        mistakes.extend(from_validation(error, model, entry.document, entry.loc))
        return None


def _expired(quarantine: list[Entry], today: datetime.date) -> list[str]:
    return [
        f"{entry.place()}: the quarantine of `{entry.model.test}` ({entry.model.suite}) expired on "
        f"{entry.model.expires}: it gates again. {entry.model.owner} should renew or remove the entry."
        for entry in quarantine
        if entry.model.expires < today
    ]


def _refusal(root: Path, mistakes: list[Mistake]) -> CatalogError:
    def order(mistake: Mistake) -> tuple[str, int]:
        place: Place = mistake.place
        return str(place.file), place.line

    told = list(dict.fromkeys(str(mistake) for mistake in sorted(mistakes, key=order)))
    count = "a mistake" if len(told) == 1 else f"{len(told)} mistakes"
    return CatalogError(
        f"The catalog in {root} has {count}:\n" + "\n".join(f"  {line}" for line in told) + "\n",
        kept="Nothing was started.",
        do="Correct the files and try again.",
    )
