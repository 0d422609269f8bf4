"""Which index a wheel comes from, and what an index costs that does not answer."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from blocks.canonical import digest_file
from blocks.catalog.models import WheelBuild
from blocks.errors import BuildError, TrustError
from tasks.build.indexes import redacted, usable, why_silent
from tests.tasks.build.place import Place, serve, wheel


def spec(requirement: str, *indexes: str) -> WheelBuild:
    return WheelBuild(kind="wheel", requirements=[requirement], indexes=list(indexes))


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_index_that_refuses_costs_little_and_the_next_one_serves(place: Place, links: Path) -> None:
    wheel(links, "apple", "1.2")
    dead = f"http://127.0.0.1:{closed_port()}/simple/"
    made = place.make(spec("apple==1.2", dead, "default"))
    assert made.build.version == "1.2"
    assert made.seconds < 10
    assert f"{dead} cannot be reached (Connection refused)" in place.said


def test_an_index_that_never_answers_costs_under_three_seconds(place: Place, links: Path) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        began = time.monotonic()
        answering, silent = usable([f"http://127.0.0.1:{mute.getsockname()[1]}/simple/", "default"], place.said.append)
        assert time.monotonic() - began < 3.5
    assert answering == ["default"]
    assert list(silent.values()) == ["no answer in 2.5 s"]


def test_a_name_that_is_not_known_is_said_to_be(place: Place, links: Path) -> None:
    began = time.monotonic()
    assert why_silent("https://no-such-index.invalid/simple/")
    assert time.monotonic() - began < 3.5


def test_the_first_index_that_has_it_wins_over_a_higher_version(place: Place, links: Path, tmp_path: Path) -> None:
    wheel(tmp_path / "first", "apple", "1.0")
    wheel(links, "apple", "2.0")
    with serve(tmp_path / "first") as index:
        assert place.make(spec("apple", index.url, "default")).build.version == "1.0"
        assert place.make(spec("apple", "default", index.url)).build.version == "2.0"


def test_the_first_index_wins_for_the_same_version_too(place: Place, links: Path, tmp_path: Path) -> None:
    red = wheel(tmp_path / "red", "apple", "1.0", body="# from the one")
    blue = wheel(tmp_path / "blue", "apple", "1.0", body="# from the other")
    with serve(tmp_path / "red") as first, serve(tmp_path / "blue") as second:
        for indexes, expected in (((first.url, second.url), red), ((second.url, first.url), blue)):
            made = place.make(spec("apple==1.0", *indexes))
            assert made.build.artifacts[0].digest == digest_file(expected)


def test_what_a_wheel_needs_may_come_from_a_later_index(place: Place, links: Path, tmp_path: Path) -> None:
    wheel(tmp_path / "first", "apple", "1.0+cpu", needs=["pear"])
    wheel(links, "apple", "1.0")
    wheel(links, "pear", "3.0")
    with serve(tmp_path / "first") as index:
        made = place.make(spec("apple==1.0", index.url, "default"))
    assert [artifact.name.split("-")[:2] for artifact in made.build.artifacts] == [
        ["apple", "1.0+cpu"],
        ["pear", "3.0"],
    ]


def test_an_index_without_the_wheel_is_said_to_be_and_passed_over(place: Place, links: Path, tmp_path: Path) -> None:
    wheel(tmp_path / "first", "pear", "1.0")
    wheel(links, "apple", "1.2")
    with serve(tmp_path / "first") as index:
        assert place.make(spec("apple==1.2", index.url, "default")).build.version == "1.2"
    assert any(line.startswith(f"{index.url} gives none of apple==1.2 (") for line in place.said)


def test_a_named_index_is_asked_alone(place: Place, links: Path, tmp_path: Path) -> None:
    wheel(links, "apple", "1.2")  # pip's configured find-links have it, the named index does not
    wheel(tmp_path / "first", "pear", "1.0")
    with serve(tmp_path / "first") as index, pytest.raises(BuildError, match=r"no wheel for apple==1\.2"):
        place.make(spec("apple==1.2", index.url))


def test_a_file_that_is_not_what_the_index_promised_is_refused(place: Place, links: Path, tmp_path: Path) -> None:
    wheel(tmp_path / "first", "apple", "1.2")
    with (
        serve(tmp_path / "first", promise=lambda _: "0" * 64) as index,
        pytest.raises((TrustError, BuildError)) as caught,
    ):
        place.make(spec("apple==1.2", index.url))
    assert "0000000000" in str(caught.value) or "hash" in str(caught.value).lower()
    assert place.events() == []


def test_without_any_index_that_answers_each_is_named_with_its_reason(place: Place, links: Path) -> None:
    dead = f"http://127.0.0.1:{closed_port()}/simple/"
    with pytest.raises(BuildError, match=r"No package index can be reached \(.*Connection refused"):
        place.make(spec("apple==1.2", dead))


def test_a_password_in_an_index_is_never_shown(place: Place, links: Path) -> None:
    assert redacted("https://me:secret@host:8/simple/?a=b") == "https://****@host:8/simple/?a=b"
    dead = f"http://me:secret@127.0.0.1:{closed_port()}/simple/"
    with pytest.raises(BuildError) as caught:
        place.make(spec("apple==1.2", dead))
    assert "secret" not in str(caught.value) + " ".join(place.said)
