"""The lines of docs/auditing.md that copy a published log from where nothing lists its files."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blocks.ledger.tiles import paths
from tasks.publish.log.verify_log import verify_log
from tests.docs.pages import ROOT, Page
from tests.tasks.publish.log.conftest import LONG, Published
from tests.tasks.publish.log.conftest import published as published


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, and neither lists folders nor says what it does."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def list_directory(self, path: object) -> None:  # type: ignore[override]
        self.send_error(404)


@pytest.fixture
def address(published: Published) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(published.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_names_follow_from_the_number_of_entries() -> None:
    assert list(paths(600)) == [
        "tile/0/000", "tile/entries/000", "tile/0/001", "tile/entries/001", "tile/0/002.p/88", "tile/entries/002.p/88",
        "tile/1/000.p/2",
    ]  # fmt: skip
    large = set(paths(1_234_067 * 256 + 3))
    assert {"tile/0/x001/x234/066", "tile/entries/x001/x234/067.p/3", "tile/3/000.p/18"} <= large


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_what_the_page_copies_is_the_whole_log(published: Published, address: str, tmp_path: Path) -> None:
    published.grow(3, note=LONG)
    (script,) = (block for block in Page(ROOT / "docs" / "auditing.md").blocks("sh") if "curl" in block)
    script = script.replace("https://log.example.org/ci DIR=copied", f"{address} DIR={tmp_path / 'copied'}")
    script = script.replace(".venv/bin/python", sys.executable)
    assert address in script

    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)

    assert done.returncode == 0, done.stderr
    found = verify_log(tmp_path / "copied", published.key)
    assert (found.good, found.size) == (True, 603), found.findings
    assert len(list((tmp_path / "copied" / "content").iterdir())) == 3
