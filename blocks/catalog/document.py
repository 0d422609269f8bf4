"""Reading one YAML file of the catalog so that every value knows its line.

Files are written by people and may come from a stranger's pull request: they are read without constructing any
object, in bounded size, and an alias that would blow up (or that contains itself) is refused. Mistakes are
collected, not raised, so that one look shows them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1 << 20
"""A catalog file is some kilobytes; anything near this size is an accident or an attack."""

MAX_VALUES = 100_000
"""Values in one file after aliases are followed. Nine levels of nine aliases would be 400 million."""

PLAIN = frozenset({"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})

Loc = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """A line of a file, counted from 1."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Mistake:
    """One thing that is wrong: where, what, and what would be right."""

    place: Place
    what: str
    right: str = ""

    def __str__(self) -> str:
        return f"{self.place}: {self.what}" + (f" {self.right}" if self.right else "")


@dataclass(frozen=True)
class Document:
    """A file's content as plain values, and the line of each of them."""

    file: Path
    data: dict[str, Any]
    lines: dict[Loc, int] = field(repr=False)
    readable: bool = True

    def place(self, loc: Loc) -> Place:
        """The line of the value at `loc`, or of the nearest thing around it that stands in the file."""
        while loc and loc not in self.lines:
            loc = loc[:-1]
        return Place(self.file, self.lines.get(loc, 1))


def read_document(file: Path, mistakes: list[Mistake]) -> Document:
    """Read `file`; what is wrong with it as YAML goes to `mistakes`. Where it cannot be read at all, it is empty."""
    reader = _Reader(file, mistakes)
    try:
        return Document(file, reader.read(_text(file)), reader.lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = f"this is no YAML: {error.problem or error.context}."
        mistakes.append(Mistake(Place(file, mark.line + 1 if mark else 1), problem))
    except (yaml.YAMLError, UnicodeDecodeError, OSError, ValueError) as error:
        mistakes.append(Mistake(Place(file, 1), f"cannot be read: {error}."))
    except RecursionError:
        mistakes.append(Mistake(Place(file, 1), "is nested too deeply to be a catalog."))
    return Document(file, {}, {}, readable=False)


def _text(file: Path) -> str:
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"it has {size:,} bytes, and a catalog file may have {MAX_BYTES:,}; split it")
    return file.read_text(encoding="utf-8")


class _Reader:
    """Turns YAML nodes into plain values, noting lines and counting what it makes."""

    def __init__(self, file: Path, mistakes: list[Mistake]) -> None:
        self.file = file
        self.mistakes = mistakes
        self.lines: dict[Loc, int] = {}
        self.made = 0
        self.open: set[int] = set()

    def read(self, text: str) -> dict[str, Any]:
        self.loader = yaml.SafeLoader(text)
        try:
            node = self.loader.get_single_node()
            if node is None:
                return {}
            if not isinstance(node, yaml.MappingNode):
                self.wrong(node, "the file should hold keys (builds, suites, ...).")
                return {}
            return self.mapping(node, ())
        finally:
            self.loader.dispose()

    def wrong(self, node: yaml.Node, what: str, right: str = "") -> None:
        self.mistakes.append(Mistake(Place(self.file, node.start_mark.line + 1), what, right))

    def value(self, node: yaml.Node, loc: Loc) -> Any:
        self.lines.setdefault(loc, node.start_mark.line + 1)
        self.made += 1
        if self.made > MAX_VALUES:
            raise ValueError(f"its aliases make more than {MAX_VALUES:,} values; write out what they stand for")
        if id(node) in self.open:
            self.wrong(node, "this anchor contains itself.", "Write out what the alias should stand for.")
            return None
        self.open.add(id(node))
        try:
            if not isinstance(node, yaml.ScalarNode) and node.tag not in PLAIN:
                self.wrong(node, f"the tag `{node.tag[:80]}` is not read here.", "Write a plain mapping or list.")
                return None
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, loc)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*loc, index)) for index, item in enumerate(node.value)]
            return self.scalar(node)
        finally:
            self.open.discard(id(node))

    def mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        made: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key, key_node, value_node in self.entries(node):
            line = key_node.start_mark.line + 1
            if key in first:
                again = f"`{key}` stands twice: first at {Place(self.file, first[key])}."
                self.wrong(key_node, again, "Keep one of them, or give one another name.")
                continue
            first[key] = line
            self.lines[(*loc, key)] = line
            made[key] = self.value(value_node, (*loc, key))
        return made

    def entries(self, node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.wrong(key_node, "a key should be text.")
            elif key_node.tag == "tag:yaml.org,2002:merge":
                self.wrong(key_node, "merge keys (`<<`) are not read here.", "Write out the keys.")
            elif key_node.tag != "tag:yaml.org,2002:str":
                as_text = key_node.value.replace('"', "")
                self.wrong(key_node, f"YAML does not read the key `{as_text}` as text.", f'Write it as "{as_text}".')
            else:
                yield key_node.value, key_node, value_node

    def scalar(self, node: yaml.Node) -> Any:
        try:
            return self.loader.construct_object(node, deep=True)
        except ValueError as error:
            self.wrong(node, f"`{str(node.value)[:40]}` cannot be read: {error}.", "Put it in quotes if it is text.")
            return None
