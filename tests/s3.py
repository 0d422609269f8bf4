"""An S3 for tests: moto's real server over HTTP, and in front of it a proxy that fails as told.

faults.script("PUT", "503", "503")      the next two PUTs are refused
faults.script("PUT", "lose")            the next PUT is done, and its answer is lost
faults.script("PUT", "cut")             the connection breaks when half of the body was sent
"""

from __future__ import annotations

import collections
import http.client
import http.server
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest


class Faults:
    """The proxy. `asked` counts the requests that came, by method."""

    def __init__(self, port: int) -> None:
        self.asked: collections.Counter[str] = collections.Counter()
        self._script: dict[str, list[str]] = collections.defaultdict(list)
        faults, behind = self, port

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                faults.asked[self.command] += 1
                length = int(self.headers.get("Content-Length") or 0)
                fault = faults.next(self.command)
                if fault == "cut":
                    self.rfile.read(length // 2)
                    self._hang_up()
                    return
                body = self.rfile.read(length)
                if fault == "503":
                    self._answer(503, {}, b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>")
                    return
                connection = http.client.HTTPConnection("127.0.0.1", behind, timeout=30)
                headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                if fault == "lose":
                    self._hang_up()
                elif fault == "half":
                    self._answer(answer.status, dict(answer.getheaders()), content, send=len(content) // 2)
                    self._hang_up()
                else:
                    self._answer(answer.status, dict(answer.getheaders()), content)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve

            def _answer(self, status: int, headers: dict[str, str], content: bytes, send: int | None = None) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                length = headers.get("Content-Length") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content[:send])

            def _hang_up(self) -> None:
                self.close_connection = True
                self.connection.close()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def script(self, method: str, *faults: str) -> None:
        """The faults of the next requests of this method; then all is well again."""
        self._script[method] = list(faults)

    def next(self, method: str) -> str:
        left = self._script[method]
        return left.pop(0) if left else ""

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[int]:
    """The port of moto's server; skips, with the reason, where it is not installed."""
    server_module = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    pytest.importorskip("obstore", reason="obstore is not installed")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def faults(s3_server: int) -> Iterator[Faults]:
    proxy = Faults(s3_server)
    yield proxy
    proxy.stop()


@pytest.fixture
def bucket_url(s3_server: int, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket, through the proxy."""
    for name, value in (("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "not-a-secret")):
        monkeypatch.setenv(name, value)
    name = f"b-{uuid.uuid4().hex[:12]}"
    connection = http.client.HTTPConnection("127.0.0.1", s3_server, timeout=30)
    connection.request("PUT", f"/{name}")
    assert connection.getresponse().status == 200
    connection.close()
    return f"s3://{name}/some/prefix?region=us-east-1&endpoint=http://127.0.0.1:{faults.port}"
