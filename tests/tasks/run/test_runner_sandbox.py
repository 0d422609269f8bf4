"""The sandbox holds: a unit tries the host's keys, sockets, processes and network, and gets none of them.

The same probe is run without the sandbox, where it succeeds: otherwise it would prove nothing.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.run.runner import sandbox
from tests.tasks.run.conftest import Wire, order_of, unit

PROBE = r"""
import ctypes, glob, json, os, signal, socket, sys
facts = json.loads(sys.argv[1])
found = {}
def attempt(name):
    def decorate(function):
        try:
            found[name] = bool(function())
        except BaseException as error:
            found[name] = False
    return decorate
def reads(path):
    return bool(open(path, "rb").read(1))
def environ(path):
    try:
        return open(path, "rb").read()
    except OSError:
        return b""
@attempt("reads a secret file")
def _(): return facts["secret"] in open(facts["secret_path"]).read()
@attempt("reads the user's home")
def _(): return sorted(os.listdir(facts["home"])) == facts["home_entries"]
@attempt("reads /etc/shadow or the host's users")
def _(): return reads("/etc/shadow") if os.getuid() == 0 else len(open("/etc/passwd").readlines()) > 3
@attempt("reads the host's name")
def _(): return socket.gethostname() == facts["host"]
@attempt("connects to a host's unix socket")
def _():
    s = socket.socket(socket.AF_UNIX); s.settimeout(3); s.connect(facts["unix_socket"]); return s.recv(5) == b"hello"
@attempt("connects to an abstract unix socket")
def _():
    s = socket.socket(socket.AF_UNIX); s.settimeout(3); s.connect("\0" + facts["abstract"])
    return s.recv(5) == b"hello"
@attempt("connects to a host's port on loopback")
def _():
    s = socket.create_connection(("127.0.0.1", facts["port"]), 3); return s.recv(5) == b"hello"
@attempt("sees the host's network")
def _(): return sorted(os.listdir("/proc/sys/net/ipv4/conf")) == facts["networks"]
@attempt("sees host processes")
def _(): return b"sleep" in open("/proc/%d/cmdline" % facts["bystander"], "rb").read()
@attempt("reads the environment of a host process")
def _(): return any(facts["secret"].encode() in environ(path) for path in glob.glob("/proc/[0-9]*/environ"))
@attempt("signals a host process")
def _(): os.kill(facts["bystander"], signal.SIGTERM); return True
@attempt("writes outside its folder")
def _(): open(facts["outside"], "w").write("x"); return os.path.exists(facts["outside"])
@attempt("writes into the build")
def _(): open(os.path.join(facts["build"], "planted"), "w").write("x"); return True
@attempt("writes into the sources")
def _(): open(os.path.join(facts["sources"], "planted"), "w").write("x"); return True
@attempt("sees its lease's order")
def _(): return reads(os.path.join(os.environ["HOME"], "..", "..", "order.json"))
print(json.dumps(found))
"""
IN_ANY_CASE = r"""
import ctypes, json, os, sys
found = {}
def tried(name, function):
    try:
        function(); found[name] = True
    except BaseException:
        found[name] = False
libc = ctypes.CDLL(None, use_errno=True)
def call(result):
    if result != 0: raise OSError(ctypes.get_errno())
# Only opened and never written: should the sandbox fail, the host must not be the worse for this test.
def opens(path, flags=0): os.close(os.open(path, os.O_WRONLY | flags))
tried("writes to /", lambda: opens("/", os.O_TMPFILE))
tried("writes to /usr", lambda: opens("/usr", os.O_TMPFILE))
tried("writes to /dev", lambda: opens("/dev", os.O_TMPFILE))
tried("writes to the build", lambda: opens(json.loads(sys.argv[1])["build"], os.O_TMPFILE))
for path in ("kernel/core_pattern", "kernel/modprobe", "vm/drop_caches", "kernel/hostname", "net/ipv4/ip_forward"):
    tried("sets " + path, lambda: opens("/proc/sys/" + path))
tried("presses SysRq", lambda: opens("/proc/sysrq-trigger"))
tried("mounts", lambda: call(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)))
tried("makes a device", lambda: os.mknod("disk", 0o660 | 0o060000, os.makedev(254, 0)))
capabilities = [line for line in open("/proc/self/status") if line.startswith("CapEff")][0].split()[1]
tried("has a capability", lambda: call(int(capabilities, 16) == 0))
tried("works in its folder", lambda: open("mine", "w").write("x"))
tried("works in /tmp", lambda: open("/tmp/mine", "w").write("x"))
tried("works in /dev/shm", lambda: open("/dev/shm/mine", "w").write("x"))
def loopback():
    import socket
    server = socket.create_server(("127.0.0.1", 0)); socket.create_connection(server.getsockname(), 3)
    socket.getaddrinfo(socket.gethostname(), 80)
