"""What a host answers when it is asked for its tests: only the shape that was asked for comes in."""

from __future__ import annotations

from typing import Any

import pytest

from flows.planning import discovery_on


class Host:
    """A machine whose pipe answers one thing."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.pipe = self

    async def call(self, op: str, **_: Any) -> dict[str, Any]:
        assert op == "discover"
        return {"ok": True, **self.answer}


DEEP: list[Any] = []
for _ in range(600):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("answer", "taken"),
    [
        ({"tests": ["S.a"], "disabled": ["S.b"], "error": None}, {"tests": ["S.a"], "disabled": ["S.b"]}),
        ({"tests": ["S.a"], "x": DEEP}, {"tests": ["S.a"], "disabled": []}),
        ({"tests": ["S.a"], "disabled": DEEP}, {}),
        ({"tests": "S.a"}, {}),
        ({"disabled": []}, {}),
        ({"tests": [], "error": "no such file"}, {"error": "no such file"}),
        ({"tests": [], "error": DEEP}, {"error": "its error is no text"}),
    ],
)
async def test_an_answer_is_taken_in_the_shape_that_was_asked_for(
    answer: dict[str, Any], taken: dict[str, Any]
) -> None:
    host: Any = Host(answer)
    assert await discovery_on(host)({"kind": "gtest"}) == taken
