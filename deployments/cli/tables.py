"""What the commands print for people: a run's conclusion, a run's page in text, lists."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows.conclude import Conclusion

CELL_CHARACTERS = 200
"""What a table shows of one value of a query's answer; `--json` has all of it."""
PIPE_COLUMNS = 10_000
"""Whoever reads a pipe or a file wants a row on a line, and nothing cut to fit a screen that is not there."""
OUTCOME_ORDER = ("passed", "failed", "crashed", "timed_out", "error", "skipped", "xfailed", "xpassed")
ROWS = 1_000
"""As many rows of an answer a table has."""
NAMED = 10
"""As many tests of a kind are named."""
_DARK = {
    "vanished": "not planned any more, and nobody said why",
    "no_result": "planned, their unit ran, and no result came",
    "unit_not_run": "their unit did not run",
    "left_out": "left out of the plan, with a reason",
}


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
    _print_reasons(console, summary["reasons"])
    _print_dark(console, summary)
    attempts = summary["attempts"]
    console.print(f"{attempts['total']:,} attempts, {attempts.get('alone', 0):,} of them a test alone.", style="dim")


def _print_reasons(console: Console, reasons: Mapping[str, Mapping[str, int]]) -> None:
    """Why units did not run, the most first."""
    for terminal in ("lost", "not_run", "skipped"):
        for reason, number in sorted(reasons[terminal].items(), key=lambda item: (-item[1], item[0])):
            spoken = terminal.replace("_", " ")
            console.print(f"{number:,} {spoken}: {escape(reason or 'no reason given')}", soft_wrap=True)


def _print_dark(console: Console, summary: Mapping[str, Any]) -> None:
    """Tests that ran in the runs before and have no result here; those that ran nowhere lately."""
    dark = summary["dark"]
    if dark["trouble"]:
        console.print(dark["trouble"], style="yellow", soft_wrap=True, markup=False)
    for why, number in dark["by_why"].items():
        console.print(
            f"{number:,} dark, ran before and not here ({_DARK[why]}):",
            soft_wrap=True, style="bold" if why in ("vanished", "no_result") else None,
        )  # fmt: skip
        named = [test for test in dark["tests"] if test["why"] == why][:NAMED]
        for test in named:
            reason = f" ({test['reason']})" if test["reason"] else ""
            console.print(f"  {escape(test['environment'])}  {escape(test['test'] + reason)}", soft_wrap=True)
        if number > len(named):
            console.print(f"  and {number - len(named):,} more (`SELECT * FROM dark`)", style="dim", soft_wrap=True)
    anywhere = summary.get("dark_anywhere")
    if anywhere and anywhere["count"]:
        tests = "1 test" if anywhere["count"] == 1 else f"{anywhere['count']:,} tests"
        console.print(f"{tests} ran nowhere in the last {anywhere['days']} days:", soft_wrap=True)
        for test in anywhere["tests"][:NAMED]:
            last = f"last in {test['last_run']}" if test["last_run"] else "never"
            console.print(f"  {escape(test['test'])}  ({escape(last)})", soft_wrap=True)
        if anywhere["count"] > NAMED:
            more = anywhere["count"] - NAMED
            console.print(f"  and {more:,} more (`SELECT * FROM dark_anywhere`)", style="dim", soft_wrap=True)


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


def print_answer(
    names: Sequence[str], portions: Iterable[Sequence[Mapping[str, Any]]], *, file: IO[str] | None = None
) -> int:
    """The answer to a query: its first `ROWS` rows, and how many more there are. Returns the number of all."""
    shown: list[Mapping[str, Any]] = []
    total = 0
    for rows in portions:
        shown += rows[: ROWS - len(shown)]
        total += len(rows)
    console = _wide(file)
    if not shown:
        console.print("No rows.")
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for row in shown:
        table.add_row(*(_cell(value) for value in row.values()))
    console.print(table)
    if total > len(shown):
        console.print(f"... and {total - len(shown):,} more; `--format csv` or json prints all.", soft_wrap=True)
    return total


def _wide(file: IO[str] | None = None) -> Console:
    """As wide as the terminal; without one, as wide as the rows are."""
    console = Console(file=file)
    return console if console.is_terminal else Console(file=file, width=PIPE_COLUMNS)


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
