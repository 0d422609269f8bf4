"""A real browser for tests: headless Chromium, asked for the document as it stands after its scripts have run."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

PROGRAM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed (apt-get install chromium)")

_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--hide-scrollbars",
    # A page from a file may look into another file only with this: the page under test stands in a frame.
    "--allow-file-access-from-files",
)  # fmt: skip


def dump(page: Path, profile: Path, *flags: str) -> str:
    """The document of `page` as HTML, after its scripts have run."""
    assert PROGRAM is not None
    done = subprocess.run(
        [PROGRAM, *_FLAGS, f"--user-data-dir={profile}", *flags, "--dump-dom", page.as_uri()],
        capture_output=True, timeout=90, check=True,
    )  # fmt: skip
    return done.stdout.decode("utf-8", "replace")


def ask(page: Path, script: str, profile: Path, *flags: str, width: int = 1280, scripted: bool = True) -> Any:
    """What `script` (the body of a function of `view`, the page's window) gives, with the page `width` pixels wide.

    The page stands unchanged in a frame of another page, which holds the script: no test code is in the product.
    With `scripted` false, the page's own JavaScript is off.
    """
    sandbox = "" if scripted else 'sandbox="allow-same-origin"'
    asking = page.with_name(f"asking-{page.name}")
    asking.write_text(
        f"""<!doctype html><meta charset="utf-8"><body style="margin:0">
        <iframe id="page" {sandbox} src="{page.name}" style="border:0;width:{width}px;height:900px"></iframe>
        <pre id="answer"></pre><script>
        const frame = document.getElementById("page");
        frame.onload = () => {{
            const view = frame.contentWindow;
            let answer;
            try {{ answer = (() => {{ {script} }})(); }} catch (error) {{ answer = {{ error: String(error) }}; }}
            document.getElementById("answer").textContent = JSON.stringify(answer);
        }};
        </script>"""
    )
    found = re.search(r'<pre id="answer">(.*?)</pre>', dump(asking, profile, *flags), re.DOTALL)
    assert found is not None
    assert found.group(1), "the page under test did not load"
    return json.loads(html.unescape(found.group(1)))