tried("has a loopback", loopback)
tried("sees its cores", lambda: os.listdir("/sys/devices/system/cpu"))
tried("has a user", lambda: __import__("getpass").getuser())
print(json.dumps(found))
"""


@pytest.fixture
def facts(tmp_path: Path, fake_build: Path) -> Iterator[dict[str, Any]]:
    """A host with something to steal: a secret, a listener of each kind, a process."""
    secret = "s3cr3t-" + os.urandom(8).hex()
    for name in ("sources", "build", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "elsewhere" / "key").write_text(secret)
    abstract = "commonfleet-" + os.urandom(4).hex()
    short = Path("/tmp") / abstract
    listeners = [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_INET)]
    for listener, address in zip(listeners, (str(short), "\0" + abstract, ("127.0.0.1", 0)), strict=True):
        listener.bind(address)
        listener.listen()
        threading.Thread(target=_greet, args=(listener,), daemon=True).start()
    bystander = subprocess.Popen(["sleep", "300"], env={"STOLEN": secret})
    yield {
        "secret": secret,
        "secret_path": str(tmp_path / "elsewhere" / "key"),
        "home": str(Path.home()),
        "home_entries": sorted(path.name for path in Path.home().iterdir()),
        "host": socket.gethostname(),
        "unix_socket": str(short),
        "abstract": abstract,
        "port": listeners[2].getsockname()[1],
        "bystander": bystander.pid,
        "outside": str(tmp_path / "elsewhere" / "planted"),
        "build": str(tmp_path / "build"),
        "sources": str(tmp_path / "sources"),
        "networks": sorted(path.name for path in Path("/proc/sys/net/ipv4/conf").iterdir()),
    }
    for listener in listeners:
        listener.close()
    short.unlink(missing_ok=True)
    bystander.kill()
    bystander.wait()


def _greet(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        connection.sendall(b"hello")
        connection.close()


def run_probe(wire: Wire, facts: dict[str, Any], isolation: str, code: str, lease: str) -> dict[str, bool]:
    one = unit("u", "command", {"argv": ["{python}", "-c", code, json.dumps(facts)]})
    order = order_of(one, sandbox=isolation, lease=lease, build=Path(facts["build"]), sources=Path(facts["sources"]))
    (record,) = wire.run(order)
    attempt = record["attempts"][0]
    assert attempt["outcome"] == "passed", attempt
    return dict(json.loads(attempt["output"].strip().splitlines()[-1]))


def test_in_the_sandbox_a_unit_gets_nothing_of_the_host(wire: Wire, facts: dict[str, Any], sandboxed: str) -> None:
    if facts["networks"] == ["all", "default", "lo"]:
        facts["networks"] = ["a host with no more than a loopback proves nothing by it"]
    inside = run_probe(wire, facts, sandboxed, PROBE, "inside")
    assert {name for name, worked in inside.items() if worked} == set()


def test_without_the_sandbox_the_same_probe_gets_everything(wire: Wire, facts: dict[str, Any]) -> None:
    outside = run_probe(wire, facts, "none", PROBE, "outside")
    assert {name for name, worked in outside.items() if not worked} == set()


def test_in_the_sandbox_the_kernel_is_out_of_reach_and_ordinary_work_is_not(
    wire: Wire, facts: dict[str, Any], sandboxed: str
) -> None:
    told = run_probe(wire, facts, sandboxed, IN_ANY_CASE, "work")
    assert {name for name, worked in told.items() if worked} == {
        "works in its folder",
        "works in /tmp",
        "works in /dev/shm",
        "has a loopback",
        "sees its cores",
        "has a user",
    }


def test_a_units_library_path_does_not_apply_to_the_sandbox_itself(wire: Wire, tmp_path: Path, sandboxed: str) -> None:
    """A build could otherwise bring a library that is loaded outside, by bubblewrap."""
    libraries = tmp_path / "build" / "site" / "torch" / "lib"
    libraries.mkdir(parents=True)
    for name in ("libc.so.6", "libcap.so.2", "libselinux.so.1"):
        (libraries / name).write_text("no library")
    one = unit("u", "command", {"argv": ["{python}", "-c", "print(1)"]})
    (record,) = wire.run(order_of(one, build=tmp_path / "build", sandbox=sandboxed, retry_alone=0))
    attempt = record["attempts"][0]
    assert attempt["isolation"] == "bubblewrap"
    assert "bwrap" not in attempt["output"]
    assert "invalid ELF header" in attempt["output"] or "file too short" in attempt["output"]


def test_a_c_compiler_works_inside(wire: Wire, sandboxed: str) -> None:
    script = "echo 'int main(){return 0;}' > a.cc && c++ a.cc -o a && ./a"
    if subprocess.run(["which", "c++"], capture_output=True, check=False).returncode:
        pytest.skip("this host has no c++")
    (record,) = wire.run(order_of(unit("u", "command", {"argv": ["/bin/sh", "-c", script]}), sandbox=sandboxed))
    assert record["attempts"][0]["outcome"] == "passed", record["attempts"][0]["output"]


def test_a_host_that_forbids_bubblewrap_is_found_out_by_trying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "bubblewrap 0.9.0" && exit 0\n'
        "echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1\n"
    )
    fake.chmod(0o755)
    monkeypatch.setattr(sandbox.shutil, "which", lambda name, path=None: str(fake))
    found = sandbox.probe()
    assert found.kind == "none"
    assert found.isolation() == "none (bubblewrap may not be used here: bwrap: setting up uid map: Permission denied)"
    monkeypatch.setattr(sandbox.shutil, "which", lambda name, path=None: None)
    assert sandbox.probe().isolation() == "none (bubblewrap is not installed)"


def test_python_prefixes_are_shown_and_the_runners_own_folder_never(tmp_path: Path) -> None:
    from tasks.run.runner import workplace

    shown = workplace.prefixes(sys.executable)
    assert sys.prefix in shown
    assert sys.base_prefix in shown
    place = workplace.make(
        work=str(tmp_path / "machine" / "work"),
        etc=str(tmp_path / "etc"),
        found=sandbox.Sandbox("none"),
        wanted="auto",
        build=None,
        sources=None,
        python=sys.executable,
        python_prefixes=("/", str(tmp_path), "/opt/python"),
        accelerator={},
        threads=1,
        extra_env={},
        memory_bytes=None,
    )
    assert place.bounds.read_only == ("/opt/python",)
