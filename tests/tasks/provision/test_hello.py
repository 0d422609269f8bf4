"""What a machine says about itself is checked before it is believed, and one that talks nonsense is given back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blocks.catalog.models import PoolSpec
from blocks.errors import HostError
from blocks.pools.base import Ground, Machine
from tasks.collect.shapes import Unfit
from tasks.provision.acquire import acquired
from tasks.provision.held import Held, greeted
from tasks.run.answers import HELLO as RULE
from tasks.run.answers import MOST_SLOTS
from tasks.run.pipe import open_pipe
from tests.tasks.provision.conftest import HELLO, Books, Host
from tests.tasks.run.conftest import Wire
from tests.tasks.run.conftest import runner_pyz as runner_pyz
from tests.tasks.run.conftest import runner_root as runner_root
from tests.tasks.run.conftest import wire as wire
from tests.tasks.run.conftest import wires as wires
from tests.tasks.run.far_end import FarEnd

SPEC = PoolSpec(kind="local")


def nested(levels: int) -> Any:
    return [] if levels == 0 else [nested(levels - 1)]


def runtime(**fields: Any) -> dict[str, Any]:
    return {"runtime": {**HELLO["runtime"], **fields}}


def device(**fields: Any) -> dict[str, Any]:
    return {"accelerators": [{"class": "cuda", "count": 1, **fields}]}


NONSENSE: dict[str, dict[str, Any]] = {
    "sandbox none": {"sandbox": None}, "sandbox kind": {"sandbox": {"kind": "jail"}},
    "sandbox why": {"sandbox": {"kind": "none", "why": 7}}, "slots text": {"slots_hint": "many"},
    "slots 0": {"slots_hint": 0}, "slots -1": {"slots_hint": -1}, "slots 1.5": {"slots_hint": 1.5},
    "slots true": {"slots_hint": True}, "slots 10**7": {"slots_hint": 10**7}, "slots 10**30": {"slots_hint": 10**30},
    "runtime list": {"runtime": []}, "arch": runtime(arch=["x86_64"]), "libc": runtime(libc=None),
    "python list": runtime(python=["cp311"]), "python path": runtime(python={"cp311": 3}),
    "python NUL": runtime(python={"cp311": "/bin/py\0thon"}), "toolchain": runtime(toolchain="c++"),
    "tools": runtime(toolchain=["c++"] * 1001), "fingerprint text": {"fingerprint": "fast"},
    "cpu": {"fingerprint": {"cpu": "fast"}}, "isa": {"fingerprint": {"cpu": {"isa": [{}]}}},
    "memory infinite": {"fingerprint": {"memory_bytes": float("inf")}},
    "memory 2**64": {"fingerprint": {"memory_bytes": 2**64}}, "memory -1": {"fingerprint": {"memory_bytes": -1}},
    "NaN": {"fingerprint": {"kernel": float("nan")}}, "NUL": {"fingerprint": {"kernel": "a\0b"}},
    "NUL in a key": {"fingerprint": {"a\0b": 1}}, "surrogate": {"fingerprint": {"kernel": "\ud800"}},
    "huge number": {"fingerprint": {"kernel": 10**400}}, "deep": {"fingerprint": {"kernel": nested(30)}},
    "long": {"fingerprint": {"kernel": "x" * (1 << 20)}}, "many": {"fingerprint": {"kernel": [1] * (1 << 20)}},
    "accelerators": {"accelerators": {}}, "device 7": {"accelerators": [7]}, "count text": device(count="2"),
    "count 0": device(count=0), "count 10**7": device(count=10**7), "class": device(**{"class": ["cuda"]}),
    "kinds": {"accelerators": [{"class": "cuda", "count": 1}] * 65}, "protocol": {"protocol": 99},
}  # fmt: skip


async def held(hello: dict[str, Any], spec: PoolSpec = SPEC) -> Held:
    """What becomes of a machine that says this."""

    async def connect() -> FarEnd:
        return FarEnd(lambda request: {"ok": True, **hello})

    pool = Host("local", Ground(Path("/nowhere"), Path("/nowhere/runner.pyz")), spec)
    async with open_pipe("m", connect) as pipe:
        return await greeted(pool, Machine("m", "local", "s", "here", "", 0.0), spec, pipe)


@pytest.mark.parametrize("hello", NONSENSE.values(), ids=NONSENSE)
async def test_nonsense_is_an_error_that_says_what_is_wrong_and_what_to_do(hello: dict[str, Any]) -> None:
    with pytest.raises(HostError, match=r"m answered `hello` with nonsense: .* must be") as error:
        await held({**HELLO, **hello})
    assert error.value.do


@pytest.mark.parametrize("key", ["runtime", "fingerprint", "accelerators", "sandbox", "slots_hint"])
async def test_whatever_we_need_must_be_there(key: str) -> None:
    with pytest.raises(HostError, match=f"nonsense: {key} must be there"):
        await held({name: value for name, value in HELLO.items() if name != key})


async def test_many_devices_of_many_kinds_are_no_more_slots_than_there_may_be() -> None:
    kinds = [{"class": f"kind-{n}", "count": MOST_SLOTS} for n in range(5)]
    assert (await held({**HELLO, "accelerators": kinds})).slots == MOST_SLOTS


async def test_a_machine_may_not_say_why_it_has_no_sandbox() -> None:
    with pytest.raises(HostError, match="demands bubblewrap, and m cannot use it: it does not say why"):
        await held({**HELLO, "sandbox": {"kind": "none"}}, PoolSpec(kind="local", sandbox="bubblewrap"))


async def test_a_machine_that_talks_nonsense_is_given_back(books: Books) -> None:
    books.settings["said"] = {"runtime": []}
    with pytest.raises(HostError, match="nonsense: runtime must be an object"):
        async with acquired(books.root, books.ledger, books.opened(), "local", SPEC):
            pass
    assert (books.states(), books.held(), books.machine()) == (["released"], [], None)


def test_what_our_own_runner_says_is_as_the_table_has_it(wire: Wire) -> None:
    answer = wire.ok("hello")
    RULE(answer)
    del answer["sandbox"]["kind"]
    with pytest.raises(Unfit):
        RULE(answer)
