"""The commands. Nothing heavy is imported before a command needs it, so that `--help` answers at once.

Exit codes: 0 fine, 1 something is broken (or was cancelled), 2 the system failed or was asked for something that
cannot be. Each says so in one plain sentence, and no bad input ever ends in a traceback.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Annotated, NoReturn

from cyclopts import App, Parameter

from blocks.errors import CommonfleetError, innermost


def _version() -> str:
    """Of the distribution. Asked only when somebody wants to know: reading it takes longer than `--help`."""
    from importlib.metadata import version

    return version("commonfleet")


app = App(
    name="commonfleet",
    help="One continuous-integration system for PyTorch-class projects whose machines belong to many parties.",
    version=_version,
    version_flags=["--version"],
)

LEAVE_SECONDS = 2.0

Several = Annotated[tuple[str, ...], Parameter(negative="")]
Files = Annotated[tuple[Path, ...], Parameter(negative="")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON, for programs.")]


@app.command
def nightly(*, json: Json = False) -> int:
    """Build, test and benchmark on this machine, as the profile `embedded` says. Exit 0 when nothing new is broken."""
    from deployments.cli.driving import drive_here
    from flows.request import Request

    return drive_here(Request(), flow="nightly", as_json=json)


@app.command
def run(
    *,
    profile: str = "embedded",
    suite: Several = (),
    environment: Several = (),
    include: Several = (),
    sample: float = 1.0,
    slots: int = 0,
    retry_alone: int | None = None,
    json: Json = False,
) -> int:
    """Run a part of a profile.

    Parameters
    ----------
    profile
        A profile of the catalog.
    suite
        Only these suites of it (repeat the option for several).
    environment
        Only environments that match one of these globs.
    include
        Only tests that match one of these globs, over `file::Class.name`.
    sample
        The share of the profile to run, above 0 and at most 1. The same share is the same tests every time.
    slots
        Use at most this many slots of each machine; 0 means all.
    retry_alone
        Try at most this many failed tests of a unit again alone; by default as the suite says.
    """
    from deployments.cli.driving import drive_here
    from flows.request import Request

    if not 0 < sample <= 1:
        raise CommonfleetError(f"A sample is a share above 0 and at most 1, not {sample}.")
    if slots < 0:
        raise CommonfleetError(f"A number of slots is 0 (all) or more, not {slots}.")
    if retry_alone is not None and retry_alone < 0:
        raise CommonfleetError(f"A number of tests to try again alone is 0 (none) or more, not {retry_alone}.")
    request = Request(
        profile=profile,
        suites=suite,
        environments=environment,
        include=include,
        sample=sample,
        slots=slots,
        retry_alone=retry_alone,
    )
    return drive_here(request, flow="on_demand", as_json=json)


@app.command
def resume(run: str, *, json: Json = False) -> int:
    """Finish a run whose driver died or gave up. Finished units are not run again."""
    from deployments.cli.driving import resume_here

    return resume_here(run, as_json=json)


@app.command
def cancel(run: str) -> int:
    """Ask a run's driver to stop; its machines stop within seconds and every unit gets a terminal state."""
    from deployments.cli.looking import cancel_run

    return cancel_run(run)


@app.command
def plan(*, profile: str = "embedded", json: Json = False) -> int:
    """Show what a run of the profile would do, without running or recording anything."""
    from deployments.cli.driving import plan_here

    return plan_here(profile, as_json=json)


@app.command
def runs(*, limit: int = 20, json: Json = False) -> int:
    """List the runs, newest first."""
    from deployments.cli.looking import list_runs

    if limit < 1:
        raise CommonfleetError(f"A limit is 1 or more runs, not {limit}.")
    return list_runs(limit, as_json=json)


@app.command
def show(run: str = "latest", *, html: Path | None = None, json: Json = False) -> int:
    """Show what was planned in a run and what became of it. RUN may be shortened, or `latest`.

    Parameters
    ----------
    html
        Also write the run's report to this file.
    """
    from deployments.cli.looking import show_run

    return show_run(run, html, as_json=json)


