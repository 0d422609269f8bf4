"""The Merkle tree of RFC 6962 (https://www.rfc-editor.org/rfc/rfc6962, section 2.1): hashes, roots and proofs.

Pure functions over SHA-256 hashes of 32 bytes. A leaf's hash and a node's begin differently, so that no entry can be
passed off as a node. What is stored is reached through `Node`, which gives the root of one perfect subtree: a proof
over ten million leaves asks for some fifty of them and never for the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

Node = Callable[[int, int], bytes]
"""(height, position) -> root of the leaves [position * 2**height, (position + 1) * 2**height)."""

EMPTY_ROOT = sha256(b"").digest()
HASH_BYTES = 32


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one entry."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees beside each other."""
    return sha256(b"\x01" + left + right).digest()


def root(hashes: Sequence[bytes]) -> bytes:
    """The root over hashes of one height, the first leftmost."""
    if not hashes:
        return EMPTY_ROOT
    row = list(hashes)
    while len(row) > 1:
        pairs = [sha256(b"\x01" + left + right).digest() for left, right in zip(row[::2], row[1::2], strict=False)]
        # The odd one at the end has no neighbour and rises: this is RFC 6962's split at the largest power of two.
        row = [*pairs, row[-1]] if len(row) % 2 else pairs
    return row[0]


def tree_root(size: int, node: Node) -> bytes:
    """The root of the first `size` leaves."""
    return _range_root(0, size, node) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """What proves that leaf `index` is in the tree of the first `size` leaves. Raises ValueError outside of it."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not among the first {size}")
    proof: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            proof.append(_range_root(middle, end, node))
            end = middle
        else:
            proof.append(_range_root(start, middle, node))
            start = middle
    return proof[::-1]


def consistency_proof(first: int, second: int, node: Node) -> list[bytes]:
    """What proves that the first `first` leaves are the beginning of the first `second`. Raises ValueError."""
    if not 0 <= first <= second:
        raise ValueError(f"a tree of {first} leaves is not the beginning of one of {second}")
    proof: list[bytes] = []
    start, end = 0, second
    while 0 < first < end:
        middle = start + _split(end - start)
        if first <= middle:
            proof.append(_range_root(middle, end, node))
            end = middle
        else:
            proof.append(_range_root(start, middle, node))
            start = middle
    if start > 0:  # else the old tree is itself a subtree, and whoever checks has its root
        proof.append(_range_root(start, end, node))
    return proof[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes) -> bool:
    """Whether `proof` leads from the leaf's hash to the root `expected` (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    here, last, seen = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if here & 1 or here == last:
            seen = node_hash(step, seen)
            while not here & 1 and here:
                here, last = here >> 1, last >> 1
        else:
            seen = node_hash(seen, step)
        here, last = here >> 1, last >> 1
    return last == 0 and seen == expected


def verify_consistency(first: int, second: int, proof: Sequence[bytes], old: bytes, new: bytes) -> bool:
    """Whether `proof` shows that the tree with the root `old` is the beginning of the one with `new`.

    RFC 9162, section 2.1.4.2. The empty tree is the beginning of every tree.
    """
    if not 0 <= first <= second:
        return False
    if first in (0, second):
        return not proof and old == (new if first else EMPTY_ROOT)
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, old)  # the old tree is a subtree of the new one, and the proof begins above it
    if not path:
        return False
    here, last = first - 1, second - 1
    while here & 1:
        here, last = here >> 1, last >> 1
    old_seen = new_seen = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if here & 1 or here == last:
            old_seen, new_seen = node_hash(step, old_seen), node_hash(step, new_seen)
            while not here & 1 and here:
                here, last = here >> 1, last >> 1
        else:
            new_seen = node_hash(new_seen, step)
        here, last = here >> 1, last >> 1
    return last == 0 and old_seen == old and new_seen == new


def _split(width: int) -> int:
    """The largest power of two below `width`."""
    return int(1 << ((width - 1).bit_length() - 1))


def _range_root(start: int, end: int, node: Node) -> bytes:
    """The root of the leaves [start, end), a range that RFC 6962's splits lead to."""
    width = end - start
    if width & (width - 1) == 0:
        return node(width.bit_length() - 1, start // width)
    middle = start + _split(width)
    return node_hash(_range_root(start, middle, node), _range_root(middle, end, node))
