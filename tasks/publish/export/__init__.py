"""A run in other systems' formats. A format is one file here with one function, `pieces`, and a row in `KINDS`.

kcidb.py         KCIDB v5.3, for the databases of kernelci.org and those who took its schema over
test_times.py    PyTorch's test-times.json, which its sharding reads and ours
benchmark_v3.py  PyTorch's benchmark database, as its dashboard (HUD) reads it
written.py       JSON in pieces, without nulls

`pieces(ledger, run, origin=...)` gives the text of the document bit by bit. `run` is the id of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from blocks.errors import CommonfleetError
from blocks.ledger import Ledger
from tasks.publish.export import benchmark_v3, kcidb, test_times
from tasks.publish.summary import resolve_run

Pieces = Callable[[Ledger, str, str], Iterator[str]]

KINDS: Mapping[str, Pieces] = {
    "kcidb": kcidb.pieces,
    "test-times": test_times.pieces,
    "benchmark-v3": benchmark_v3.pieces,
}


def exported(kind: str, ledger: Ledger, run: str, *, origin: str = "commonfleet") -> Iterator[str]:
    """The document of `kind` about `run` (as `resolve_run` takes it), piece by piece. Raises CommonfleetError."""
    if kind not in KINDS:
        raise CommonfleetError(f"There is no export {kind!r}.", do=f"There are {', '.join(KINDS)}.")
    return KINDS[kind](ledger, resolve_run(ledger, run), origin)
