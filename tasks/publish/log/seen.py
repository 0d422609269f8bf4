"""Checkpoints that were kept outside of the log that is checked: what they prove about it, and keeping one more.

The memory of whoever verifies, a checkpoint that somebody else was given, or what a witness signed. They are what the
log itself cannot make up, so each is read, checked and compared in the same way wherever the log lies.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from blocks.disk import write_whole
from blocks.errors import TrustError
from blocks.ledger.notes import (
    COSIGNATURE,
    ED25519,
    Checkpoint,
    Note,
    VerifierKey,
    check_note,
    parse_checkpoint,
    parse_note,
    verifier_key,
)
from tasks.publish.log.findings import Findings
from tasks.publish.log.folder import LARGEST_NOTE, read_at_most


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

    @property
    def root(self) -> bytes:
        return self.checkpoint.root


def log_key(text: str) -> VerifierKey:
    """The key of a log. Raises TrustError where it is none, or a witness's."""
    key = verifier_key(text)
    if key.type != ED25519:
        raise TrustError(f"{key.name!r} is the key of a witness and not of a log.")
    return key


def witness_keys(texts: Iterable[str]) -> list[VerifierKey]:
    """The keys of witnesses. Raises TrustError where one is none, or a log's."""
    keys = [verifier_key(text) for text in texts]
    for key in keys:
        if key.type != COSIGNATURE:
            raise TrustError(f"{key.name!r} is the key of a log and not of a witness.")
    return keys


def read_seen(
    path: Path, where: str, own: VerifierKey, witnesses: Iterable[VerifierKey], findings: Findings
) -> Seen | None:
    """A checkpoint that the log has signed, or None and a finding."""
    data = read_at_most(path, LARGEST_NOTE)
    if data is None:
        findings.add("missing", where, "there is no checkpoint")
        return None
    return checked_note(data, where, own, witnesses, findings)


def checked_note(
    data: bytes, where: str, own: VerifierKey, witnesses: Iterable[VerifierKey], findings: Findings
) -> Seen | None:
    """The same of a checkpoint that was read already."""
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


def told_shorter(state: Seen, size: int, findings: Findings) -> None:
    """A finding where the log has fewer entries now. What became of the others, it cannot tell any more."""
    if state.size > size:
        findings.add(
            "removed_tail",
            state.where,
            f"the log had {state.size:,} entries then and has {size:,} now: at least the last {state.size - size:,} "
            "were removed. Whether the others are still the same cannot be told from a shorter log",
        )


def told_different(state: Seen, newest: Checkpoint | None, fits: bool, findings: Findings) -> None:
    """A finding for a checkpoint whose root is not that of the log's first entries as they are now.

    Only entries that the newest checkpoint vouches for (`fits`) tell what was signed later. Where it does not, they
    were changed where they lie, and two checkpoints that agree accuse nobody of signing two histories.
    """
    if fits or (newest and newest.size == state.size and newest.root != state.root):
        findings.add(
            "fork",
            state.where,
            f"the first {state.size:,} entries are not those that were signed then. Keep both checkpoints: "
            "together they prove that the log was rewritten",
        )
    elif newest is None or newest.size != state.size:
        findings.add(
            "wrong_root",
            state.where,
            f"its root is not that of the first {state.size:,} entries as they are here: some of them were changed",
        )


def continued(memory: Seen | None, others: Sequence[Seen]) -> list[str]:
    """What the checkpoints that were kept vouch for, in words."""
    told = [f"it continues the {memory.size:,} seen before"] if memory else []
    return told + [f"it continues the {other.size:,} of {other.where}" for other in others]


def witnessed(trusted: Iterable[VerifierKey], states: Sequence[Seen], findings: Findings) -> list[str]:
    """What each witness vouches for, in words; a finding for one that has signed none of these checkpoints."""
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


def kept(memory: Path, note: bytes) -> str:
    """Remember a checkpoint that was found good; returns why it could not be kept, or nothing.

    Whoever audits often may only read. What the check has found is true all the same, and is told.
    """
    try:
        if read_at_most(memory, LARGEST_NOTE) != note:
            write_whole(memory, note)
    except OSError as error:
        return f"{memory} cannot be written ({os.strerror(error.errno) if error.errno else error})"
    return ""
