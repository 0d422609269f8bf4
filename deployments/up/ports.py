"""Whether a port of this machine is free, and who has it if not."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from blocks.errors import CommonfleetError

LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp
HIGHEST = 65535


def check_free(port: int) -> None:
    """Raises CommonfleetError for what is no port, or naming the process that listens on 127.0.0.1:port already."""
    if not 1 <= port <= HIGHEST:
        raise CommonfleetError(
            f"A port is a number from 1 to {HIGHEST}, not {port}.",
            kept="Nothing was started.",
            do="Take another with --port.",
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise CommonfleetError(
                    f"Port {port} cannot be used: {error.strerror}.", do="Take another with --port."
                ) from error
            other = port + 1 if port < HIGHEST else port - 1
            raise CommonfleetError(
                f"Port {port} on 127.0.0.1 is taken by {holder(port) or 'a process of another user'}.",
                kept="Nothing was started.",
                do=f"Stop that process, or take another port: commonfleet up --port {other}",
            ) from None


def holder(port: int) -> str:
    """`process PID (command line)` of who listens on that port; empty where we may not see it."""
    sockets = {f"socket:[{inode}]" for inode in listening_inodes(port)}
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(descriptor.readlink()) in sockets:
                folder = descriptor.parents[1]
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"process {folder.name} ({line[:120]})"
        except OSError:
            continue  # gone meanwhile, or somebody else's
    return ""


def listening_inodes(port: int) -> list[str]:
    """Inodes of the sockets that listen on that port (fields 1, 3 and 9 of /proc/net/tcp)."""
    found = []
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
                found.append(fields[9])
    return found
