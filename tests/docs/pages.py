"""The pages of the documentation, taken apart: code spans, fenced blocks, links, headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """The page without its fenced blocks."""
        return _FENCE.sub("", self.text)

    def blocks(self, language: str) -> list[str]:
        """The fenced blocks in that language."""
        return [body for named, body in _FENCE.findall(self.text) if named == language]

    @property
    def spans(self) -> list[str]:
        """Everything in backticks."""
        return _SPAN.findall(self.prose)

    @property
    def code(self) -> Iterator[str]:
        """Spans, and the lines of shell blocks without their comments."""
        yield from self.spans
        for block in self.blocks("sh"):
            yield from (line.partition("  #")[0].strip() for line in block.splitlines())

    @property
    def links(self) -> list[str]:
        return _LINK.findall(self.prose)

    @property
    def anchors(self) -> set[str]:
        """The headings as links name them."""
        return {
            re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
            for heading in _HEADING.findall(self.prose)
        }


def pages() -> list[Page]:
    """Every page there is, README first."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return [Page(path) for path in [*top, *sorted((ROOT / "docs").rglob("*.md"))]]


def table(page: Page, heading: str) -> list[list[str]]:
    """The cells of the first table whose first column has that heading, without its head."""
    rows: list[list[str]] = []
    inside = False
    for line in page.text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if inside and not cells:
            return rows
        if inside and not set(cells[0]) <= {"-"}:
            rows.append(cells)
        inside = inside or (bool(cells) and cells[0] == heading)
    return rows
