"""Tiles: the paths of the specification, and a tree that is the same however it grew."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blocks.ledger.merkle import consistency_proof, inclusion_proof, leaf_hash, root, verify_consistency
from blocks.ledger.tiles import (
    WIDTH,
    Growth,
    edge_of,
    entries_path,
    grow,
    hashes_of,
    new_tiles,
    nodes_in,
    parse_path,
    tile_path,
    widths,
)

LEAVES = [leaf_hash(str(i).encode()) for i in range(70_000)]


class Grown:
    """A tree whose tiles are kept in a dictionary."""

    def __init__(self) -> None:
        self.size = 0
        self.tiles: dict[tuple[int, int], bytes] = {}

    def tile(self, level: int, number: int) -> bytes:
        return self.tiles[level, number]

    def append(self, count: int) -> Growth:
        growth = grow(self.size, edge_of(self.size, self.tile), LEAVES[self.size : self.size + count])
        for name, hashes in growth.tiles.items():
            assert hashes.startswith(self.tiles.get(name, b"")), "a tile only grows at its end"
            assert len(hashes) > len(self.tiles.get(name, b"")), "what has not grown is not written again"
        self.tiles |= growth.tiles
        self.size = growth.size
        return growth


def test_paths_are_those_of_the_specification() -> None:
    assert tile_path(0, 1234067) == "tile/0/x001/x234/067"
    assert tile_path(0, 0) == "tile/0/000"
    assert tile_path(1, 999) == "tile/1/999"
    assert tile_path(2, 1000, 5) == "tile/2/x001/000.p/5"
    assert entries_path(273, 112) == "tile/entries/273.p/112"


@given(st.integers(0, 63) | st.none(), st.integers(0, 10**9), st.integers(1, WIDTH))
def test_a_path_says_which_tile_it_is(level: int | None, number: int, width: int) -> None:
    path = entries_path(number, width) if level is None else tile_path(level, number, width)
    assert parse_path(path) == (level, number, width)


@pytest.mark.parametrize(
    "path",
    ["tile/0/1", "tile/64/000", "tile/00/000", "tile/0/x000/001", "tile/0/000.p/256", "tile/0/000.p/0",
     "tile/0/x001/x234/x067", "tile/0/000/", "/tile/0/000", "tile/0/001/234", "tile/data/000", "tile/0/../000"],
)  # fmt: skip
def test_what_is_no_path_of_a_tile_is_refused(path: str) -> None:
    with pytest.raises(ValueError):
        parse_path(path)


def test_a_tree_of_70000_leaves_has_the_tiles_that_the_specification_counts() -> None:
    tree = Grown()
    tree.append(70_000)
    full = {
        level: sum(1 for (at, _), hashes in tree.tiles.items() if at == level and len(hashes) == 8192)
        for level in range(3)
    }
    assert full == {0: 273, 1: 1, 2: 0}
    assert widths(70_000) == [112, 17, 1]
    assert {name: len(tree.tiles[name]) // 32 for name in ((0, 273), (1, 1), (2, 0))} == {
        (0, 273): 112,
        (1, 1): 17,
        (2, 0): 1,
    }


@pytest.mark.parametrize("batch", [1, 100, 255, 256, 257, 1000])
def test_a_tree_is_the_same_however_it_grew(batch: int) -> None:
    tree, at_once = Grown(), Grown()
    while tree.size < 2_000:
        growth = tree.append(batch)
        assert growth.root == root(LEAVES[: tree.size])
    at_once.append(tree.size)
    assert tree.tiles == at_once.tiles


def test_roots_are_right_across_the_edge_of_two_levels() -> None:
    tree = Grown()
    tree.append(65_530)
    for _ in range(12):
        assert tree.append(1).root == root(LEAVES[: tree.size])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_proofs_from_tiles_are_those_from_the_leaves(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 3_000))
    tree = Grown()
    tree.append(size + data.draw(st.integers(0, 600)))  # the tree may have grown on since
    index, first = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))

    def direct(height: int, position: int) -> bytes:
        return root(LEAVES[position << height : (position + 1) << height])

    stored = nodes_in(tree.tile)
    assert inclusion_proof(index, size, stored) == inclusion_proof(index, size, direct)
    proof = consistency_proof(first, size, stored)
    assert verify_consistency(first, size, proof, root(LEAVES[:first]), root(LEAVES[:size]))


@given(st.lists(st.integers(1, 70_000), min_size=1, max_size=5))
def test_what_is_new_between_two_sizes_adds_up_to_the_whole_tree(sizes: list[int]) -> None:
    held: dict[tuple[int, int], int] = {}
    before = 0
    for size in sorted(sizes):
        for level, number, width in new_tiles(before, size):
            assert width > held.get((level, number), 0), "nothing is published twice"
            held[level, number] = width
        before = size
    wanted = {}
    size, level = before, 0
    while size:
        wanted |= {(level, number): WIDTH for number in range(size // WIDTH)}
        if size % WIDTH:
            wanted[level, size // WIDTH] = size % WIDTH
        size, level = size // WIDTH, level + 1
    assert held == wanted


def test_a_tile_gives_its_hashes() -> None:
    assert hashes_of(b"".join(LEAVES[:5]), 1, 3) == LEAVES[1:3]
    assert hashes_of(b"".join(LEAVES[:5])) == LEAVES[:5]
