"""The runner's command line: `serve --root DIR` on a machine's pipe, `run LEASE_DIR` for one lease."""

from __future__ import annotations

import os
import sys
from typing import List, Optional

USAGE = "usage: runner.pyz serve --root DIR | run LEASE_DIR"


def main(argv: Optional[List[str]] = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if len(words) == 3 and words[:2] == ["serve", "--root"]:
        from .serve import serve

        return serve(words[2], own_command(os.path.abspath(words[2])))
    if len(words) == 2 and words[0] == "run":
        from .execute import run  # Imported here: a runner needs neither zipfile nor platform, and starts faster.

        return run(words[1])
    print(USAGE, file=sys.stderr)
    return 2


def own_command(root: str) -> List[str]:
    """The command line that starts this very runner again.

    Out of a zipapp, its sources are put beside the leases first: runners then start from compiled files, and live on
    when the zipapp is replaced.
    """
    from . import installed

    folder = installed.folder(root, __package__ or "runner")
    code = f"import sys; sys.path.insert(0, {folder!r}); from {__package__}.__main__ import main; sys.exit(main())"
    return [sys.executable, "-I", "-S", "-c", code]


if __name__ == "__main__":
    sys.exit(main())
