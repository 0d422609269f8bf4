"""Saying what is wrong with a catalog entry, and what would be right, in words."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from blocks.catalog.document import Document, Loc, Mistake

NAMES = "Names are made of lower-case letters, digits, `.`, `_` and `-`, at most 63 of them."


def closest(name: str, known: Iterable[str]) -> str:
    """`Did you mean ...?` where something near is known, else what is known (at most a dozen)."""
    choices = sorted(set(known))
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.6)
    if near:
        return "Did you mean " + " or ".join(f"`{choice}`" for choice in near) + "?"
    if not choices:
        return "There is none."
    shown = ", ".join(f"`{choice}`" for choice in choices[:12])
    return f"There is {shown}{', ...' if len(choices) > 12 else ''}."


def from_validation(error: ValidationError, model: Any, document: Document, at: Loc) -> list[Mistake]:
    """Each of pydantic's complaints about the entry at `at`, with its line."""
    mistakes = []
    for detail in error.errors(include_url=False):
        loc = _without_tags(detail["loc"], document, at)
        what, right = _said(detail, model, loc)
        mistakes.append(Mistake(document.place((*at, *loc)), f"in {_path(at)}: {what}", right))
    return mistakes


def _said(detail: ErrorDetails, model: Any, loc: Loc) -> tuple[str, str]:
    kind, given = detail["type"], detail["input"]
    name = _path(loc) if loc else "the entry"
    if kind == "extra_forbidden":
        return f"`{loc[-1]}` is no key of this.", closest(str(loc[-1]), fields_at(model, detail["loc"][:-1]))
    if kind == "missing":
        return f"`{name}` is missing.", ""
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        tags = (detail.get("ctx") or {}).get("expected_tags", "")
        return "`kind` is missing or unknown.", f"It should be one of {tags}."
    if kind == "string_pattern_mismatch":
        return f"{str(given)[:80]!r} (`{name}`) is no name.", NAMES
    if kind == "string_type" and isinstance(given, bool | int | float):
        return f"`{name}` should be text and YAML reads it as {given!r}.", "Put it in quotes."
    if kind == "literal_error":
        return f"`{name}` is {str(given)[:80]!r}.", f"It should be {(detail.get('ctx') or {}).get('expected', '')}."
    return f"`{name}`: {detail['msg'][0].lower()}{detail['msg'][1:]}; it is {str(given)[:80]!r}.", ""


def fields_at(model: Any, loc: Loc) -> list[str]:
    """The keys that the model allows at `loc`, following lists, dicts and unions."""
    for step in loc:
        model = _inner(model, step)
    return [name for candidate in _models(model) for name in candidate.model_fields]


def _inner(model: Any, step: str | int) -> Any:
    """The type that stands at `step` below `model`."""
    candidates = _models(model)
    for candidate in candidates:
        if isinstance(step, str) and step in candidate.model_fields:
            return candidate.model_fields[step].annotation
    for candidate in candidates:  # pydantic puts a union's tag into the path
        tag = candidate.model_fields.get("kind")
        if tag is not None and step in get_args(tag.annotation):
            return candidate
    arguments = get_args(model)
    return arguments[-1] if arguments else model


def _models(annotation: Any) -> list[type[BaseModel]]:
    if get_origin(annotation) is Annotated:
        return _models(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [model for argument in get_args(annotation) for model in _models(argument)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def _without_tags(loc: Loc, document: Document, at: Loc) -> Loc:
    """pydantic's path without what does not stand in the file (a union's tag, `[key]`)."""
    kept: Loc = ()
    for index, step in enumerate(loc):
        last = index == len(loc) - 1
        if (*at, *kept, step) in document.lines or (last and step != "[key]"):
            kept = (*kept, step)
    return kept


def _path(loc: Loc) -> str:
    text = ""
    for step in loc:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text
