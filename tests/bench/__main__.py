"""Run the benchmarks that were named, or all."""

from __future__ import annotations

import importlib
import json
import sys

BENCHES = ("completeness", "leases", "log", "ingest", "memory", "results", "verify", "libtorch", "nightly")


def main() -> None:
    wanted = sys.argv[1:] or BENCHES
    unknown = set(wanted) - set(BENCHES)
    if unknown:
        raise SystemExit(f"No such benchmark: {', '.join(sorted(unknown))}. There are {', '.join(BENCHES)}.")
    for name in wanted:
        print(json.dumps(importlib.import_module(f"tests.bench.{name}").bench()), flush=True)


if __name__ == "__main__":
    main()