@app.command
def query(sql: str, *, format: str | None = None, out: Path | None = None, json: Json = False) -> int:
    """Ask the ledger with SQL. Views: runs, units, results, tests, metrics, completeness, dark, costs, more.

    Parameters
    ----------
    format
        table, csv, json or parquet; by default what the name of --out says, else a table.
    out
        Write the answer to this file, whole or not at all.
    """
    from deployments.cli.looking import query_ledger

    return query_ledger(sql, format, out, as_json=json)


@app.command
def export(kind: str, run: str = "latest", *, out: Path | None = None, origin: str = "commonfleet") -> int:
    """Write a run in another system's format: kcidb, test-times or benchmark-v3.

    Parameters
    ----------
    kind
        kcidb (KCIDB v5.3), test-times (PyTorch's test-times.json, over the last runs up to RUN) or benchmark-v3.
    out
        Write to this file instead of standard output.
    origin
        Whom KCIDB's ids name as the submitter: lower-case letters, digits and underscores.
    """
    from deployments.cli.looking import export as export_run

    return export_run(kind, run, out, origin=origin)


@app.command
def ingest(
    paths: Annotated[tuple[str, ...], Parameter(negative="", allow_leading_hyphen=True)],
    /,
    *,
    run: str,
    suite: str | None = None,
    environment: str = "ingested",
    format: str | None = None,
    json: Json = False,
) -> int:
    """Read reports of other tools into the ledger. Exit 1 when a file was refused. The same file twice is one.

    JUnit XML (pytest, gtest, CTest, Maven), gtest JSON, pytest-reportlog, PyTorch's dynamo CSV and benchmark v3 JSON.

    Parameters
    ----------
    paths
        Files, folders, globs, and `-` for standard input.
    run
        The run that they go to. It is made where there is none, and grows with every ingest.
    suite
        The suite of all their tests; by default those that the reports name.
    environment
        What the tests ran against.
    format
        junit, pytest-reportlog, gtest-json, benchmark-v3 or dynamo-csv: take files of this kind only, whatever else
        they may look like.
    """
    from deployments.cli.ingesting import ingest_files

    if not paths:
        raise CommonfleetError(
            "There is nothing to ingest.", do="Name files, folders, globs, or `-` for standard input."
        )
    return ingest_files(paths, run, suite=suite, environment=environment, format=format, as_json=json)


@app.command
def verify(
    *,
    log: Path | None = None,
    key: str | None = None,
    witness: Several = (),
    seen: Files = (),
    memory: Path | None = None,
    json: Json = False,
) -> int:
    """Check the ledger: each event against the Merkle log, each file against its record. Exit 1 when one is wrong.

    It changes nothing, but for remembering the log's newest checkpoint: the next check must find that continued.

    Parameters
    ----------
    log
        Check the published log in this folder instead, with nothing else at hand.
    key
        The log's public key, as `export-log` prints it. Without --log: no other key counts for the ledger's log.
    witness
        Keys of witnesses whose co-signatures must be there (repeat the option for several).
    seen
        A checkpoint that was kept elsewhere, which the log must continue (repeat the option for several).
    memory
        Remember in this file; by default `last-checkpoint` in the state folder, or `.DIR.last-checkpoint` beside DIR.
    """
    from deployments.cli.checking import Against, verify_ledger, verify_published

    against = Against(key, witness, seen, memory)
    return verify_ledger(against, as_json=json) if log is None else verify_published(log, against, as_json=json)


@app.command
def export_log(folder: Path, *, json: Json = False) -> int:
    """Write the Merkle log to FOLDER as static files (C2SP tlog-tiles), for everybody to check. Again: what is new."""
    from deployments.cli.checking import publish_log

    return publish_log(folder, as_json=json)


