"""Commands that keep the ledger: backing it up, restoring it, moving it to another database."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from blocks.errors import LedgerError
from blocks.home import located, open_home
from blocks.ledger.place import has_password, known_url, shown
from flows.drive import ledger_of


def back_up_here(folder: Path, *, keys: bool) -> int:
    """`commonfleet backup`: 0, or 1 where files that the records name are missing or altered in the ledger itself."""
    from tasks.keep.backup import back_up

    home = open_home()
    ledger = ledger_of(home)
    try:
        made = back_up(home, ledger, folder.expanduser().absolute(), keys=keys, tell=_tell)
    finally:
        ledger.close()
    print(f"Backed up to {made.folder}: {made.rows} records and {made.files} files, {made.bytes / 1e6:.1f} MB.")
    return _say_not_in_order(made.missing, made.altered)


def restore_here(folder: Path) -> int:
    """`commonfleet restore`."""
    from tasks.keep.restore import restore

    home = located()
    put = restore(home, folder.expanduser().absolute(), _tell)
    print(f"Restored into {home.root} as of {put.made}: {put.rows} records and {put.files} files, each checked.")
    return _say_not_in_order(put.missing, put.altered)


def move_here(to: str) -> int:
    """`commonfleet move-ledger`."""
    from tasks.keep.move import move

    if os.environ.get("COMMONFLEET_LEDGER", "").strip():
        raise LedgerError(
            "COMMONFLEET_LEDGER names the ledger, so that moving the state folder's would change nothing.",
            kept="Nothing was changed.",
            do="Unset it: after the move the state folder itself points to the new ledger.",
        )
    said = sys.stdin.readline().strip() if to == "-" else to
    url = known_url(said, "--to")
    if to != "-" and has_password(url):
        raise LedgerError(
            "A password on the command line can be read by everybody on this machine.",
            kept="Nothing was changed.",
            do="Leave it out of the URL and put it into ~/.pgpass, or give the URL on standard input: --to -",
        )
    home = open_home()
    moved = move(home, url)
    rows = sum(made.rows for made in moved.tables.values())
    print(f"Moved to {shown(url)}: {rows} records in {len(moved.tables)} tables, compared row for row.")
    print(f"The log is the same there: {moved.log.size:,} events, root {moved.log.root.hex()}. {moved.log.assurance}")
    print(f"{home.ledger_url} points there; {home.ledger} stays as it was and takes nothing more.")
    return 0


def _tell(what: str) -> None:
    print(f"{what} ...", file=sys.stderr)


def _say_not_in_order(missing: tuple[str, ...], altered: tuple[str, ...]) -> int:
    for kind, names in (("missing", missing), ("altered", altered)):
        if names:
            print(f"{len(names)} files that the records name were {kind} in the ledger, first {names[0]}.")
    return 1 if missing or altered else 0
