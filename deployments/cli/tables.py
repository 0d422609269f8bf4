"""What the commands print for people: a run's conclusion, a run's page in text, lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.conclude import Conclusion

CELL_CHARACTERS = 200
"""What a table shows of one value of a query's answer; `--json` has all of it."""
PIPE_COLUMNS = 10_000
"""Whoever reads a pipe or a file wants a row on a line, and nothing cut to fit a screen that is not there."""
OUTCOME_ORDER = ("passed", "failed", "crashed", "timed_out", "error", "skipped", "xfailed", "xpassed")


def print_conclusion(conclusion: Conclusion) -> None:
    """The end of a run: the table, the sentence, and where the page is."""
    print_summary(conclusion.summary)
    console = Console()
    console.print()
    console.print(conclusion.sentence, style="bold green" if conclusion.exit_code == 0 else "bold red", soft_wrap=True)
    if conclusion.trouble:
        console.print(f"{conclusion.trouble} `commonfleet show {conclusion.run}` writes it.", soft_wrap=True)
    if conclusion.report is not None:
        console.print(f"Report: {conclusion.report}", soft_wrap=True, highlight=False)


def print_summary(summary: Mapping[str, Any]) -> None:
    """What was planned in a run and what became of it."""
    console = Console()
    units = summary["units"]
    opened = f" + {units['open']} open" if units.get("open") else ""
    console.print(
        f"[bold]{summary['id']}[/bold]  {summary['flow']}, {summary['state']}: "
        f"{units['planned']} units planned = {units['ran']} ran + {units['skipped']} skipped + "
        f"{units['not_run']} not run + {units['lost']} lost{opened}",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    results: Mapping[str, Mapping[str, int]] = summary["results"]
    outcomes = [outcome for outcome in OUTCOME_ORDER if any(row.get(outcome) for row in results.values())]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("suite")
    for name in ("units", "tests", *outcomes):
        table.add_column(name, justify="right")
    # A file that was ingested may name several suites, and is a unit of one.
    for suite in [*summary["suites"], *(name for name in results if name not in summary["suites"])]:
        row, figures = results.get(suite, {}), summary["suites"].get(suite)
        counts = [f"{row.get(outcome, 0):,}" if row.get(outcome) else "·" for outcome in outcomes]
        table.add_row(Text(suite), f"{figures['planned']:,}" if figures else "·", f"{sum(row.values()):,}", *counts)
    console.print(table)
    attempts = summary["attempts"]
    console.print(f"{attempts['total']:,} attempts, {attempts.get('alone', 0):,} of them a test alone.", style="dim")


def print_runs(rows: Sequence[Mapping[str, Any]]) -> None:
    """A line per run."""
    if not rows:
        print("There is no run yet. `commonfleet nightly` makes the first.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    # The id is what one copies into the next command: the others give way to it, however narrow the terminal.
    table.add_column("run", no_wrap=True, min_width=max(len(row["id"]) for row in rows))
    for name in ("flow", "state", "started", "units", "conclusion"):
        table.add_column(name)
    for row in rows:
        units = row["units"]
        done = f"{units['planned'] - units.get('open', 0)}/{units['planned']}"
        started = str(row["created"])[:16].replace("T", " ")
        table.add_row(row["id"], row["flow"], row["state"], started, done, Text(row.get("sentence") or ""))
    _wide().print(table)


def print_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """The answer to a query."""
    if not rows:
        print("No rows.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    _wide().print(table)


def _wide() -> Console:
    """As wide as the terminal; without one, as wide as the rows are."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPE_COLUMNS)


def _cell(value: Any) -> Text:
    """A value as people read it: the first line that says something, and few digits. Never read as Rich's markup, which
    would swallow the brackets of `test_add[float32]`.
    """
    if value is None:
        return Text("")
    told = (f"{value:.6g}" if isinstance(value, float) else str(value)).strip()
    first = told.partition("\n")[0].rstrip()
    return Text(told if told == first and len(told) <= CELL_CHARACTERS else f"{first[:CELL_CHARACTERS]} …")


def print_plan(summary: Mapping[str, Any]) -> None:
    """A plan by suite."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("suite", "environment", "units", "tests", "seconds", "left out"):
        table.add_column(name, justify="left" if name in ("suite", "environment") else "right")
    for row in summary["suites"]:
        table.add_row(
            row["suite"], row["environment"], str(row["units"]), f"{row['tests']:,}",
            f"{row['estimate_seconds']:.0f}", str(row["left_out"]),
        )  # fmt: skip
    console = Console()
    console.print(table)
    console.print(f"Plan {summary['id']}", style="dim", highlight=False)
