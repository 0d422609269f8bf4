"""A published log, checked with nothing but the folder and a key: what is wrong is named, and nothing is promised
that was not checked."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from blocks.canonical import digest_bytes
from blocks.errors import TrustError
from blocks.ledger.entries import pack, unpack
from blocks.ledger.merkle import leaf_hash
from blocks.ledger.notes import COSIGNATURE, ED25519, Checkpoint, VerifierKey, signed
from blocks.ledger.tiles import WIDTH, entries_path, grow, tile_path
from tasks.publish.log.findings import Audit
from tasks.publish.log.verify_log import verify_log
from tests.ledger_rows import new_key
from tests.tasks.publish.log.conftest import LONG, Published, flip


def kinds(audit: Audit) -> set[str]:
    return {finding.kind for finding in audit.findings}


def replace_entry(path: Path, index: int, entry: bytes) -> None:
    entries = unpack(path.read_bytes())
    entries[index] = entry
    path.write_bytes(pack(entries))


def test_an_untouched_log_is_good_and_says_what_that_proves(published: Published, tmp_path: Path) -> None:
    alone = published.verify()
    assert alone.good, alone.findings
    assert (alone.size, alone.origin) == (600, "log.example/ci")
    assert "truncation not excluded" in alone.assurance
    published.verify(remembered=tmp_path / "memory")
    published.grow(100)
    again = published.verify(remembered=tmp_path / "memory")
    assert again.assurance == "Consistent in itself up to 700 events; it continues the 600 seen before."


def test_the_entries_are_the_events(published: Published) -> None:
    entries: list[bytes] = []
    for name in ("000", "001", "002.p/88"):
        entries += unpack((published.folder / "tile/entries" / name).read_bytes())
    assert [digest_bytes(entry) for entry in entries] == list(published.ids)


@pytest.mark.parametrize(("path", "index", "entry"), [("000", 3, 3), ("001", 255, 511), ("002.p/88", 87, 599)])
def test_an_entry_that_was_changed_is_named(published: Published, path: str, index: int, entry: int) -> None:
    bundle = published.folder / "tile/entries" / path
    replace_entry(bundle, index, unpack(bundle.read_bytes())[index].replace(b"r-1", b"r-2"))
    found = published.verify()
    assert kinds(found) == {"changed_entry"}
    assert len(found.findings) == 1
    assert f"entry {entry} " in found.findings[0].where


@pytest.mark.parametrize(("path", "index"), [("000", 3), ("001", 255), ("002.p/88", 0)])
def test_a_hash_that_was_changed_is_named_and_not_its_entry(published: Published, path: str, index: int) -> None:
    flip(published.folder / "tile/0" / path, 32 * index + 7)
    found = published.verify()
    assert kinds(found) == {"changed_tile"}
    assert f"tile/0/{path}: its hash {index} " in str(found.findings[0])


def test_a_hash_that_was_changed_higher_up_is_named(published: Published) -> None:
    flip(published.folder / "tile/1/000.p/2", 40)
    found = published.verify()
    assert [(finding.kind, finding.where) for finding in found.findings] == [("changed_tile", "tile/1/000.p/2")]


def test_an_entry_that_was_changed_with_its_hash_is_told_by_the_tree_above(published: Published) -> None:
    bundle, tile = published.folder / "tile/entries/001", published.folder / "tile/0/001"
    replace_entry(bundle, 9, b"{}")
    data = tile.read_bytes()
    tile.write_bytes(data[: 9 * 32] + leaf_hash(b"{}") + data[10 * 32 :])
    found = published.verify()
    assert kinds(found) == {"changed_entry", "wrong_root"}
    assert any(finding.where == "tile/0/001" for finding in found.findings)


def test_a_whole_history_that_was_made_up_needs_a_signature(published: Published) -> None:
    checkpoint = published.folder / "checkpoint"
    checkpoint.write_bytes(checkpoint.read_bytes().replace(b"\n600\n", b"\n599\n"))
    assert kinds(published.verify()) == {"bad_signature"}
    forged = signed(str(Checkpoint("log.example/ci", 600, bytes(32))), "log.example/ci", new_key())
    checkpoint.write_text(str(forged))
    assert kinds(published.verify()) == {"bad_signature"}
    checkpoint.unlink()
    assert kinds(published.verify()) == {"missing"}


@pytest.mark.parametrize(
    "path", ["tile/0/000", "tile/0/002.p/88", "tile/1/000.p/2", "tile/entries/001", "tile/entries/002.p/88"]
)
def test_a_file_that_is_missing_or_cut_is_named(published: Published, path: str) -> None:
    file = published.folder / path
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    found = published.verify()
    assert [(finding.kind, finding.where) for finding in found.findings] == [("damaged", path)]
    file.unlink()
    found = published.verify()
    assert [(finding.kind, finding.where) for finding in found.findings] == [("missing", path)]


def test_the_rest_is_checked_where_files_are_missing(published: Published) -> None:
    for path in ("tile/0/000", "tile/entries/000"):
        (published.folder / path).unlink()
    bundle = published.folder / "tile/entries/001"
    replace_entry(bundle, 1, b"{}")
    found = published.verify()
    assert {(finding.kind, finding.where.split(",")[0]) for finding in found.findings} == {
        ("missing", "tile/0/000"), ("missing", "tile/entries/000"), ("changed_entry", "tile/entries/001"),
    }  # fmt: skip


def test_long_events_are_published_beside_the_tiles_and_checked(published: Published) -> None:
    published.grow(1, note=LONG)
    (content,) = (published.folder / "content").iterdir()
    assert published.verify().good
    assert digest_bytes(content.read_bytes()) == f"sha256:{content.name}"
    flip(content, 60_000)
    assert kinds(published.verify()) == {"changed_entry"}
    content.unlink()
    assert kinds(published.verify()) == {"missing"}


def test_a_tail_that_was_removed_is_told_by_what_is_remembered(published: Published, tmp_path: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(published.folder, before)
    published.grow(70)
    assert published.verify(remembered=tmp_path / "memory").good
    kept = (tmp_path / "memory").read_bytes()
    assert verify_log(before, published.key).good
    found = verify_log(before, published.key, remembered=tmp_path / "memory")
    assert kinds(found) == {"removed_tail"}
    assert "the last 70 were removed" in str(found.findings[0])
    assert (tmp_path / "memory").read_bytes() == kept


def test_a_fork_is_told_by_what_is_remembered(published: Published, tmp_path: Path) -> None:
    assert published.verify(remembered=tmp_path / "memory").good
    other = signed(str(Checkpoint("log.example/ci", 540, bytes(32))), "log.example/ci", published.signer.key)
    (tmp_path / "other").write_text(str(other))
    found = published.verify(remembered=tmp_path / "memory", seen=[tmp_path / "other"])
    assert [(finding.kind, finding.where) for finding in found.findings] == [("fork", str(tmp_path / "other"))]


def changed_with_its_hash(published: Published) -> None:
    """Change an entry of the last tile, and its hash: as a copy is damaged by somebody who has no key."""
    bundle, tile = published.folder / "tile/entries/002.p/88", published.folder / "tile/0/002.p/88"
    replace_entry(bundle, 9, b"{}")
    data = tile.read_bytes()
    tile.write_bytes(data[: 9 * 32] + leaf_hash(b"{}") + data[10 * 32 :])


def test_a_changed_copy_accuses_nobody_of_a_fork_while_the_checkpoints_agree(
    published: Published, tmp_path: Path
) -> None:
    shutil.copy(published.folder / "checkpoint", tmp_path / "middle")
    published.grow(2)
    assert published.verify(remembered=tmp_path / "memory").good
    bundle, tile = published.folder / "tile/entries/002.p/90", published.folder / "tile/0/002.p/90"
    replace_entry(bundle, 9, b"{}")
    data = tile.read_bytes()
    tile.write_bytes(data[: 9 * 32] + leaf_hash(b"{}") + data[10 * 32 :])

    found = published.verify(remembered=tmp_path / "memory")
    assert [(finding.kind, finding.where) for finding in found.findings] == [("wrong_root", "checkpoint")]
    found = published.verify(remembered=tmp_path / "memory", seen=[tmp_path / "middle"])
    assert kinds(found) == {"wrong_root"}
    assert not any("rewritten" in finding.says for finding in found.findings)


def test_two_checkpoints_of_one_size_prove_a_fork_whatever_became_of_the_entries(
    published: Published, tmp_path: Path
) -> None:
    other = signed(str(Checkpoint("log.example/ci", 600, bytes(32))), "log.example/ci", published.signer.key)
    (tmp_path / "other").write_text(str(other))
    assert kinds(published.verify(seen=[tmp_path / "other"])) == {"fork"}
    changed_with_its_hash(published)
    assert kinds(published.verify(seen=[tmp_path / "other"])) == {"fork", "wrong_root"}


def test_a_shorter_log_is_not_said_to_be_the_same_as_far_as_it_goes(published: Published, tmp_path: Path) -> None:
    longer = signed(str(Checkpoint("log.example/ci", 640, bytes(32))), "log.example/ci", published.signer.key)
    (tmp_path / "longer").write_text(str(longer))
    found = published.verify(seen=[tmp_path / "longer"])
    assert kinds(found) == {"removed_tail"}
    assert "at least the last 40 were removed" in found.findings[0].says
    assert "cannot be told" in found.findings[0].says


def test_a_checkpoint_that_was_kept_elsewhere_vouches_like_a_memory(published: Published, tmp_path: Path) -> None:
    shutil.copy(published.folder / "checkpoint", tmp_path / "kept")
    published.grow(5)
    found = published.verify(seen=[tmp_path / "kept"])
    assert found.assurance == f"Consistent in itself up to 605 events; it continues the 600 of {tmp_path / 'kept'}."


def test_a_memory_that_cannot_be_kept_is_told_beside_the_result(published: Published, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    found = published.verify(remembered=tmp_path / "file" / "memory")
    assert (found.good, found.size) == (True, 600)
    assert "cannot be written" in found.not_kept
    assert not published.verify(remembered=tmp_path / "memory").not_kept


def test_a_memory_of_another_log_is_told(published: Published, tmp_path: Path) -> None:
    (tmp_path / "memory").write_text(str(signed(str(Checkpoint("x", 1, bytes(32))), "x", new_key())))
    assert kinds(published.verify(remembered=tmp_path / "memory")) == {"bad_signature"}
    renamed = signed(str(Checkpoint("log.example/other", 1, bytes(32))), "log.example/ci", published.signer.key)
    (tmp_path / "memory").write_text(str(renamed))
    assert kinds(published.verify(remembered=tmp_path / "memory")) == {"other_log"}


def test_a_log_of_three_levels_is_walked_and_its_highest_tiles_are_checked(tmp_path: Path) -> None:
    size, key = 70_000, new_key()
    entries = [b"%d" % i for i in range(size)]
    growth = grow(0, [], [leaf_hash(entry) for entry in entries])
    for (level, number), hashes in growth.tiles.items():
        put(tmp_path / tile_path(level, number, len(hashes) // 32), hashes)
        if level == 0:
            bundle = entries[number * WIDTH : (number + 1) * WIDTH]
            put(tmp_path / entries_path(number, len(bundle)), pack(bundle))
    put(tmp_path / "checkpoint", str(signed(str(Checkpoint("big", size, growth.root)), "big", key)).encode())
    verifier = str(VerifierKey("big", ED25519, key.public))
    assert verify_log(tmp_path, verifier).good
    for path in ("tile/2/000.p/1", "tile/1/000", "tile/1/001.p/17"):
        whole = (tmp_path / path).read_bytes()
        flip(tmp_path / path, 3)
        found = verify_log(tmp_path, verifier)
        assert [(finding.kind, finding.where) for finding in found.findings] == [("changed_tile", path)]
        (tmp_path / path).write_bytes(whole)


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_what_is_no_key_is_refused(published: Published) -> None:
    with pytest.raises(TrustError):
        verify_log(published.folder, "log.example/ci")
    with pytest.raises(TrustError, match="not of a witness"):
        published.verify(witnesses=[published.key])
    with pytest.raises(TrustError, match="not of a log"):
        verify_log(published.folder, str(VerifierKey("w", COSIGNATURE, bytes(32))))