@app.command
def up(*, port: int = 4200, schedule: str = "0 2 * * *") -> int:
    """Start the operator's installation and serve it until Ctrl-C.

    Parameters
    ----------
    port
        Where Prefect's UI listens, on 127.0.0.1.
    schedule
        When the nightly starts, as cron, in UTC.
    """
    from deployments.cli.operating import serve

    return serve(port, schedule)


@app.command
def doctor(*, json: Json = False) -> int:
    """Look for what would keep commonfleet from working on this machine, and say how to mend it."""
    from deployments.cli.operating import examine

    return examine(as_json=json)


@app.command
def backup(folder: Path, *, keys: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Copy one moment of the ledger, with its results and raw bundles, into FOLDER. Runs may go on meanwhile.

    Parameters
    ----------
    keys
        Copy the keys, too: whoever has them can sign as this installation.
    """
    from deployments.cli.keeping import back_up_here

    return back_up_here(folder, keys=keys)


@app.command
def restore(folder: Path) -> int:
    """Check a backup and put it into the state folder, which must be empty."""
    from deployments.cli.keeping import restore_here

    return restore_here(folder)


@app.command
def move_ledger(*, to: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
    """Move the ledger's records from the state folder's SQLite file to a PostgreSQL, verified by the Merkle log.

    Parameters
    ----------
    to
        The URL of an empty database, without a password; or `-`, to read a URL from standard input.
    """
    from deployments.cli.keeping import move_here

    return move_here(to)


@app.command
def import_matrix(file: Path, *, job: str) -> int:
    """Turn a PyTorch test-matrix (JSON) into catalog entries, printed as YAML.

    Parameters
    ----------
    file
        The matrix: `{include: [{config, shard, num_shards, runner, ...}]}`.
    job
        Whose matrix it is: PyTorch's build environment, such as linux-jammy-py3.10-gcc11.
    """
    from deployments.cli.looking import print_imported_matrix

    return print_imported_matrix(file, job)


@app.command
def schema() -> int:
    """Print the catalog's JSON Schema, for editors."""
    from deployments.cli.looking import print_schema

    return print_schema()


def main() -> None:
    """The entry point: errors become one plain message and an exit code."""
    try:
        code = app(result_action="return_value", exit_on_error=False, print_error=True)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        code = 1
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`): nothing to say to them any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    except Exception as error:  # noqa: BLE001 - the last line before a traceback
        cause = innermost(error)
        code = _told(cause) if isinstance(cause, CommonfleetError) else _unexpected(cause)
    sys.stdout.flush()
    _leave_in_time(code if isinstance(code, int) else 0)


def _leave_in_time(code: int) -> NoReturn:
    """End the process. Prefect, where it was used, then tells its server the rest, and waits for ever for one that
    hangs: everything of ours is done by now, so it gets a few seconds.
    """
    if "prefect" in sys.modules:
        last = threading.Timer(LEAVE_SECONDS, os._exit, [code])
        last.daemon = True
        last.start()
    raise SystemExit(code)


def _told(error: CommonfleetError) -> int:
    print("\n".join(part for part in (f"commonfleet: {error.what}", error.kept, error.do) if part), file=sys.stderr)
    return 2


def _unexpected(error: BaseException) -> int:
    """A bug of ours or a broken machine: the traceback goes to a file, a sentence to the person."""
    import traceback

    from cyclopts import CycloptsError

    if isinstance(error, CycloptsError):
        return 2  # the parser has explained it already
    folder = Path(os.environ.get("COMMONFLEET_HOME") or Path.home() / ".commonfleet")
    trace = folder / "last-error.txt"
    try:
        trace.write_text("".join(traceback.format_exception(error)))
        where = f"The details are in {trace}."
    except OSError:
        where = "".join(traceback.format_exception(error))
    print(f"commonfleet: the system failed: {type(error).__name__}: {error}", where, sep="\n", file=sys.stderr)
    print("What was recorded is kept; `commonfleet runs` shows it and an open run can be resumed.", file=sys.stderr)
    return 2
