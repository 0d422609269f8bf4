"""One pass over a log, from its first entry to its last: are entries, tiles and roots those of one tree?

The pass keeps one tile per level and nothing else, so that its memory does not depend on the log. Where an entry and
its hash disagree, whichever fits the tree above is right, and the other one is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from blocks.ledger.merkle import EMPTY_ROOT, root
from blocks.ledger.tiles import WIDTH, edge_root, hashes_of
from tasks.publish.log.findings import Findings


class Source(Protocol):
    """Where entries and tiles are read from. It reports by itself what is missing or cannot be read."""

    def tile(self, level: int, number: int, width: int) -> bytes | None:
        """The first `width` hashes of a tile, or None."""

    def leaves(self, number: int, width: int) -> list[bytes | None]:
        """The leaf hashes below tile `number`, each made from the entry itself; None where that is gone."""

    def entry_name(self, index: int) -> str:
        """What an entry is called."""

    def tile_name(self, level: int, number: int, width: int) -> str:
        """What a tile is called."""


class Sized(Protocol):
    """A state that the log is said to have had."""

    @property
    def size(self) -> int: ...


S = TypeVar("S", bound=Sized)


def walk(
    source: Source, size: int, signed: bytes, states: Iterable[S], findings: Findings
) -> Iterator[tuple[S, bytes | None]]:
    """Check the first `size` entries against the tiles, and give the root that the tree had at each of `states`.

    `states` come in the order of their sizes, none above `size`. A root is None where too much is gone to know it.
    `signed` is the root that the whole has according to its checkpoint.
    """
    path = _Path(source, size, signed, findings)
    pending = iter(states)
    state = next(pending, None)
    while state and state.size == 0:
        yield state, EMPTY_ROOT
        state = next(pending, None)
    for number in range(-(-size // WIDTH)):
        first, width = number * WIDTH, min(WIDTH, size - number * WIDTH)
        hashes = path.leaves(number, width)
        while state and state.size <= first + width:
            yield state, path.root_with(hashes, state.size - first)
            state = next(pending, None)
        path.close(number, width, hashes)
    path.end()


class _Path:
    """The right edge of the tree at the place that was reached."""

    def __init__(self, source: Source, size: int, signed: bytes, findings: Findings) -> None:
        self._source, self._size, self._signed, self._findings = source, size, signed, findings
        self._edge: list[list[bytes]] = [[]]
        self._tiles: dict[int, tuple[int, list[bytes] | None]] = {}
        self._known = True
        self._contradictions: list[tuple[str, str]] = []

    def leaves(self, number: int, width: int) -> list[bytes] | None:
        """The hashes of one bundle of entries that are to be believed, or None where they are gone."""
        made = self._source.leaves(number, width)
        stored = self._stored(0, number, width)
        whole = [one for one in made if one is not None]
        if stored is None:
            return whole if len(whole) == width else None
        wrong = [i for i, one in enumerate(made) if one is not None and one != stored[i]]
        if not wrong:
            return stored
        if len(whole) == width and self._fits(number, width, whole) and not self._fits(number, width, stored):
            for i in wrong:
                self._findings.add(
                    "changed_tile",
                    self._source.tile_name(0, number, width),
                    f"its hash {i} was changed: it is not that of {self._source.entry_name(number * WIDTH + i)}",
                )
            return whole
        for i in wrong:
            self._findings.add(
                "changed_entry", self._source.entry_name(number * WIDTH + i), "it is not what was logged there"
            )
        return stored

    def root_with(self, hashes: list[bytes] | None, width: int) -> bytes | None:
        """The root of everything before this bundle, and its first `width` leaves."""
        if hashes is None or not self._known:
            return None
        return edge_root([hashes[:width], *self._edge[1:]])

    def close(self, number: int, width: int, hashes: list[bytes] | None) -> None:
        """Go on behind this bundle."""
        if width < WIDTH:
            if hashes is None:
                self._known = False
            else:
                self._edge[0] = hashes
            return
        above = None if hashes is not None else self._parent(1, number)
        if hashes is not None:
            self._rise(1, number, root(hashes))
        elif above is not None:
            self._rise(1, number, above)  # its entries are gone, and were reported; the rest can still be checked
        else:
            self._known = False

    def end(self) -> None:
        """Say which side of a contradiction is wrong: the root that was signed decides."""
        sound = self._known and edge_root(self._edge) == self._signed
        for below, above in self._contradictions:
            if sound:
                self._findings.add("changed_tile", above, f"it was changed: it does not hold the root of {below}")
            else:
                self._findings.add(
                    "changed_entry", below, f"its entries were changed, and their hashes with them; {above} tells"
                )

    def _rise(self, level: int, number: int, made: bytes) -> None:
        """Add the root of a full tile to the level above, as far up as tiles become full."""
        if not self._known:
            return
        if level == len(self._edge):
            self._edge.append([])
        stored = self._parent(level, number)
        if stored is not None and stored != made:
            self._contradictions.append(
                (
                    self._source.tile_name(level - 1, number, WIDTH),
                    self._source.tile_name(level, number // WIDTH, self._width(level, number // WIDTH)),
                )
            )
            del self._contradictions[100:]
        row = self._edge[level]
        row.append(made)
        if len(row) == WIDTH:
            whole = root(row)
            row.clear()
            self._rise(level + 1, number // WIDTH, whole)

    def _fits(self, number: int, width: int, hashes: list[bytes]) -> bool:
        if width < WIDTH:
            return self.root_with(hashes, width) == self._signed
        return root(hashes) == self._parent(1, number)

    def _parent(self, level: int, position: int) -> bytes | None:
        """Hash `position` of a level, as its tile has it."""
        number = position // WIDTH
        stored = self._stored(level, number, self._width(level, number))
        return None if stored is None else stored[position % WIDTH]

    def _width(self, level: int, number: int) -> int:
        return min(WIDTH, (self._size >> 8 * level) - number * WIDTH)

    def _stored(self, level: int, number: int, width: int) -> list[bytes] | None:
        kept = self._tiles.get(level)
        if kept is None or kept[0] != number:
            data = self._source.tile(level, number, width)
            kept = self._tiles[level] = (number, None if data is None else hashes_of(data))
        return kept[1]
