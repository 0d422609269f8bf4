"""`commonfleet verify --log DIR --key KEY`: check a published log with nothing else at hand.

Three questions, of which the log itself can only answer the first. Is it consistent in itself: does each entry hash to
its leaf, and all of them to the root that was signed? Does it continue what was seen before: the checkpoint that this
verifier remembers, or one that somebody else was given? Is it the longest that there is: only a witness can tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tasks.publish.log.findings import Audit, Findings, assured
from tasks.publish.log.folder import CHECKPOINT, WITNESSED, FolderSource
from tasks.publish.log.seen import (
    Seen,
    continued,
    kept,
    log_key,
    read_seen,
    told_different,
    told_shorter,
    witness_keys,
    witnessed,
)
from tasks.publish.log.walk import walk


def verify_log(
    folder: Path, key: str, *, remembered: Path | None = None, witnesses: Sequence[str] = (), seen: Sequence[Path] = ()
) -> Audit:
    """Check the log in `folder` with its key (`name+id+base64`), and say what is wrong with it.

    `remembered` is a file that keeps the last checkpoint: the log must continue it, and it is replaced when all is
    well. `witnesses` are keys whose co-signatures must be there. `seen` are checkpoints that came another way, such as
    from a witness. Raises TrustError where a key is none.
    """
    own, trusted = log_key(key), witness_keys(witnesses)
    findings = Findings()
    newest = read_seen(folder / CHECKPOINT, CHECKPOINT, own, trusted, findings)
    others = [state for path in seen if (state := read_seen(path, str(path), own, trusted, findings))]
    beside = memory = None
    if (folder / WITNESSED).exists():
        beside = read_seen(folder / WITNESSED, WITNESSED, own, trusted, findings)
    if remembered is not None and remembered.exists():
        memory = read_seen(remembered, str(remembered), own, trusted, findings)
    if newest is None:
        return Audit(own.name, 0, b"", tuple(findings.listed), findings.count, assured(False, 0, []))
    earlier = [state for state in (memory, *others, beside) if state]
    compare(FolderSource(folder, newest.size, findings), newest, earlier, findings)
    vouchers = continued(memory, others) + witnessed(trusted, [*earlier, newest], findings)
    not_kept = kept(remembered, str(newest.note).encode()) if findings.count == 0 and remembered else ""
    assurance = assured(not findings.count, newest.size, vouchers)
    listed, count = tuple(findings.listed), findings.count
    return Audit(own.name, newest.size, newest.root, listed, count, assurance, not_kept=not_kept)


def compare(source: FolderSource, newest: Seen, earlier: Sequence[Seen], findings: Findings) -> None:
    """Walk the log, and compare it with each state that it is known to have had."""
    for state in earlier:
        told_shorter(state, newest.size, findings)
    reached = sorted((state for state in (*earlier, newest) if state.size <= newest.size), key=lambda state: state.size)
    fits, different = False, []
    for state, found in walk(source, newest.size, newest.root, reached, findings):
        if state is newest:
            fits = found == newest.root
            if found is not None and not fits:
                says = "its root is not that of the entries: some of them were changed"
                findings.add("wrong_root", state.where, says)
        elif found is not None and found != state.root:
            different.append(state)
    for state in different:
        told_different(state, newest.checkpoint, fits, findings)
