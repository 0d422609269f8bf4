"""`commonfleet ingest`: each file's outcome on a line of its own, and what the run holds by now."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence

from blocks.errors import CommonfleetError
from blocks.home import open_home
from blocks.signing import load_or_make_key
from flows.drive import ledger_of
from tasks.collect.ingest import Outcome, ingest
from tasks.collect.ingested import holds
from tasks.publish.log.own import append_to_log


def ingest_files(
    paths: Sequence[str], run: str, *, suite: str | None, environment: str, format: str | None, as_json: bool
) -> int:
    """Exit code 0 where every file was ingested or salvaged, 1 where some were refused."""
    home = open_home()
    ledger = ledger_of(home)
    outcomes: list[Outcome] = []
    try:
        found = ingest(
            ledger, load_or_make_key(home.keys / "agent.key"), paths, run=run, environment=environment, suite=suite,
            format=format, stdin=sys.stdin.buffer,
        )  # fmt: skip
        try:
            for outcome in found:
                outcomes.append(outcome)
                if not as_json:
                    print(f"{outcome.reading.name}: {outcome.sentence()}", flush=True)
        except CommonfleetError as error:
            raise _cut_short(error, outcomes, run) from error
        except KeyboardInterrupt:
            print(f"Stopped. {_left(outcomes, run)}", file=sys.stderr)
            return 1
        append_to_log(home, ledger)
        now = holds(ledger, run)
    finally:
        ledger.close()
    counts = Counter(outcome.word for outcome in outcomes)
    if as_json:
        said = {word: counts[word] for word in ("ingested", "salvaged", "refused")}
        again = sum(bool(outcome.again) for outcome in outcomes)
        files = [outcome.to_json() for outcome in outcomes]
        print(json.dumps({"run": run, "holds": now, **said, "again": again, "files": files}, indent=1))
    else:
        _tell(outcomes, counts, run, now)
    return 1 if counts["refused"] else 0


def _tell(outcomes: Sequence[Outcome], counts: Counter[str], run: str, now: str | None) -> None:
    again = sum(bool(outcome.again) for outcome in outcomes)
    known = f" {again:,} of them were there already." if again else ""
    words = ", ".join(f"{counts[word]:,} {word}" for word in ("ingested", "salvaged", "refused"))
    print(f"{len(outcomes):,} {'file' if len(outcomes) == 1 else 'files'}: {words}.{known}")
    if counts["refused"]:
        print("Nothing was kept of what was refused. Mend or remove those files; the same command again is safe.")
    print(f"Run {run}: {now} `commonfleet show {run}` has more." if now else f"There is no run {run} yet.")


def _left(outcomes: Sequence[Outcome], run: str) -> str:
    done = sum(outcome.word != "refused" for outcome in outcomes)
    return f"{done:,} files are in run {run}; the same command again goes on with the others."


def _cut_short(error: CommonfleetError, outcomes: Sequence[Outcome], run: str) -> CommonfleetError:
    """The same error, with what was kept and what to do here."""
    do = error.do.replace("`commonfleet resume RUN`", "run the same command again")
    return type(error)(error.what, kept=_left(outcomes, run) if outcomes else error.kept, do=do)
