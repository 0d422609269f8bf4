"""A story as one HTML page: no request to anywhere, everything foreign escaped, readable without JavaScript.

The page carries a content security policy that allows exactly our own script (by hash) and no network at all, so
that even a mistake in escaping could not run what a test printed.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import tempfile
from functools import cache
from importlib import resources
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from blocks.canonical import short
from blocks.errors import CommonfleetError
from tasks.publish.report import drawing, words
from tasks.publish.report.story import Story

SYMBOLS = {
    "passed": "✓", "failed": "✗", "error": "!", "skipped": "–",
    "xfailed": "≈", "xpassed": "?", "crashed": "†", "timed_out": "∞", "unknown": "·",
}  # fmt: skip
"""A sign per outcome: colour is never the only one."""


def render(story: Story, target: Path) -> Path:
    """Write the page to `target` (whole or not at all); returns it. Raises CommonfleetError when it cannot."""
    stream = _environment().get_template("page.html.j2").stream(story=story)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".report-", suffix=".html", dir=target.parent)
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace", newline="\n") as file:
            for piece in stream:
                file.write(piece)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        with contextlib.suppress(OSError):
            Path(temporary).unlink(missing_ok=True)
    return target


def _cannot_write(target: Path, error: OSError) -> CommonfleetError:
    return CommonfleetError(
        f"The report could not be written to {target}: {error.strerror or error}.",
        kept="The ledger holds everything that the report would say.",
        do="Free some space or choose another place, then make the report again.",
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=False,
    )
    for function in (
        words.count, words.plural, words.duration, words.size, words.measure, words.interval, words.percent,
        words.moment, words.day, words.iso, words.spoken, words.name, words.shown, words.is_ratio, short,
    ):  # fmt: skip
        environment.filters[function.__name__] = function
    environment.globals.update(
        draw=drawing,
        symbols=SYMBOLS,
        loud=drawing.LOUD,
        style=Markup(_source("style.css")),
        script=Markup(_source("script.js")),
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(_source("script.js").encode()).digest()).decode(),
    )
    return environment


@cache
def _source(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")
