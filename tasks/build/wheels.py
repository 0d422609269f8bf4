"""Wheels: resolving requirements into exact files, and fetching those files. pip does both, run by our own interpreter.

    resolve(requirements, indexes) -> Wheel...   a dry run with a report; nothing is installed anywhere
    fetch(wheels) -> Path...                     exactly those files, their digests compared with what was promised

Where a requirement lies in several indexes, the first index that has it wins. pip itself knows no order of indexes
and would take the highest version of all, so each requirement is looked for in one index after the other; what they
depend on may come from any index that answered.
"""

from __future__ import annotations

import json
import re
import sys
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from blocks.canonical import digest_file
from blocks.errors import BuildError, TrustError
from tasks.build.base import Bench, Ingredient, Progress, Wheel
from tasks.build.first_error import first_error
from tasks.build.indexes import DEFAULT, QUICK, label, redacted, source, usable
from tasks.build.programs import Finished, keep_log, run_program
from tasks.build.runtime import python_tag, this_arch

RESOLVE_SECONDS = 600.0
FETCH_SECONDS = 3600.0

_EXACT = re.compile(r"^\s*([A-Za-z0-9][\w.-]*)\s*(\[[^\]]*\])?\s*===?\s*[^\s*,;]+\s*(;.*)?$")
_NAME = re.compile(r"^\s*([A-Za-z0-9][\w.-]*)\s*(\[[^\]]*\])?\s*(?![\w./\\:-])")
_TAKES = re.compile(r"^\s*(Downloading|Using cached|Processing) (\S+\.whl)(?: \(([^)]+)\))?")


def all_exact(requirements: Sequence[str]) -> bool:
    """Whether every requirement pins one version, so that nothing can have changed since the last resolution."""
    return all(_EXACT.match(requirement) for requirement in requirements)


def resolve(requirements: Sequence[str], indexes: Sequence[str], bench: Bench) -> tuple[Wheel, ...]:
    """The wheels for this interpreter that fulfil the requirements, with everything that they depend on.

    Raises BuildError that names the requirement and the indexes tried when there is no such wheel.
    """
    if not requirements:
        return ()
    answering, silent = usable(indexes, bench.progress)
    if not answering:
        tried = "; ".join(f"{label(index)}: {why}" for index, why in silent.items())
        raise BuildError(
            f"No package index can be reached ({tried}).",
            do="Check the network and the proxy, or add `default` to the build's indexes in the catalog.",
        )
    located: dict[str, Wheel] = {}
    giving: list[str] = []
    for index in answering[:-1]:
        wanted = [text for text in requirements if _name(text) not in located]
        found, error = _locate(wanted, index, bench)
        if found:
            giving.append(index)
        elif wanted:
            bench.progress(f"{label(index)} gives none of {', '.join(wanted)} ({error})")
        located |= found
    pinned = [_pinned(requirement, located) for requirement in requirements]
    finished, wheels = _dry_run(pinned, [*giving, answering[-1]], bench, "resolve")
    if wheels is None:
        raise _no_such_wheel(requirements, [*giving, answering[-1]], silent, finished, bench)
    # Where another index holds the same version as well, the file of the preferred one is taken.
    return tuple(located.get(canonical(wheel.name), wheel) for wheel in wheels)


