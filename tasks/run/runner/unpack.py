"""Builds and sources, unpacked once per machine under their digest.

Every file is checked against its digest first. Archives are believed in nothing else: no member may leave the folder,
and only files, folders and links that stay inside are made. A build appears whole, by a rename, or not at all.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from typing import IO, Any, Dict, List, Mapping, Optional, Sequence

from . import folders
from .records import Json

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
COPY_BYTES = 1 << 20


class UnpackError(Exception):
    """An artifact is not what it should be; nothing of it was kept."""


def unpack(root: str, digest: Any, artifacts: Any, interpreters: Mapping[str, str]) -> str:
    """The folder of the build `digest`, made from its artifacts if it is not there yet.

    Raises UnpackError, and OSError when there is no room.
    """
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise UnpackError(f"{digest!r} is no sha256 digest")
    folder = os.path.join(root, "builds", digest[7:])
    if os.path.isdir(folder):
        return folder
    with folders.temporary(os.path.dirname(folder)) as temporary:
        for artifact in _checked(artifacts):
            _one(temporary, artifact)
        if os.path.isdir(os.path.join(temporary, "site")):
            _compile(temporary, artifacts, interpreters)
        os.chmod(temporary, 0o755)
        os.sync()  # The rename must not reach the disk before the files do.
        _put(temporary, folder)
    return folder


def _put(temporary: str, folder: str) -> None:
    try:
        os.rename(temporary, folder)
    except OSError:
        if not os.path.isdir(folder):
            raise  # Else another request was faster; both hold the same.


def _checked(artifacts: Any) -> List[Dict[str, str]]:
    if not isinstance(artifacts, list) or not artifacts:
        raise UnpackError("a build has at least one artifact")
    for artifact in artifacts:
        fields = ("role", "name", "digest", "path")
        if not isinstance(artifact, dict) or not all(isinstance(artifact.get(field), str) for field in fields):
            raise UnpackError(f"an artifact has role, name, digest and path: {artifact!r}")
        name = artifact["name"]
        if os.path.basename(name) != name or name in ("", ".", ".."):
            raise UnpackError(f"{name!r} is no plain file name")
        if artifact["role"] not in ("wheel", "tree"):
            raise UnpackError("{}: there is no role {!r}".format(name, artifact["role"]))
    return artifacts


def _one(folder: str, artifact: Mapping[str, str]) -> None:
    with open(artifact["path"], "rb") as file:
        found = _digest(file)
        if found != artifact["digest"]:
            raise UnpackError(
                "{} has the digest {}, not {} as promised".format(artifact["name"], found, artifact["digest"])
            )
        file.seek(0)
        try:
            if artifact["role"] == "wheel":
                _unzip(file, os.path.join(folder, "site"))
            else:
                _untar(file, os.path.join(folder, re.sub(r"\.(tar\.gz|tgz)$", "", artifact["name"])))
        except (zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError) as error:
            raise UnpackError("{} cannot be unpacked: {}".format(artifact["name"], error)) from error


def _digest(file: IO[bytes]) -> str:
    sha = hashlib.sha256()
    while True:
        piece = file.read(COPY_BYTES)
        if not piece:
            return "sha256:" + sha.hexdigest()
        sha.update(piece)


def inside(folder: str, name: str) -> str:
    """The path of an archive's member below `folder`. Raises UnpackError when it would lie elsewhere."""
    path = os.path.normpath(os.path.join(folder, name))
    if name.startswith("/") or (path != folder and not path.startswith(folder + os.sep)) or "\0" in name:
        raise UnpackError(f"the member {name!r} would leave its folder")
    return path


def _unzip(file: IO[bytes], site: str) -> None:
    """A wheel: its files, with their exec bits; `.data/purelib` and `.data/platlib` belong beside the rest."""
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            mode = member.external_attr >> 16
            if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_IFMT(mode) == 0):
                raise UnpackError(f"the member {member.filename!r} is neither file nor folder")
            name = re.sub(r"^[^/]+\.data/(purelib|platlib)/", "", member.filename)
            path = inside(site, re.sub(r"^[^/]+\.data/scripts/", "bin/", name))
            if member.is_dir():
                os.makedirs(path, exist_ok=True)
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with archive.open(member) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target, COPY_BYTES)
            os.chmod(path, 0o755 if mode & 0o111 else 0o644)


def _untar(file: IO[bytes], folder: str) -> None:
    """A tar.gz, as tarfile's `data` filter has it; written out here because Python 3.9 may not have that filter."""
    with tarfile.open(fileobj=file, mode="r:gz") as archive:
        os.makedirs(folder, exist_ok=True)
        for member in archive:
            path = inside(folder, member.name)
            _no_link_on_the_way(folder, path)
            if member.isdir():
                os.makedirs(path, exist_ok=True)
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if member.issym():
                inside(folder, os.path.relpath(os.path.join(os.path.dirname(path), _relative(member)), folder))
                os.symlink(member.linkname, path)
            elif member.islnk():
                os.link(inside(folder, member.linkname), path, follow_symlinks=False)
            elif member.isreg():
                _write(archive, member, path)
            else:
                raise UnpackError(f"the member {member.name!r} is neither file, folder nor link")


def _no_link_on_the_way(folder: str, path: str) -> None:
    """A member must not be written through a link that an earlier member made."""
    while path != folder:
        path = os.path.dirname(path)
        if os.path.islink(path):
            raise UnpackError(f"the member {path!r} would be written through a link")


def _relative(member: tarfile.TarInfo) -> str:
    if os.path.isabs(member.linkname):
        raise UnpackError(f"the link {member.name!r} points to an absolute path")
    return member.linkname


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    source = archive.extractfile(member)
    if source is None:
        raise UnpackError(f"the member {member.name!r} has no content")
    if os.path.lexists(path):
        os.unlink(path)  # A later member of the same name wins, and is not written through a link.
    with source, open(path, "wb") as target:
        shutil.copyfileobj(source, target, COPY_BYTES)
    os.chmod(path, 0o755 if member.mode & 0o111 else 0o644)


def _compile(folder: str, artifacts: Sequence[Json], interpreters: Mapping[str, str]) -> None:
    """Byte-compile the site once: units see it read-only, and would compile torch anew at every import."""
    tags = [tag for artifact in artifacts for tag in re.findall(r"-(cp\d+)-", artifact["name"])]
    python: Optional[str] = next((interpreters[tag] for tag in tags if tag in interpreters), sys.executable)
    jobs = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    # Unchecked: a rename or a copy that changes a file's time must not make the compiled one worthless.
    argv = [str(python), "-m", "compileall", "-q", "-j", jobs, "--invalidation-mode", "unchecked-hash", "site"]
    # Files that are no valid Python (templates) make it fail; the rest is compiled all the same.
    subprocess.run(argv, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, check=False)
