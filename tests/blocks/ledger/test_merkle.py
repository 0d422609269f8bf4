"""The Merkle tree: the vectors that every implementation of RFC 6962 shares, and the RFC's own definition in words."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.ledger.merkle import (
    EMPTY_ROOT,
    Node,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
    tree_root,
    verify_consistency,
    verify_inclusion,
)

# The inputs, roots and proofs that implementations of Certificate Transparency share (transparency-dev/merkle).
INPUTS = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
INCLUSION = {
    (0, 1): (),
    (0, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (5, 8): (
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 3): ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",),
    (1, 5): (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
CONSISTENCY = {
    (1, 1): (),
    (1, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (6, 8): (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 5): (
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
    (6, 7): (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
}
LEAVES = [leaf_hash(entry) for entry in INPUTS]


def nodes(leaves: Sequence[bytes]) -> Node:
    """The perfect subtrees of these leaves; asking for one that is not whole fails."""

    def node(height: int, position: int) -> bytes:
        end = (position + 1) << height
        assert end <= len(leaves), "a node was asked for that no tree of this size stores"
        return mth(leaves[position << height : end])

    return node


def mth(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, as it stands there, over leaf hashes."""
    if len(leaves) < 2:
        return leaves[0] if leaves else sha256(b"").digest()
    k = split(len(leaves))
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962, section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: Sequence[bytes], whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962, section 2.1.2."""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def split(n: int) -> int:
    """The largest power of two smaller than n."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def made_leaves(count: int) -> list[bytes]:
    return [leaf_hash(str(i).encode()) for i in range(count)]


@pytest.mark.parametrize("size", range(9))
def test_the_roots_are_those_of_the_known_vectors(size: int) -> None:
    assert root(LEAVES[:size]).hex() == ROOTS[size]
    assert tree_root(size, nodes(LEAVES)).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size"), INCLUSION)
def test_inclusion_proofs_are_those_of_the_known_vectors(index: int, size: int) -> None:
    proof = inclusion_proof(index, size, nodes(LEAVES))
    assert tuple(step.hex() for step in proof) == INCLUSION[index, size]
    assert verify_inclusion(LEAVES[index], index, size, proof, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("first", "second"), CONSISTENCY)
def test_consistency_proofs_are_those_of_the_known_vectors(first: int, second: int) -> None:
    proof = consistency_proof(first, second, nodes(LEAVES))
    assert tuple(step.hex() for step in proof) == CONSISTENCY[first, second]
    assert verify_consistency(first, second, proof, bytes.fromhex(ROOTS[first]), bytes.fromhex(ROOTS[second]))


def test_a_leaf_can_never_be_passed_off_as_a_node() -> None:
    left, right = LEAVES[:2]
    assert leaf_hash(left + right) != node_hash(left, right)


@given(st.integers(0, 300))
def test_every_root_is_that_of_the_rfc(size: int) -> None:
    leaves = made_leaves(size)
    assert root(leaves) == tree_root(size, nodes(leaves)) == mth(leaves)


@given(st.data())
def test_every_inclusion_proof_is_that_of_the_rfc_and_verifies(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 200))
    index = data.draw(st.integers(0, size - 1))
    leaves = made_leaves(size)
    proof = inclusion_proof(index, size, nodes(leaves))
    assert proof == path(index, leaves)
    assert verify_inclusion(leaves[index], index, size, proof, mth(leaves))


@given(st.data())
def test_every_consistency_proof_is_that_of_the_rfc_and_verifies(data: st.DataObject) -> None:
    second = data.draw(st.integers(1, 200))
    first = data.draw(st.integers(1, second))
    leaves = made_leaves(second)
    proof = consistency_proof(first, second, nodes(leaves))
    assert proof == subproof(first, leaves, True)
    assert verify_consistency(first, second, proof, mth(leaves[:first]), mth(leaves))


@given(st.data())
def test_a_proof_with_anything_changed_verifies_nothing(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 100))
    index = data.draw(st.integers(0, size - 1))
    leaves = made_leaves(size)
    proof, whole = inclusion_proof(index, size, nodes(leaves)), mth(leaves)
    at, bit = data.draw(st.integers(0, len(proof) - 1)), data.draw(st.integers(0, 255))
    flipped = (int.from_bytes(proof[at], "big") ^ 1 << bit).to_bytes(32, "big")
    assert not verify_inclusion(leaves[index], index, size, [*proof[:at], flipped, *proof[at + 1 :]], whole)
    assert not verify_inclusion(leaves[index], index, size, proof[:-1], whole)
    assert not verify_inclusion(leaves[index], index, size, [*proof, whole], whole)
    assert not verify_inclusion(leaves[index - 1], index, size, proof, whole)
    assert not verify_inclusion(leaves[index], size, size, proof, whole)


def test_a_proof_says_how_large_the_tree_is() -> None:
    left, right = LEAVES[:2]
    both = node_hash(left, right)
    assert verify_inclusion(right, 1, 2, [left], both)
    assert not verify_inclusion(right, 0, 1, [left], both), "longer than a tree of one leaf can need"
    assert not verify_inclusion(both, 0, 2, [], both), "shorter than a tree of two leaves needs"


@given(st.data())
def test_no_proof_makes_a_rewritten_log_consistent(data: st.DataObject) -> None:
    second = data.draw(st.integers(2, 100))
    first = data.draw(st.integers(1, second - 1))
    old = made_leaves(second)
    changed = data.draw(st.integers(0, first - 1))
    new = [*old[:changed], leaf_hash(b"rewritten"), *old[changed + 1 :]]
    for leaves in (old, new):
        proof = consistency_proof(first, second, nodes(leaves))
        assert not verify_consistency(first, second, proof, mth(old[:first]), mth(new))
        assert not verify_consistency(first, second, proof[:-1], mth(leaves[:first]), mth(leaves))
        assert not verify_consistency(first, second, [*proof, old[0]], mth(leaves[:first]), mth(leaves))


def test_trees_that_never_were_have_no_proofs() -> None:
    assert verify_consistency(0, 3, [], EMPTY_ROOT, mth(made_leaves(3)))
    assert not verify_consistency(0, 3, [], mth(made_leaves(1)), mth(made_leaves(3)))
    assert not verify_consistency(3, 2, [], EMPTY_ROOT, EMPTY_ROOT)
    assert not verify_consistency(2, 2, [], mth(made_leaves(1)), mth(made_leaves(2)))
    for first, second in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError):
            consistency_proof(first, second, nodes(made_leaves(3)))
    for index in (-1, 3):
        with pytest.raises(ValueError):
            inclusion_proof(index, 3, nodes(made_leaves(3)))
