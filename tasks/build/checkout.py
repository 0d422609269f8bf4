"""Repositories: which commit a ref is, and that commit's files, as few of them as git can be asked for.

git runs with the user's own configuration and credentials (a private repository needs them), but never asks a
question, and runs no hooks.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from blocks.errors import BuildError
from tasks.build.base import Bench
from tasks.build.indexes import redacted
from tasks.build.programs import Finished, check, run_program

LOOK_SECONDS = 120.0
FETCH_SECONDS = 3600.0

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
# Set inside a git hook, for instance; they would make our commands work on somebody else's repository.
_MISLEADING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_COMMON_DIR")


def resolve_ref(repository: str, ref: str, bench: Bench) -> str:
    """The commit of a branch, tag or full ref. A full commit is taken as it is, without asking.

    Raises BuildError when the repository cannot be reached or has no such ref.
    """
    if _COMMIT.fullmatch(ref):
        return ref
    where = location(repository, bench.catalog)
    patterns = [f"refs/heads/{ref}", f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", ref]
    finished = _git(["ls-remote", "--", where, *patterns], bench, "ls-remote", LOOK_SECONDS)
    check(finished, bench, f"Asking {redacted(where)} for {ref}", "Correct `repository` in the catalog, or the access.")
    found = {}
    for line in finished.lines():
        commit, tab, name = line.strip().partition("\t")
        if tab and _COMMIT.fullmatch(commit):
            found[name] = commit
    for pattern in patterns:  # a branch before a tag of the same name, as `git clone --branch` has it
        if pattern in found:
            return found[pattern]
    raise BuildError(
        f"{redacted(where)} has no branch or tag {ref!r}.",
        do="Correct `ref` in the catalog: a branch, a tag, or a commit with all its 40 digits.",
    )


def check_out(repository: str, commit: str, bench: Bench) -> Path:
    """The files of `commit`, with its submodules; returns the folder. Raises BuildError."""
    where = location(repository, bench.catalog)
    folder = bench.folder / "checkout"
    todo = f"Look whether {redacted(where)} can be reached and still has that commit."
    _must(["init", "--quiet", "--template=", str(folder)], bench, "init", "Making a checkout", todo)
    at = ["-C", str(folder)]
    # A remote by name: submodules with relative URLs are looked for beside it.
    _must([*at, "remote", "add", "--", "origin", where], bench, "remote", "Making a checkout", todo)
    shallow = [*at, "fetch", "--quiet", "--no-tags", "--depth", "1", "origin", commit]
    if _git(shallow, bench, "fetch", FETCH_SECONDS).code != 0:
        # Not every server gives out a commit by its id, or shallowly: then everything.
        bench.progress(f"cloning all of {redacted(where)}")
        everything = [*at, "fetch", "--quiet", "origin", "+refs/*:refs/remotes/origin/*"]
        _must(everything, bench, "fetch", f"Cloning {redacted(where)}", todo)
    _must([*at, "checkout", "--quiet", "--detach", commit], bench, "checkout", f"Checking out {commit[:12]}", todo)
    if (folder / ".gitmodules").exists():
        bench.progress("fetching submodules")
        submodules = [*at, "submodule", "--quiet", "update", "--init", "--recursive"]
        if _git([*submodules, "--depth", "1"], bench, "submodules", FETCH_SECONDS).code != 0:
            _must(submodules, bench, "submodules", "Fetching the submodules", todo)
    return folder


def commit_time(folder: Path, bench: Bench) -> str:
    """When the checked-out commit was made, in seconds since the epoch: the build's SOURCE_DATE_EPOCH."""
    command = ["-C", str(folder), "show", "--no-patch", "--format=%ct", "HEAD"]
    finished = _must(command, bench, "commit-time", "Reading the commit's time", "See the log.")
    return next(iter(finished.lines())).strip()


def location(repository: str, catalog: Path) -> str:
    """What git is given: a URL as it is; a path relative to the catalog where there is such a folder."""
    if repository.startswith("-"):
        raise BuildError(f"{repository!r} is no repository.", do="Correct `repository` in the catalog.")
    if not urllib.parse.urlsplit(repository).scheme and (catalog / repository).exists():
        return str((catalog / repository).resolve())
    return repository


def _git(arguments: Sequence[str], bench: Bench, step: str, timeout_seconds: float) -> Finished:
    env = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
    env |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    argv = ["git", "-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false", *arguments]
    return run_program(argv, bench, step=step, env=env, timeout_seconds=timeout_seconds)


def _must(arguments: Sequence[str], bench: Bench, step: str, what: str, do: str) -> Finished:
    finished = _git(arguments, bench, step, FETCH_SECONDS)
    check(finished, bench, what, do)
    return finished
