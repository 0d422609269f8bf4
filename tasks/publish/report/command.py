"""The command line that reproduces a failing test, made from what its process was really started with.

What only served the runner (result files, its plugin, the long filters of a unit) is left out; what chooses the test
is put in. Every word is quoted for a shell, so that copying a hostile test's name runs nothing but the test.
"""

from __future__ import annotations

import os.path
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HARMLESS = re.compile(r"PYTHONHASHSEED|CUDA_DEVICE_ORDER|[A-Z0-9_]+_(NUM_THREADS|COMPILE_THREADS|VISIBLE_DEVICES)")
"""Recorded variables that are stated whoever recorded them. Any other may run a stranger's code in the reader's shell
or interpreter (PYTHONWARNINGS with BROWSER does), so it is stated only where our own plan names it."""
_UNPACKED = re.compile(r"^(.*/builds)/[0-9a-f]{64}(?:/|$)")
"""Where a machine unpacks builds and the sources of suites: side by side, by digest."""


def reproduce(kind: str, spec: Mapping[str, Any], test: str, process: Mapping[str, Any], build_digest: str = "") -> str:
    """A shell command for one test. `test` is the name its kind knows: `Class.Name` for gtest, a node id for pytest.

    `process` is a `blocks.lease.Process`, with the variables stated for it under `env` where they were recorded;
    `build_digest` names the build where it cannot be seen from the command line. Empty without a command line.
    """
    argv = [str(word) for word in process.get("argv") or ()]
    if not argv:
        return ""
    folder = ""
    if kind == "gtest":
        site = _beside(argv[0], str(spec.get("binary", "")), "site")
        argv = [word for word in argv if not word.startswith("--gtest_")] + ([f"--gtest_filter={test}"] if test else [])
    else:
        folder, argv = _of_sources(kind, spec, test, argv)
        site = _site(folder or next((word for word in argv[1:] if os.path.isabs(word)), ""), build_digest)
    env = {**_libraries(kind, site), **_stated(process.get("env"), spec.get("env") or {})}
    words = [quote(word) for word in argv]
    if env:
        words = ["env", *(f"{key}={quote(value)}" for key, value in sorted(env.items())), *words]
    return " ".join(["cd", quote(folder), "&&", *words] if folder else words)


def quote(word: str) -> str:
    """A word for a POSIX shell; invisible characters are spelt out (`$'..'`, bash and zsh) so that they can be seen."""
    if not _UNPRINTABLE.search(word):
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + _UNPRINTABLE.sub(_escape, escaped) + "'"


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"


def _of_sources(kind: str, spec: Mapping[str, Any], test: str, argv: Sequence[str]) -> tuple[str, list[str]]:
    """(folder to be in, words) for the kinds that run files of a suite."""
    if kind == "pytest":
        root = next((word.partition("=")[2] for word in argv if word.startswith("--rootdir=")), "")
        node = test or str(spec.get("file", ""))
        return root, [argv[0], "-m", "pytest", *map(str, spec.get("args") or ()), node]
    # A benchmark writes its figures to a file of the runner's: here they are to be seen.
    shown = ["/dev/stdout" if before == "--out" else word for before, word in zip(["", *argv], argv, strict=False)]
    return "", shown if kind == "benchmark" else list(argv)


def _beside(path: str, known: str, name: str) -> str:
    """The folder `name` of the build that holds `path`, when `path` ends as the unit's `known` does."""
    return os.path.join(path.removesuffix(known), name) if known and path.endswith(known) else ""


def _site(sources: str, build_digest: str) -> str:
    """Where the build's packages stand on the machine that unpacked `sources`."""
    found = _UNPACKED.match(sources)
    return f"{found[1]}/{build_digest.removeprefix('sha256:')}/site" if found and build_digest else ""


def _libraries(kind: str, site: str) -> dict[str, str]:
    """The variables by which a unit finds its build."""
    if not site:
        return {}
    libraries = {"LD_LIBRARY_PATH": f"{site}/torch/lib"}
    return libraries if kind == "gtest" else {"PYTHONPATH": site, **libraries}


def _stated(recorded: Any, planned: Mapping[str, Any]) -> dict[str, str]:
    """What the process was given, as far as it may be repeated elsewhere; what the plan says, as the plan says it."""
    named = recorded.items() if isinstance(recorded, Mapping) else ()
    harmless = {str(key): str(value) for key, value in named if _HARMLESS.fullmatch(str(key))}
    return {**harmless, **{key: str(value) for key, value in planned.items() if _NAME.fullmatch(key)}}