def fetch(wheels: Sequence[Wheel], indexes: Sequence[str], folder: Path, bench: Bench) -> tuple[Path, ...]:
    """Bring exactly these wheels into `folder`.

    Raises BuildError, or TrustError for a file that is not the promised one. The indexes are named only because pip
    finds the user and password for a file's host in their URLs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not wheels:
        return ()
    urls = [f"{wheel.url}#sha256={wheel.sha256}" if wheel.sha256 else wheel.url for wheel in wheels]
    # PIP_CONSTRAINT: versions were decided when they were resolved; a constraint cannot apply to a bare URL.
    where = source(indexes)
    env = {**where.env, "PIP_CONSTRAINT": " "}
    command = ["download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), *where.options, "--", *urls]
    finished = _pip(command, env, bench, "fetch", FETCH_SECONDS, _says_what_it_takes(bench.progress))
    if finished.code != 0:
        error = first_error(finished.lines())
        promised = "do not match" in error.lower() or "hash" in error.lower()
        kind = TrustError if promised else BuildError
        raise kind(
            f"The wheels could not be downloaded: {error}",
            kept=f"The whole log: {keep_log(finished.log, bench)}.",
            do="Try again; if it stays, look at what the index serves."
            if promised
            else "Check the network, or name another index.",
        )
    return tuple(_checked(wheel, folder) for wheel in wheels)


def ingredients(wheels: Sequence[Wheel], files: Sequence[Path]) -> tuple[Ingredient, ...]:
    """The wheels as provenance names them: a package URL and the digest of the file."""
    return tuple(
        Ingredient(
            uri=f"pkg:pypi/{canonical(wheel.name)}@{urllib.parse.quote(wheel.version)}",
            digest={"sha256": digest_file(path).removeprefix("sha256:")},
            name=wheel.filename,
            source=redacted(wheel.url),
        )
        for wheel, path in zip(wheels, files, strict=True)
    )


def canonical(name: str) -> str:
    """A project's name in its one form (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _name(requirement: str) -> str:
    """The project that a requirement names; the requirement itself where it names none (a path, a URL)."""
    match = _NAME.match(requirement)
    return canonical(match[1]) if match and "://" not in requirement else requirement


def _pinned(requirement: str, located: Mapping[str, Wheel]) -> str:
    wheel = located.get(_name(requirement))
    match = _NAME.match(requirement)
    if wheel is None or match is None:
        return requirement
    marker = requirement.partition(";")[2]
    return f"{match[1]}{match[2] or ''}=={wheel.version}" + (f"; {marker}" if marker else "")


def _locate(wanted: Sequence[str], index: str, bench: Bench) -> tuple[dict[str, Wheel], str]:
    """Which requirements one index has, by name, and pip's first error where it lacks some.

    All are asked for in one go, and one by one only when that fails.
    """
    wanted = [text for text in wanted if _name(text) != text or _NAME.match(text)]
    if not wanted:
        return {}, ""
    options = ("--no-deps", *QUICK) if index != DEFAULT else ("--no-deps",)
    finished, wheels = _dry_run(wanted, [index], bench, "locate", *options)
    error = first_error(finished.lines()) if wheels is None else ""
    if wheels is None and len(wanted) > 1:
        wheels = ()
        for requirement in wanted:
            wheels += _dry_run([requirement], [index], bench, "locate", *options)[1] or ()
    return {canonical(wheel.name): wheel for wheel in wheels or ()}, error


def _dry_run(
    requirements: Sequence[str], indexes: Sequence[str], bench: Bench, step: str, *options: str
) -> tuple[Finished, tuple[Wheel, ...] | None]:
    """What pip would install; None in place of the wheels when it cannot."""
    report = bench.folder / "report.json"
    report.unlink(missing_ok=True)
    where = source(indexes)
    command = ["install", "--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", str(report)]
    command += [*options, *where.options, "--", *requirements]
    says = _says_what_it_takes(bench.progress, only_large=True)
    finished = _pip(command, where.env, bench, step, RESOLVE_SECONDS, says)
    if finished.code != 0 or finished.timed_out:
        return finished, None
    return finished, tuple(_wheel(item) for item in json.loads(report.read_text())["install"])


def _wheel(item: Mapping[str, object]) -> Wheel:
    """One entry of pip's installation report (https://pip.pypa.io/en/stable/reference/installation-report/)."""
    body = json.loads(json.dumps(item))
    url = body["download_info"]["url"]
    archive = body["download_info"].get("archive_info", {})
    return Wheel(
        name=body["metadata"]["name"],
        version=body["metadata"]["version"],
        filename=urllib.parse.unquote(urllib.parse.urlsplit(url).path.rsplit("/", 1)[-1]),
        url=url,
        sha256=archive.get("hashes", {}).get("sha256", ""),
    )


