"""Commands of the operator: serving the installation, and finding what would keep it from working."""

from __future__ import annotations

import asyncio
import json

from rich.console import Console

from blocks.home import open_home
from deployments.doctor import Finding, findings


def serve(port: int, schedule: str) -> int:
    """`commonfleet up`."""
    from deployments.up.installation import up

    asyncio.run(up(open_home(), ui_port=port, schedule=schedule))
    return 0


def examine(*, as_json: bool) -> int:
    """`commonfleet doctor`: 0 when nothing is in the way, 1 otherwise."""
    found = findings()
    if as_json:
        print(json.dumps([finding.to_json() for finding in found], indent=1))
    else:
        _print(found)
    return 1 if any(finding.level == "bad" for finding in found) else 0


def _print(found: list[Finding]) -> None:
    console = Console()
    marks = {"good": "[green]ok  [/green]", "note": "[yellow]note[/yellow]", "bad": "[red]bad [/red]"}
    for finding in found:
        console.print(f"{marks[finding.level]}  {finding.what}", highlight=False, soft_wrap=True)
        if finding.do:
            console.print(f"      {finding.do}", style="dim", highlight=False, soft_wrap=True)
