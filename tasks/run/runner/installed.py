"""Where this runner's own sources lie on disk, so that they can be started again."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile


def folder(root: str, package: str) -> str:
    """The folder to put on the path. For a zipapp, its unpacked copy under ROOT/code/<digest>."""
    here = os.path.dirname(os.path.abspath(__file__))
    for _ in package.split("."):
        here = os.path.dirname(here)
    return _unpacked(root, here) if os.path.isfile(here) else here


def _unpacked(root: str, archive: str) -> str:
    with open(archive, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    target = os.path.join(root, "code", digest[:16])
    if os.path.isdir(target):
        return target
    os.makedirs(os.path.dirname(target), exist_ok=True)
    temporary = tempfile.mkdtemp(dir=os.path.dirname(target))
    with zipfile.ZipFile(archive) as file:
        file.extractall(temporary)  # Our own archive, made by us.
    try:
        os.rename(temporary, target)
    except OSError:
        if not os.path.isdir(target):
            raise
    return target