def _pip(
    command: Sequence[str],
    env: Mapping[str, str],
    bench: Bench,
    step: str,
    timeout_seconds: float,
    each_line: Callable[[str], None],
) -> Finished:
    argv = [sys.executable, "-m", "pip", command[0], "--no-color", "--progress-bar", "off", *command[1:]]
    return run_program(argv, bench, step=step, env=env, timeout_seconds=timeout_seconds, each_line=each_line)


def _says_what_it_takes(progress: Progress, *, only_large: bool = False) -> Callable[[str], None]:
    def each_line(line: str) -> None:
        match = _TAKES.match(line)
        if match is None or (only_large and (match[1] != "Downloading" or "MB" not in (match[3] or ""))):
            return
        name, version = urllib.parse.unquote(match[2]).rsplit("/", 1)[-1].split("-")[:2]
        size = f" ({re.sub(r'[.][0-9]+', '', match[3])})" if match[3] else ""
        verb = "downloading" if match[1] == "Downloading" else "taking"
        progress(f"{verb} {name} {version}{size}")

    return each_line


def _checked(wheel: Wheel, folder: Path) -> Path:
    path = folder / wheel.filename
    if not path.exists():
        raise BuildError(f"pip reported {wheel.filename} and did not fetch it.", do="See the build's log; try again.")
    if wheel.sha256 and digest_file(path) != f"sha256:{wheel.sha256}":
        raise TrustError(f"{wheel.filename} is not the file that {redacted(wheel.url)} promised.", do="Try again.")
    return path


_UNREACHED = re.compile(r"NewConnectionError|ConnectTimeoutError|Name or service not known|after connection broken")


def _no_such_wheel(
    requirements: Sequence[str], indexes: Sequence[str], silent: Mapping[str, str], finished: Finished, bench: Bench
) -> BuildError:
    """Which requirement it is that cannot be had, and what pip says of it when asked for it alone."""
    guilty, line, said = "", first_error(finished.lines()), finished.lines()
    for requirement in requirements:
        # Under a constraints file pip reports a missing release as a conflict; without it, it names the release.
        alone = _alone(requirement, indexes, bench)
        if alone.code != 0:
            guilty, line, said = requirement, first_error(alone.lines()), alone.lines()
            break
    tried = [label(index) for index in indexes] + [f"{label(index)} ({why})" for index, why in silent.items()]
    log = keep_log(finished.log, bench)
    if not guilty:
        return BuildError(
            f"{', '.join(requirements)} cannot be had together from {', '.join(tried)}. pip: {line}",
            kept=f"The whole log: {log}.",
            do="Loosen one of the requirements in the catalog, or look at the constraints that pip is configured with.",
        )
    if any(_UNREACHED.search(words) for words in said):
        return BuildError(
            f"{guilty} cannot be looked for: a package index cannot be reached ({', '.join(tried)}).",
            kept=f"The whole log: {log}.",
            do="Check the network and the index that pip is configured with, then start again.",
        )
    return BuildError(
        f"There is no wheel for {guilty} ({python_tag()}, {this_arch()}) in {', '.join(tried)}. pip: {line}",
        kept=f"The whole log: {log}.",
        do="Correct the name or version in the catalog, or add an index that has it.",
    )


def _alone(requirement: str, indexes: Sequence[str], bench: Bench) -> Finished:
    where = source(indexes)
    command = ["install", "--dry-run", "--ignore-installed", "--no-deps", "--only-binary", ":all:"]
    command += [*where.options, "--", requirement]
    env = {**where.env, "PIP_CONSTRAINT": " "}
    return _pip(command, env, bench, "alone", RESOLVE_SECONDS, lambda _: None)
