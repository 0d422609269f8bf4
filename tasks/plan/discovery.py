"""Asking for the tests of a file, a few at once, and remembering the answers.

An answer holds for as long as what it was asked of does: it is kept under the hash of build, suite files, request and
accelerator. A failure to list is never kept, so the next plan asks again.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocks.canonical import digest_json
from blocks.errors import HostError, innermost

Discover = Callable[[dict[str, Any]], Awaitable[Mapping[str, Any]]]
"""Sends one `discover` request to the planning machine and gives its answer: tests, disabled, error."""

CACHE_VERSION = 1
"""Grows when an answer means something else than before, so that older ones are not used."""

REASON_CHARACTERS = 300
NO_TESTS = "lists no tests"


@dataclass(frozen=True)
class Question:
    """What to ask, and what identifies it beyond this machine's paths."""

    request: Mapping[str, Any]
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class Listing:
    """The tests of one file in their order. With `error`, it could not be listed."""

    tests: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    error: str = ""


async def list_all(
    questions: Sequence[Question],
    discover: Discover,
    *,
    cache: Path | None,
    at_once: int,
    done: Callable[[int], None] = lambda _: None,
) -> list[Listing]:
    """An answer for each question, in order. `done` hears how many are answered.

    Raises HostError when the machine answers none of them; a single failure is a listing with `error`.
    """
    gate = asyncio.Semaphore(at_once)
    failures: list[HostError] = []
    answered = 0

    async def ask(question: Question) -> Listing:
        nonlocal answered
        listing = _remembered(cache, question)
        if listing is None:
            async with gate:
                listing = await _asked(question, discover, failures)
            if not listing.error:
                _remember(cache, question, listing)
        answered += 1
        done(answered)
        return listing

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(question)) for question in questions]
    except BaseExceptionGroup as errors:
        raise innermost(errors) from errors
    if failures and len(failures) == len(questions):
        raise failures[0]  # not a file, the machine itself
    return [task.result() for task in tasks]


async def _asked(question: Question, discover: Discover, failures: list[HostError]) -> Listing:
    try:
        answer = await discover(dict(question.request))
    except HostError as error:
        failures.append(error)
        return Listing(error=stable_reason(error.what))
    if answer.get("error"):
        said = str(answer["error"])
        # A gtest binary without any test is an answer, not a failure; the runner shows what it printed instead.
        return Listing() if said.startswith(NO_TESTS) else Listing(error=stable_reason(said))
    try:
        return _listing(answer)
    except (KeyError, TypeError):
        return Listing(error="the answer to `discover` holds no list of tests")


def stable_reason(text: str) -> str:
    """The last line of an error that says something, without what differs from one try to the next.

    The reason is part of the unit, and so of the plan's id.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = lines[-1] if lines else "it gave no reason"
    said = re.sub(r"0x[0-9a-fA-F]+", "0x...", said)
    return re.sub(r"\b(pid|tid|process|thread)([ :=]+)\d+", r"\1\2...", said)[:REASON_CHARACTERS]


def _listing(answer: Mapping[str, Any]) -> Listing:
    return Listing(tuple(_strings(answer["tests"])), tuple(_strings(answer.get("disabled", []))))


def _strings(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError
    return list(dict.fromkeys(values))


def _file(cache: Path, question: Question) -> Path:
    hexdigest = digest_json({"version": CACHE_VERSION, **question.identity})[7:]
    return cache / hexdigest[:2] / f"{hexdigest[2:]}.json"


def _remembered(cache: Path | None, question: Question) -> Listing | None:
    if cache is None:
        return None
    try:
        return _listing(json.loads(_file(cache, question).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # never asked, or damaged: ask (again)


def _remember(cache: Path | None, question: Question, listing: Listing) -> None:
    if cache is None:
        return
    file = _file(cache, question)
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=file.parent)
    with os.fdopen(handle, "w") as writer:
        json.dump({"tests": listing.tests, "disabled": listing.disabled}, writer)
    os.replace(temporary, file)
