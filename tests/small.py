"""A small project that runs for real in seconds: a catalog with a build from source and suites of shell commands.

Everything is the real thing (git, build, provenance, pipe, runner, sandbox, ledger); only the work is small.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def small_catalog(root: Path, commands: Mapping[str, list[str]], *, sandbox: str = "auto", **suite: Any) -> Path:
    """Write a catalog below `root` whose profile `small` runs `commands` (name -> argv); returns its folder."""
    repository = root / "project"
    repository.mkdir(parents=True)
    (repository / "answer.txt").write_text("42\n")
    git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "the project"], check=True)
    folder = root / "catalog"
    folder.mkdir()
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    document = {
        "builds": {
            "project": {
                "kind": "source",
                "repository": str(repository),
                "ref": "main",
                "command": ["tar", "czf", "project.tar.gz", "answer.txt"],
                "outputs": ["*.tar.gz"],
            }
        },
        "environments": {"here": {"build": "project", "python": tag}},
        "suites": {"commands": {"kind": "command", "commands": dict(commands), "memory_gib": 0.5, **suite}},
        "pools": {"local": {"kind": "local", "slots": 2, "sandbox": sandbox}},
        "profiles": {
            "small": {
                "matrix": [{"environment": "here", "suite": "commands"}],
                "pools": ["local"],
                "lease_target_seconds": 3,
            }
        },
    }
    (folder / "catalog.yaml").write_text(yaml.safe_dump(document))
    return folder


def surroundings(root: Path, catalog: Path) -> dict[str, str]:
    """The environment of a `commonfleet` process that works on this catalog, with its state below `root`."""
    return {**os.environ, "COMMONFLEET_HOME": str(root / "home"), "COMMONFLEET_CATALOG": str(catalog)}


def commonfleet(*arguments: str, env: Mapping[str, str], timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run the command line, as a person would."""
    program = Path(sys.executable).with_name("commonfleet")
    return subprocess.run(
        [str(program), *arguments], env=dict(env), capture_output=True, text=True, check=False, timeout=timeout
    )


def asked(*arguments: str, env: Mapping[str, str]) -> Any:
    """The JSON that a command prints."""
    done = commonfleet(*arguments, "--json", env=env)
    assert done.stdout, done.stderr
    return json.loads(done.stdout)
