"""The tree as tiles (https://c2sp.org/tlog-tiles): 256 hashes of one height in one piece, which never change.

Tile n of level l holds the roots of the subtrees of 256**l leaves from leaf n * 256**(l + 1) on. A tile that is not
full yet is `partial` and only grows at its end. This is how the tree is stored and how it is published; the nodes
between two levels are hashed anew when a proof needs them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from blocks.ledger.merkle import EMPTY_ROOT, HASH_BYTES, Node, node_hash, root

WIDTH = 256
"""Hashes in a full tile, and entries in a full bundle."""

_PATH = re.compile(r"tile/(entries|[0-9]|[1-5][0-9]|6[0-3])/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")

ReadTile = Callable[[int, int], bytes]
"""(level, number) -> the hashes of that tile, at least those of the tree that is looked at."""


def tile_path(level: int, number: int, width: int = WIDTH) -> str:
    """Where a tile is published, relative to the log's folder."""
    return f"tile/{level}/{_number_path(number)}{_partial(width)}"


def entries_path(number: int, width: int = WIDTH) -> str:
    """Where the entries below tile `number` of level 0 are published."""
    return f"tile/entries/{_number_path(number)}{_partial(width)}"


def paths(size: int) -> Iterator[str]:
    """The files of hashes and entries that a published log of `size` entries has: what to copy where nothing lists."""
    for level, number, width in new_tiles(0, size):
        yield tile_path(level, number, width)
        if level == 0:
            yield entries_path(number, width)


def parse_path(path: str) -> tuple[int | None, int, int]:
    """(level, number, width) of a published path; the level of entries is None. Raises ValueError."""
    matched = _PATH.fullmatch(path)
    if not matched:
        raise ValueError(f"{path!r} is no path of a tile")
    kind, number, width = matched[1], int(matched[2].replace("x", "").replace("/", "")), int(matched[3] or WIDTH)
    parsed = None if kind == "entries" else int(kind), number, width
    again = entries_path(number, width) if parsed[0] is None else tile_path(parsed[0], number, width)
    if again != path:  # a padded number, or a partial tile as wide as a full one
        raise ValueError(f"{path!r} is not how that tile is called")
    return parsed


def widths(size: int) -> list[int]:
    """How many hashes the last tile of each level has in a tree of `size` leaves; 0 where it ends with a full one."""
    found = []
    while size:
        found.append(size % WIDTH)
        size //= WIDTH
    return found


def new_tiles(old: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(level, number, width) of each tile that a tree of `size` leaves has and one of `old` leaves had not."""
    level = 0
    while size:
        if size > old:
            for number in range(old // WIDTH, size // WIDTH):
                yield level, number, WIDTH
            if size % WIDTH:
                yield level, size // WIDTH, size % WIDTH
        old, size, level = old // WIDTH, size // WIDTH, level + 1


@dataclass(frozen=True)
class Growth:
    """What appending leaves made: the tree's new size and root, and each tile that is new or has grown."""

    size: int
    root: bytes
    tiles: dict[tuple[int, int], bytes]


def edge_of(size: int, tile: ReadTile) -> list[bytes]:
    """The partial tile of each level of a tree, empty where there is none: all that appending has to know."""
    return [
        tile(level, size >> 8 * (level + 1))[: width * HASH_BYTES] if width else b""
        for level, width in enumerate(widths(size))
    ]


def grow(size: int, edge: Sequence[bytes], leaves: Sequence[bytes]) -> Growth:
    """Append leaf hashes to a tree of `size` leaves. What is hashed is new: no old tile is read."""
    tiles: dict[tuple[int, int], bytes] = {}
    remaining, fresh, level, below = [*edge], list(leaves), 0, size
    while fresh:
        if level == len(remaining):
            remaining.append(b"")
        data, fresh, number = remaining[level] + b"".join(fresh), [], below // WIDTH
        for start in range(0, len(data), WIDTH * HASH_BYTES):
            tile = tiles[level, number] = data[start : start + WIDTH * HASH_BYTES]
            if len(tile) == WIDTH * HASH_BYTES:
                fresh.append(root(hashes_of(tile)))
            number += 1
        full = len(data) // (WIDTH * HASH_BYTES) * WIDTH * HASH_BYTES
        remaining[level] = data[full:]
        level, below = level + 1, below // WIDTH
    return Growth(size + len(leaves), edge_root([hashes_of(tile) for tile in remaining]), tiles)


def edge_root(edge: Sequence[Sequence[bytes]]) -> bytes:
    """The root of the tree whose partial tiles these are, level 0 first."""
    found: bytes | None = None
    for tile in edge:
        # A partial tile is some perfect subtrees, the largest leftmost; what lies to their right is `found`.
        end = len(tile)
        for bit in range(end.bit_length()):
            if end >> bit & 1:
                start = (end >> bit + 1) << bit + 1
                peak = root(tile[start : start + (1 << bit)])
                found = peak if found is None else node_hash(peak, found)
    return EMPTY_ROOT if found is None else found


def nodes_in(tile: ReadTile) -> Node:
    """The nodes of a tree whose tiles `tile` reads; each tile is read once."""
    kept: dict[tuple[int, int], bytes] = {}

    def node(height: int, position: int) -> bytes:
        level, within = divmod(height, WIDTH.bit_length() - 1)
        number, first = divmod(position << within, WIDTH)
        if (level, number) not in kept:
            kept[level, number] = tile(level, number)
        return root(hashes_of(kept[level, number], first, first + (1 << within)))

    return node


def hashes_of(tile: bytes, first: int = 0, last: int | None = None) -> list[bytes]:
    """The hashes of a tile, or those from `first` to before `last`."""
    end = len(tile) if last is None else last * HASH_BYTES
    return [tile[start : start + HASH_BYTES] for start in range(first * HASH_BYTES, end, HASH_BYTES)]


def _number_path(number: int) -> str:
    digits = str(number)
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[start : start + 3] for start in range(0, len(digits), 3)]
    return "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])


def _partial(width: int) -> str:
    return "" if width == WIDTH else f".p/{width}"
