"""The report of a run: one self-contained HTML page that people would rather look at than the log.

gather.py    the ledger, read into a `Story`          words.py      values as people read them
figures.py   outcomes, slowest tests, benchmarks      facts.py      recorded JSON as flat facts
failures.py  failures, with what they printed         command.py    the command that reproduces one
lanes.py     the timeline of slots                    drawing.py    where things stand in the pictures
story.py     what is told, as plain values            render.py     a `Story` as a page (templates/)
"""

from __future__ import annotations

from pathlib import Path

from blocks.ledger import Ledger
from tasks.publish.report.gather import gather
from tasks.publish.report.render import render

__all__ = ["gather", "render", "write_report"]


def write_report(ledger: Ledger, run: str, target: Path) -> Path:
    """Write the report of `run` to `target` (whole or not at all) and return it.

    The ledger is only read; a run that still goes on is told as it stands. Raises LedgerError when the ledger has no
    such run, CommonfleetError when the page cannot be written.
    """
    return render(gather(ledger, run), target)
