"""The run's conclusion: exit code and one plain sentence, from the verdicts and the accounts. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tasks.judge.decide import POISON, Verdict

CANCELLED = "cancelled"
_NAMED = 3  # as many broken tests as a sentence can carry


@dataclass(frozen=True)
class Accounts:
    """What became of the planned units and tests of a run. `lost` and `not_run` count units by reason."""

    planned: int
    state: str = "complete"
    open: int = 0
    lost: Mapping[str, int] = field(default_factory=dict)
    not_run: Mapping[str, int] = field(default_factory=dict)
    missing: int = 0
    damaged: int = 0  # bundles that cannot be trusted any more


def conclude(verdicts: Sequence[Verdict], accounts: Accounts) -> tuple[int, str]:
    """0 and a sentence when all is accounted for and nothing new is broken; 1 and why otherwise."""
    new = [verdict for verdict in verdicts if verdict.standing == "new"]
    faults = [*_broken(new), *_unaccounted(accounts)]
    if faults:
        return 1, _sentence(faults) + _aside(verdicts)
    units = _count(accounts.planned, "planned unit")
    verb = "is" if accounts.planned == 1 else "are"
    return 0, f"All {units} {verb} accounted for and nothing new is broken{_aside(verdicts)}"


def _broken(new: Sequence[Verdict]) -> list[str]:
    if not new:
        return []
    names = [verdict.test for verdict in new[:_NAMED]]
    more = f" and {len(new) - _NAMED} more" if len(new) > _NAMED else ""
    return [f"{_count(len(new), 'test')} newly broke ({', '.join(names)}{more})"]


def _unaccounted(accounts: Accounts) -> list[str]:
    faults = []
    cancelled = sum(n for reason, n in accounts.not_run.items() if reason.startswith(CANCELLED))
    if cancelled or accounts.state == "cancelled":
        faults.append(f"the run was cancelled and {cancelled} of {_count(accounts.planned, 'unit')} did not run")
    lost = {reason: n for reason, n in accounts.lost.items() if not reason.startswith(POISON)}  # those have verdicts
    if lost:
        faults.append(f"{_count(sum(lost.values()), 'unit')} ended lost ({_reasons(lost)})")
    others = {reason: n for reason, n in accounts.not_run.items() if not reason.startswith(CANCELLED)}
    if others:
        faults.append(f"{_count(sum(others.values()), 'unit')} did not run ({_reasons(others)})")
    if accounts.open:
        faults.append(f"{_count(accounts.open, 'unit')} of {accounts.planned} have no terminal state yet")
    if accounts.missing:
        faults.append(f"{_count(accounts.missing, 'planned test')} of units that ran have no result")
    if accounts.damaged:
        faults.append(f"{_count(accounts.damaged, 'bundle')} in the store cannot be trusted any more")
    return faults


def _sentence(faults: Sequence[str]) -> str:
    text = ", ".join(faults[:-1]) + " and " + faults[-1] if len(faults) > 1 else faults[0]
    return text[0].upper() + text[1:]


def _aside(verdicts: Iterable[Verdict]) -> str:
    """What is bad and does not gate, in brackets, with the sentence's full stop."""
    said = {"quarantined": "quarantined", "known": "failed before", "order_dependent": "pass alone"}
    found = [
        f"{number} {words}"
        for standing, words in said.items()
        if (number := sum(verdict.standing == standing for verdict in verdicts))
    ]
    return f" ({', '.join(found)})." if found else "."


def _reasons(reasons: Mapping[str, int]) -> str:
    return ", ".join(reason or "no reason given" for reason in sorted(reasons))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
