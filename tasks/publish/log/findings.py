"""What a check of the log found: each thing that is wrong, by name, and what the check can vouch for."""

from __future__ import annotations

from dataclasses import dataclass, field

LISTED = 100
"""Findings that are kept; of more, only the number. A log that was rewritten has one for each of its events."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    `kind` is one of: changed_entry, changed_tile, changed_event, changed_file, changed_record, changed_rows, unlogged,
    missing, damaged, bad_signature, removed_tail, fork, other_log, wrong_root, no_witness, missing_leaf, missing_event,
    never_sequenced. `where` is a file, a row or a part.
    """

    kind: str
    where: str
    says: str

    def __str__(self) -> str:
        return f"{self.where}: {self.says}"


@dataclass
class Findings:
    """Collects findings without growing with them."""

    listed: list[Finding] = field(default_factory=list)
    count: int = 0

    def add(self, kind: str, where: str, says: str) -> None:
        self.count += 1
        if len(self.listed) < LISTED:
            self.listed.append(Finding(kind, where, says))


@dataclass(frozen=True)
class Audit:
    """The outcome of a check. `assurance` says in a sentence what it proves, and what it cannot."""

    origin: str
    size: int
    root: bytes
    findings: tuple[Finding, ...]
    count: int  # of all findings, also those that are not listed
    assurance: str
    waiting: int = 0  # events that have no leaf yet, where the ledger was checked
    not_kept: str = ""  # why the checkpoint could not be remembered, where it should have been

    @property
    def good(self) -> bool:
        return self.count == 0


def assured(good: bool, size: int, vouchers: list[str]) -> str:
    """What can be said of a log of `size` events that was compared with what the `vouchers` say."""
    if not good:
        return "Not what was logged: see the findings."
    events = f"{size:,} event{'' if size == 1 else 's'}"
    if not vouchers:
        return (
            f"Consistent in itself up to {events}; truncation not excluded, for there was no earlier checkpoint and no "
            "witness to compare with."
        )
    return f"Consistent in itself up to {events}; {'; '.join(vouchers)}."
