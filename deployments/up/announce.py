"""What `up` says: a line for each component as it comes up, and a page once everything runs."""

from __future__ import annotations

import sys
from typing import Any

from blocks.home import Home
from deployments.up.secrets import secret_file


def came_up(role: str, seconds: float) -> str:
    """A whole start takes half a minute: this is how one sees that it goes on, and where it hangs when it does."""
    return f"  {role:<12} ready after {seconds:.1f} s"


def announcement(home: Home, ui_url: str, login: str, registered: dict[str, Any], seconds: float) -> str:
    """The page for the operator. The login itself only goes to a terminal, never into a log."""
    kept = secret_file(home, "prefect-login")
    lines = [
        f"commonfleet is up ({seconds:.0f} s).",
        "",
        f"  UI         {ui_url}",
        f"  log in     {login}   (kept in {kept})" if sys.stdout.isatty() else f"  log in     cat {kept}",
    ]
    for deployment in registered["deployments"]:
        lines.append(f"  {deployment['name']:<10} {ui_url}/deployments/deployment/{deployment['id']}")
        if deployment["next"]:
            lines.append(f"  {'':<10} next: {deployment['next']}")
    lines += [f"  logs       {home.prefect / 'logs'}", "", "Ctrl-C stops all of it."]
    return "\n".join(lines)
