"""The runner as one file: `runner.pyz`, the same bytes for the same sources.

Its digest is what an agent compares before it trusts the copy on a machine.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from blocks.canonical import digest_file

SOURCES = Path(__file__).parent / "runner"
MAIN = b"import sys\n\nfrom runner.__main__ import main\n\nsys.exit(main())\n"
EPOCH = (1980, 1, 1, 0, 0, 0)  # The earliest time that a zip can hold.


def make_zipapp(target: Path) -> str:
    """Write the zipapp to `target`, whole or not at all; returns its digest (`sha256:<hex>`)."""
    members = {f"runner/{path.name}": path.read_bytes() for path in SOURCES.glob("*.py")}
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in sorted({"__main__.py": MAIN, **members}.items()):
                member = zipfile.ZipInfo(name, EPOCH)
                member.external_attr = 0o644 << 16
                archive.writestr(member, data, zipfile.ZIP_DEFLATED)
    temporary.chmod(0o755)
    os.replace(temporary, target)
    return digest_file(target)
