"""`commonfleet verify --log DIR --key KEY`: check a published log with nothing else at hand.

Three questions, of which the log itself can only answer the first. Is it consistent in itself: does each entry hash to
its leaf, and all of them to the root that was signed? Does it continue what was seen before: the checkpoint that this
verifier remembers, or one that somebody else was given? Is it the longest that there is: only a witness can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from blocks.disk import write_whole
from blocks.errors import TrustError
from blocks.ledger.notes import (
    COSIGNATURE,
    Checkpoint,
    Note,
    VerifierKey,
    check_note,
    parse_checkpoint,
    parse_note,
    verifier_key,
)
from tasks.publish.log.findings import Audit, Findings, assured
from tasks.publish.log.folder import CHECKPOINT, LARGEST_NOTE, WITNESSED, FolderSource, read_at_most
from tasks.publish.log.walk import walk


@dataclass(frozen=True)
class Seen:
    """A checkpoint of this log, and where it was seen. Witnesses come with the time of their co-signature."""

    where: str
    note: Note
    checkpoint: Checkpoint
    witnesses: dict[VerifierKey, int]

    @property
    def size(self) -> int:
        return self.checkpoint.size


def verify_log(
    folder: Path, key: str, *, remembered: Path | None = None, witnesses: Sequence[str] = (), seen: Sequence[Path] = ()
) -> Audit:
    """Check the log in `folder` with its key (`name+id+base64`), and say what is wrong with it.

    `remembered` is a file that keeps the last checkpoint: the log must continue it, and it is replaced when all is
    well. `witnesses` are keys whose co-signatures must be there. `seen` are checkpoints that came another way, such as
    from a witness. Raises TrustError where a key is none.
    """
    own, trusted = verifier_key(key), [verifier_key(text) for text in witnesses]
    for witness in trusted:
        if witness.type != COSIGNATURE:
            raise TrustError(f"{witness.name!r} is the key of a log and not of a witness.")
    findings = Findings()
    newest = read_seen(folder / CHECKPOINT, CHECKPOINT, own, trusted, findings)
    others = [read_seen(path, str(path), own, trusted, findings) for path in seen]
    if (folder / WITNESSED).exists():
        others.append(read_seen(folder / WITNESSED, WITNESSED, own, trusted, findings))
    memory = None
    if remembered is not None and remembered.exists():
        memory = read_seen(remembered, str(remembered), own, trusted, findings)
    if newest is None:
        return Audit(own.name, 0, b"", tuple(findings.listed), findings.count, assured(False, 0, []))
    states = [state for state in (memory, *others, newest) if state]
    source = FolderSource(folder, newest.size, findings)
    compare(source, newest, states, findings)
    vouchers = [f"it continues the {memory.size:,} seen before"] if memory else []
    vouchers += _witnesses(trusted, states, findings)
    if findings.count == 0 and remembered is not None:
        write_whole(remembered, str(newest.note).encode())
    size, root = newest.size, newest.checkpoint.root
    return Audit(
        own.name, size, root, tuple(findings.listed), findings.count, assured(not findings.count, size, vouchers)
    )


def read_seen(
    path: Path, where: str, own: VerifierKey, witnesses: Iterable[VerifierKey], findings: Findings
) -> Seen | None:
    """A checkpoint that the log has signed, or None and a finding."""
    data = read_at_most(path, LARGEST_NOTE)
    if data is None:
        findings.add("missing", where, "there is no checkpoint")
        return None
    try:
        note = parse_note(data)
        signers = check_note(note, [own, *witnesses])
        if own not in signers:
            raise TrustError(f"It bears no signature of {own}.")
        checkpoint = parse_checkpoint(note.text)
    except TrustError as error:
        findings.add("bad_signature", where, str(error))
        return None
    if checkpoint.origin != own.name:
        findings.add("other_log", where, f"it is a checkpoint of {checkpoint.origin!r}, not of {own.name!r}")
        return None
    return Seen(where, note, checkpoint, {key: at for key, at in signers.items() if at is not None})


def compare(source: FolderSource, newest: Seen, states: list[Seen], findings: Findings) -> None:
    """Walk the log, and compare it with each state that it is known to have had."""
    size, root = newest.size, newest.checkpoint.root
    for state in states:
        if state.size > size:
            findings.add(
                "removed_tail",
                state.where,
                f"the log had {state.size:,} entries and has {size:,} now: the last {state.size - size:,} were removed",
            )
    reached = sorted((state for state in states if state.size <= size), key=lambda state: state.size)
    for state, found in walk(source, size, root, reached, findings):
        if found is None or found == state.checkpoint.root:
            continue
        if state is newest:
            findings.add("wrong_root", state.where, "its root is not that of the entries: some of them were changed")
        else:
            findings.add(
                "fork",
                state.where,
                f"the first {state.size:,} entries are not those that were signed then. Keep both checkpoints: "
                "together they prove that the log was rewritten",
            )


def _witnesses(trusted: list[VerifierKey], states: list[Seen], findings: Findings) -> list[str]:
    vouchers = []
    for witness in trusted:
        times = [(state.witnesses[witness], state.size) for state in states if witness in state.witnesses]
        if not times:
            findings.add("no_witness", witness.name, "no checkpoint bears a co-signature of this witness")
            continue
        at, size = max(times)
        told = datetime.fromtimestamp(min(at, 253402300799), UTC).isoformat(sep=" ", timespec="seconds")
        vouchers.append(f"{witness.name} had seen nothing longer than its first {size:,} at {told}")
    return vouchers
