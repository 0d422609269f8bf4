"""The rounds of a soak: how many, with which seeds, and which are done already."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

SOAK = os.environ.get("COMMONFLEET_SOAK") == "1"


def rounds(name: str, *, full: int, sample: int) -> Iterator[tuple[int, random.Random]]:
    """(number, random source) of each round to run now. Prints the seed; resumes from SOAK_STATE."""
    seed = int(os.environ.get("SOAK_SEED") or random.SystemRandom().randrange(1 << 32))
    count = full if SOAK else sample
    state = Path(os.environ["SOAK_STATE"]) if os.environ.get("SOAK_STATE") else None
    known = json.loads(state.read_text()) if state and state.exists() else {}
    seed, done = known.get(name, (seed, 0))
    print(f"{name}: rounds {done + 1} to {count}, SOAK_SEED={seed}", flush=True)
    for number in range(done, count):
        yield number, random.Random(f"{seed}:{number}")
        if state is not None:
            state.write_text(json.dumps({**known, name: (seed, number + 1)}))
