"""What a machine's answers must look like before anybody reads them: a table for each operation whose answer we use.

What answers may be broken or hostile. What it says is checked here, once and whole, so that nonsense ends as a
HostError about that machine and never as a KeyError in the middle of a run.
"""

from __future__ import annotations

from typing import Any

from blocks.errors import HostError
from blocks.lease import NAME_CHARACTERS, PROTOCOL
from tasks.collect.shapes import LAST_INT32, Rule, Unfit, flag, listed, maybe, plain, shape, table, text, whole, word
from tasks.run.pipe import Pipe

MOST_SLOTS = 4096
_HELLO_SIZE = 1 << 20

_LABEL, _COUNT, _NAME = text(200), whole(1, MOST_SLOTS), text(NAME_CHARACTERS, 1)
_LEASE = text(200, 1)


def _all(*rules: Rule) -> Rule:
    def check(value: Any) -> None:
        for rule in rules:
            rule(value)

    return check


HELLO = _all(
    plain(_HELLO_SIZE),  # what is in it beyond the table is written down too
    shape(
        {
            "runtime": shape(
                {
                    "arch": _LABEL,
                    "libc": _LABEL,
                    "python": table(text(4096, 1), 100, key=text(40, 1)),
                    "toolchain": listed(_LABEL, 1000),
                }
            ),
            "fingerprint": shape(
                {},
                optional={
                    "memory_bytes": maybe(whole(0)),
                    "cpu": maybe(shape({}, optional={"isa": maybe(listed(_LABEL, 1000))})),
                },
            ),
            "accelerators": listed(shape({"class": text(200, 1), "count": _COUNT}), 64),
            "sandbox": shape({"kind": word("bubblewrap", "none")}, optional={"why": text(20_000)}),
            "slots_hint": _COUNT,
        },
        optional={"protocol": whole(PROTOCOL, PROTOCOL)},
    ),
)

_RUNNER = shape(
    {
        "lease": _LEASE,
        "run": _LEASE,
        "pid": maybe(whole(1)),
        "alive": flag,
        "done": flag,
        "in_hand": maybe(_NAME),
        "spooled": whole(0),
        "acked": whole(0, LAST_INT32),
    }
)
STATUS = shape({"runners": listed(_RUNNER, 10_000)})


def _anything(_: Any) -> None:
    """The part is checked by the desk, and what is wrong with it costs its lease only."""


COLLECT = shape({"part": _anything, "done": flag, "in_hand": maybe(_NAME), "spooled": whole(0)})


async def answered(pipe: Pipe, rule: Rule, op: str, **arguments: Any) -> dict[str, Any]:
    """The answer to `op`, which is as `rule` says. Raises HostError."""
    answer = await pipe.call(op, **arguments)
    try:
        rule(answer)
    except Unfit as unfit:
        raise HostError(
            f"{pipe.name} answered `{op}` with nonsense: {unfit}.",
            kept="What was delivered from there is kept.",
            do="See what answers there as the runner, or take its pool out of the profile.",
        ) from unfit
    return answer
