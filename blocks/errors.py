"""Every error that commonfleet raises on purpose.

    CommonfleetError            what happened, what was kept, what to do next
    ├── CatalogError            the catalog says something that cannot be
    ├── BuildError              a build could not be made
    ├── PlanError               the plan cannot be made (no host fits, nothing to run)
    ├── HostError               a machine or its runner does not do what it should
    ├── LedgerError             the ledger cannot be opened, read or written
    │   ├── StaleDriver         another driver has taken the run over
    │   ├── NothingToTake       the run is closed, or in the hands of a driver that lives
    │   └── StaleSequencer      another sequencer has appended to the log in the meantime
    ├── ProtocolError           a message that does not fit the lease protocol
    └── TrustError              a digest or signature does not match

Bad input from a person ends as one of these, printed without a traceback.
"""

from __future__ import annotations


class CommonfleetError(Exception):
    """Something went wrong that a person can act on.

    `what` happened is required; `kept` says what is safe nevertheless, `do` what to do next.
    """

    def __init__(self, what: str, *, kept: str = "", do: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.kept = kept
        self.do = do

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.kept, self.do) if part)


class CatalogError(CommonfleetError):
    """The catalog is wrong; the message names file, line and what would be right."""


class BuildError(CommonfleetError):
    """A build could not be made; the first error of the tool is in the message."""


class PlanError(CommonfleetError):
    """The plan cannot be made, for instance because no host can ever run a unit."""


class HostError(CommonfleetError):
    """A machine, or the runner on it, does not answer as the protocol says."""


class LedgerError(CommonfleetError):
    """The ledger cannot be opened, read or written."""


class StaleDriver(LedgerError):
    """This driver has lost its run to another one; it must write nothing more."""


class NothingToTake(LedgerError):
    """The run cannot be taken over: it is closed, or its driver lives."""


class StaleSequencer(LedgerError):
    """Another sequencer has appended to the log since this one looked; nothing was appended twice."""


class ProtocolError(CommonfleetError):
    """A message of the lease protocol is malformed or out of place."""


class TrustError(CommonfleetError):
    """A digest or signature does not match what was promised."""


def innermost(error: BaseException) -> BaseException:
    """The first error of several that happened side by side: the others are mostly what it led to."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
