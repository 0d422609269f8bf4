"""Profiles that extend each other, made flat. A circle is a mistake that is shown as `a -> b -> a`."""

from __future__ import annotations

from blocks.catalog.document import Mistake
from blocks.catalog.models import Profile
from blocks.catalog.references import Entry


def flatten(entries: dict[str, Entry], mistakes: list[Mistake]) -> dict[str, Profile]:
    """Every profile with what it inherits. Those in or behind a circle, or with an unknown parent, are left out."""
    profiles = {name: entry.model for name, entry in entries.items() if entry.model is not None}
    flat: dict[str, Profile] = {}
    told: set[frozenset[str]] = set()
    for name in profiles:
        chain = ancestry(name, profiles)
        if chain[-1] in chain[:-1]:
            circle = chain[chain.index(chain[-1]) :]
            if frozenset(circle) not in told:
                told.add(frozenset(circle))
                what = f"profiles extend each other in a circle: {' -> '.join(circle)}."
                mistakes.append(Mistake(entries[circle[0]].place("extends"), what, "Remove one `extends`."))
        elif chain[-1] in profiles:
            flat[name] = _merged([profiles[link] for link in reversed(chain)])
    return flat


def ancestry(name: str, profiles: dict[str, Profile]) -> list[str]:
    """`name`, what it extends, what that extends, ...; ends with a repeated name where there is a circle."""
    chain = [name]
    while (profile := profiles.get(chain[-1])) is not None and profile.extends is not None:
        chain.append(profile.extends)
        if chain[-1] in chain[:-1]:
            break
    return chain


def _merged(oldest_first: list[Profile]) -> Profile:
    """The last one with everything that it does not say itself taken from those before it."""
    said: dict[str, object] = {}
    cells = {}
    for profile in oldest_first:
        said.update({key: getattr(profile, key) for key in profile.model_fields_set})
        cells.update({(cell.environment, cell.suite): cell for cell in profile.matrix})
    own = {"extends": oldest_first[-1].extends, "description": oldest_first[-1].description}
    return Profile.model_validate({**said, **own, "matrix": list(cells.values())})
