"""A place to make builds in, wheels to make them of, and package indexes on 127.0.0.1 that serve those wheels."""

from __future__ import annotations

import base64
import hashlib
import http.server
import threading
import urllib.parse
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select

from blocks.catalog.models import SourceBuild, WheelBuild
from blocks.ledger import Ledger, open_ledger
from blocks.ledger.schema import events
from blocks.signing import Key, load_or_make_key
from blocks.store import Store
from tasks.build.base import Bench
from tasks.build.make import MadeBuild, make_build


@dataclass(frozen=True)
class Place:
    """One installation: store, ledger, key and workshop, and what was said while building."""

    root: Path
    store: Store
    ledger: Ledger
    key: Key
    said: list[str] = field(default_factory=list)

    def make(self, spec: WheelBuild | SourceBuild, name: str = "b", key: Key | None = None) -> MadeBuild:
        return make_build(
            name,
            spec,
            ledger=self.ledger,
            store=self.store,
            key=key or self.key,
            workshop=self.root / "workshop",
            catalog_root=self.root / "catalog",
            progress=self.said.append,
        )

    def bench(self) -> Bench:
        """A bench of its own, for what is below `make_build`."""
        folder = self.root / "bench"
        folder.mkdir(exist_ok=True)
        return Bench(folder, self.root / "workshop" / "logs", self.root / "catalog", self.said.append)

    def leftovers(self) -> list[str]:
        """What the workshop still holds of builds in the making, and the store of puts."""
        found = [*(self.root / "workshop").glob("making-*"), *self.store.root.glob("*/.tmp-*")]
        return [path.name for path in found]

    def events(self) -> list[str]:
        with self.ledger.read() as connection:
            return list(connection.scalars(select(events.c.kind)))


def open_place(root: Path) -> Place:
    """The installation below `root`, made where it is not there."""
    (root / "catalog").mkdir(parents=True, exist_ok=True)
    store = Store(root / "store")
    ledger = open_ledger(f"sqlite:///{root / 'ledger.db'}", root / "results", store)
    return Place(root, store, ledger, load_or_make_key(root / "keys" / "orchestrator"))


def wheel(
    folder: Path, name: str, version: str, needs: Sequence[str] = (), tag: str = "py3-none-any", body: str = ""
) -> Path:
    """A wheel with one module of that name."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
    files = {
        f"{module}.py": f"version = {version!r}\n{body}",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{path},sha256={_record(content)},{len(content)}\n" for path, content in files.items())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{module}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in {**files, f"{info}/RECORD": record + f"{info}/RECORD,,\n"}.items():
            archive.writestr(zipfile.ZipInfo(member), content)  # without a time: the same wheel each time
    return path


def _record(content: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()


@dataclass(frozen=True)
class Index:
    """A package index that is being served; `asked` lists the paths that were asked for."""

    url: str
    asked: list[str]


@contextmanager
def serve(folder: Path, promise: Callable[[Path], str] | None = None) -> Iterator[Index]:
    """Serve the wheels in `folder` as a simple index (PEP 503); `promise` says which digest is promised."""
    asked: list[str] = []
    promise = promise or (lambda path: hashlib.sha256(path.read_bytes()).hexdigest())

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            asked.append(self.path)
            parts = urllib.parse.unquote(self.path).strip("/").split("/")
            content, kind = b"", "text/html"
            if parts[0] == "simple":
                found = [p for p in folder.glob("*.whl") if len(parts) == 1 or _project(p) == parts[1]]
                links = (f'<a href="/files/{p.name}#sha256={promise(p)}">{p.name}</a>' for p in sorted(found))
                content = f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()
            elif (folder / parts[-1]).is_file():
                content, kind = (folder / parts[-1]).read_bytes(), "application/octet-stream"
            self.send_response(
                200 if content and (len(parts) < 2 or b"href" in content or kind != "text/html") else 404
            )
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Index(f"http://127.0.0.1:{server.server_port}/simple/", asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def runs(pid: int) -> bool:
    """Whether a process runs. (A dead one that nobody has waited for is still listed: its state is Z.)"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _project(path: Path) -> str:
    return path.name.split("-")[0].replace("_", "-")


def pip_configuration(links: Path, cache: Path) -> Mapping[str, str]:
    """The environment in which pip's default index is the wheels in `links` and nothing else."""
    return {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": (cache / "no-index").as_uri(),
        "PIP_FIND_LINKS": str(links),
        "PIP_CACHE_DIR": str(cache),
        "PIP_CONSTRAINT": "",
    }
