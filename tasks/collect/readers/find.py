"""From what a person names (files, folders, globs, `-`) to sources. Whatever is named is answered for."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from tasks.collect.readers import text
from tasks.collect.readers.base import MB, Limits

MOST_SOURCES = 200_000


_UNSEEN = str.maketrans(dict.fromkeys("\t\r\n", "\ufffd"))


@dataclass(frozen=True)
class Source:
    """One thing to read. `name` is what people see; where `why` is given it cannot be read at all."""

    name: str
    path: Path
    bytes: int = 0
    why: str = ""
    inode: tuple[int, int] = (0, 0)
    """Device and number of the file, by which one that is named twice is known. Standard input has none."""


def find(
    named: Iterable[str | Path],
    *,
    stdin: BinaryIO | None = None,
    spool: Path | None = None,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
) -> Iterator[Source]:
    """The sources, in a stable order, each file once however often it is named.

    Folders are walked without following links. `-` is `stdin`, which is written below `spool`.
    """
    seen: set[tuple[int, int]] = set()
    given = 0
    for found in _all(named, stdin, spool, limits):
        # A name may hold bytes that are no text, or a terminal's commands.
        source = replace(found, name=text.clean(found.name).translate(_UNSEEN))
        if not source.why:
            if source.inode in seen:
                continue
            seen.add(source.inode)
        given += 1
        if given > MOST_SOURCES:
            yield Source("...", source.path, why=f"more than {MOST_SOURCES:,} files were named: the rest was not read")
            return
        yield source


def _all(named: Iterable[str | Path], stdin: BinaryIO | None, spool: Path | None, limits: Limits) -> Iterator[Source]:
    spooled = False
    for name in map(str, named):
        path = Path(name)
        if name == "-":
            if not spooled:  # there is one standard input
                yield _spooled(stdin, spool, limits)
            spooled = True
        elif os.path.isdir(path):  # which is also false of what cannot be looked at
            yield from _folder(path)
        elif not os.path.lexists(path) and glob.has_magic(name):
            yield from _matching(name)
        else:
            yield _file(path)


def _folder(root: Path) -> Iterator[Source]:
    """Every file below `root`; a folder without any, or one that cannot be listed, says so."""
    troubles: list[OSError] = []
    empty = True
    for folder, folders, files in os.walk(root, onerror=troubles.append):
        folders.sort()
        for file in sorted(files):
            empty = False
            yield _file(Path(folder) / file)
    for trouble in troubles:
        yield Source(
            str(trouble.filename), Path(str(trouble.filename)), why=f"the folder cannot be listed: {trouble.strerror}"
        )
    if empty and not troubles:
        yield Source(str(root), root, why="the folder holds no file")


def _matching(pattern: str) -> Iterator[Source]:
    matches = sorted(path for path in glob.iglob(pattern, recursive=True) if not os.path.isdir(path))
    yield from map(_file, map(Path, matches))
    if not matches:
        yield Source(pattern, Path(pattern), why="nothing matches")


def _file(path: Path) -> Source:
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Source(str(path), path, why=f"it cannot be opened: {reason}")
    if not stat.S_ISREG(status.st_mode):
        return Source(str(path), path, why="it is no regular file")
    return Source(str(path), path, status.st_size, inode=(status.st_dev, status.st_ino))


def _spooled(stdin: BinaryIO | None, spool: Path | None, limits: Limits) -> Source:
    if stdin is None or spool is None:
        return Source("-", Path("-"), why="there is no standard input to read")
    path, size = spool / "stdin", 0
    with path.open("wb") as file:
        while piece := stdin.read(MB):
            size += len(piece)
            if size > limits.bytes:
                return Source("-", path, size, why=f"it is longer than {limits.bytes // MB} MB")
            file.write(piece)
    return Source("-", path, size)
