"""The published folder: only what is new is written, and nothing that is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blocks.errors import LedgerError, TrustError
from blocks.ledger.tiles import parse_path
from tasks.publish.log.export import export_log
from tasks.publish.log.sequence import sequence_all, signer_of
from tasks.publish.log.verify_log import verify_log
from tests.ledger_rows import new_key, open_made
from tests.tasks.publish.log.conftest import LONG, Published, attack, write_events


def files(folder: Path) -> dict[str, int]:
    """Each file with the moment of its last change."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in found}


def test_the_folder_holds_what_the_specification_names_and_nothing_else(published: Published) -> None:
    names = set(files(published.folder)) - {"checkpoint", ".exporting"}
    assert all(parse_path(name) for name in names)
    assert {name for name in names if ".p/" not in name} == {
        "tile/0/000", "tile/0/001", "tile/entries/000", "tile/entries/001",
    }  # fmt: skip
    # Partial tiles of checkpoints that were published stay until the full one is there.
    assert {"tile/0/002.p/28", "tile/0/002.p/88", "tile/1/000.p/1", "tile/1/000.p/2"} <= names


def test_only_what_is_new_is_written(published: Published) -> None:
    before = files(published.folder)
    published.grow(200)
    after = files(published.folder)
    written = {name for name in after if after[name] != before.get(name)} - {".exporting"}
    assert written == {
        "checkpoint", "tile/0/002", "tile/entries/002", "tile/0/003.p/32", "tile/entries/003.p/32", "tile/1/000.p/3",
    }  # fmt: skip
    assert not any(name.startswith(("tile/0/002.p", "tile/entries/002.p")) for name in after)
    assert published.verify().good


def test_an_export_of_nothing_new_changes_no_tile(published: Published) -> None:
    before = files(published.folder)
    done = export_log(published.ledger, published.folder)
    assert (done.before, done.size, done.tiles) == (600, 600, 0)
    assert {n: t for n, t in files(published.folder).items() if n.startswith("tile")} == {
        n: t for n, t in before.items() if n.startswith("tile")
    }


def test_an_export_that_is_cut_anywhere_leaves_a_good_log_and_the_next_completes_it(
    published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_events(published.ledger, 300, first=2_000)
    write_events(published.ledger, 1, note=LONG)
    sequence_all(published.ledger, published.signer)
    cuts = 0
    while _is_cut(published, monkeypatch, after=cuts):
        found = published.verify()
        assert found.good, (cuts, found.findings)
        assert found.size == 600
        cuts += 1
    assert cuts == 6, "the files of this export, but for the content, which the second try finds there"
    found = published.verify()
    assert (found.good, found.size) == (True, 901)


def _is_cut(published: Published, monkeypatch: pytest.MonkeyPatch, *, after: int) -> bool:
    """Export, and fail once `after` files are in place; False where that was all of them."""
    left = after

    def cut(source: object, target: object) -> None:
        nonlocal left
        if left == 0:
            raise OSError("the power went")
        left -= 1
        os.rename(source, target)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", cut)
        try:
            export_log(published.ledger, published.folder)
        except OSError:
            return True
        return False


def test_an_event_that_was_changed_is_never_published(published: Published) -> None:
    write_events(published.ledger, 10, first=3_000)
    sequence_all(published.ledger, published.signer)
    attack(published.ledger, "UPDATE events SET body = replace(body, 'r-1', 'r-2') WHERE seq = 605")
    with pytest.raises(TrustError, match="leaves 512 to 609"):
        export_log(published.ledger, published.folder)
    assert published.verify().good


def test_another_log_is_not_written_over(published: Published, tmp_path: Path) -> None:
    other = open_made(tmp_path / "other")
    signer = signer_of(other, new_key(), "log.example/ci")
    with pytest.raises(LedgerError, match="leaf"):
        export_log(other, published.folder)
    write_events(other, 1_000)
    sequence_all(other, signer)
    with pytest.raises(TrustError, match="does not continue"):
        export_log(other, published.folder)
    other.close()
    assert published.verify().good


def test_a_ledger_that_lost_its_end_does_not_publish_a_shorter_log(published: Published, tmp_path: Path) -> None:
    attack(
        published.ledger,
        "DELETE FROM log_checkpoints WHERE size > 360",
        "DELETE FROM log_leaves WHERE leaf >= 360",
        "UPDATE log_head SET size = 360",
    )
    with pytest.raises(TrustError, match="does not continue"):
        export_log(published.ledger, published.folder)
    assert verify_log(published.folder, published.key).size == 600
