"""Package indexes: which of them answer, and how pip is told to use one and nothing else.

`default` is whatever pip is configured for on this machine. A named index is used alone: the configured extra
indexes and find-links are switched off for it, so that a wheel that "came from" it really did; certificates,
proxies and constraints of the configuration stay.
"""

from __future__ import annotations

import os
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.build.base import Progress

DEFAULT = "default"
PROBE_SECONDS = 2.5
QUICK = ("--retries", "0", "--timeout", "15")
"""pip's options for asking a named index that has another one behind it: give up at once rather than wait."""


@dataclass(frozen=True)
class Source:
    """Where pip looks: the environment and the options that say so."""

    env: dict[str, str]
    options: tuple[str, ...]


def usable(indexes: Sequence[str], progress: Progress) -> tuple[list[str], dict[str, str]]:
    """The indexes that answer, in order, and why each of the others does not."""
    answering: list[str] = []
    silent: dict[str, str] = {}
    for index in indexes:
        why = None if index == DEFAULT else why_silent(index)
        if why is None:
            answering.append(index)
        else:
            silent[index] = why
            progress(f"{label(index)} cannot be reached ({why})")
    return answering, silent


def source(indexes: Sequence[str]) -> Source:
    """pip's environment and options for these indexes, the first being the main one."""
    named = [index for index in indexes if index != DEFAULT]
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PYTHONUNBUFFERED": "1"}
    if DEFAULT in indexes:
        return Source(env, tuple(option for index in named for option in ("--extra-index-url", index)))
    # pip ignores an empty variable and takes the configuration file's value; a blank one is an empty list to it.
    env |= {"PIP_EXTRA_INDEX_URL": " ", "PIP_FIND_LINKS": " ", "PIP_NO_INDEX": "0"}
    extra = tuple(option for index in named[1:] for option in ("--extra-index-url", index))
    return Source(env, ("--index-url", named[0], *extra))


def label(index: str) -> str:
    """An index as people and logs see it: never with the password in its URL."""
    if index == DEFAULT:
        return "pip's default index"
    return redacted(index)


def redacted(url: str) -> str:
    """A URL without user and password."""
    parts = urllib.parse.urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return parts._replace(netloc="****@" + parts.netloc.rpartition("@")[2]).geturl()


def why_silent(index: str) -> str | None:
    """None when the index answers anything at all within 2.5 seconds; otherwise why not.

    The probe runs in a thread of its own because name resolution has no time limit of its own.
    """
    parts = urllib.parse.urlsplit(index)
    if parts.scheme in ("", "file"):
        path = Path(urllib.request.url2pathname(parts.path))
        return None if path.exists() else "there is no such folder"
    answer: list[str | None] = []
    thread = threading.Thread(target=lambda: answer.append(_ask(index)), daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS + 0.3)
    return answer[0] if answer else f"no answer in {PROBE_SECONDS:g} s"


def _ask(index: str) -> str | None:
    """One HEAD request, through the configured proxy where there is one."""
    try:
        with urllib.request.urlopen(urllib.request.Request(index, method="HEAD"), timeout=PROBE_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        # 404 or 405 come from a server that lives; these come from a proxy that did not find it.
        return f"HTTP {error.code}" if error.code in (407, 502, 503, 504) else None
    except urllib.error.URLError as error:
        return _reason(error.reason)
    except (OSError, ValueError) as error:
        return _reason(error)


def _reason(error: object) -> str | None:
    if type(error).__name__ == "SSLCertVerificationError":
        return None  # it lives; pip may be configured with the certificate that we lack
    if isinstance(error, TimeoutError):
        return f"no answer in {PROBE_SECONDS:g} s"
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
