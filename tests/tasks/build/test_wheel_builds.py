"""What the wheel kind promises, on small wheels."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path

import pytest
from sqlalchemy import func, select

from blocks.catalog.models import WheelBuild
from blocks.errors import BuildError
from blocks.ledger.schema import builds
from blocks.signing import load_or_make_key
from tasks.build.provenance import check_build
from tests.tasks.build.place import Place, serve, wheel


def spec(*requirements: str, indexes: tuple[str, ...] = ("default",)) -> WheelBuild:
    return WheelBuild(kind="wheel", requirements=list(requirements), indexes=list(indexes), toolchain=["c++"])


def test_a_wheelhouse_holds_what_was_asked_for_and_everything_that_needs(place: Place, links: Path) -> None:
    wheel(links, "apple", "1.2", needs=["pear>=2"])
    wheel(links, "pear", "1.0")
    pear = wheel(links, "pear", "2.5", tag="cp39-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64")
    made = place.make(spec("apple==1.2"))
    assert [artifact.name for artifact in made.build.artifacts] == ["apple-1.2-py3-none-any.whl", pear.name]
    assert [place.store.path(a.digest).stat().st_size for a in made.build.artifacts] == [
        a.bytes for a in made.build.artifacts
    ]
    assert made.build.version == "1.2"
    assert (made.build.runtime.arch, made.build.runtime.libc) == ("x86_64", "glibc 2.17")
    assert made.build.runtime.toolchain == ("c++",)
    check_build(made.build, json.loads(place.store.get(made.provenance)), place.key.public)


def test_an_unchanged_build_is_not_made_twice_and_asks_no_index(place: Place, links: Path, tmp_path: Path) -> None:
    wheel(tmp_path / "a", "apple", "1.2")
    with serve(tmp_path / "a") as index:
        first = place.make(spec("apple==1.2", indexes=(index.url,)))
        assert not first.reused
        index.asked.clear()
        began = time.monotonic()
        second = place.make(spec("apple==1.2", indexes=(index.url,)))
        assert time.monotonic() - began < 1
        assert index.asked == []
    assert second.reused
    assert (second.build, second.provenance) == (first.build, first.provenance)
    assert place.events() == ["build.made"]


def test_a_requirement_without_an_exact_pin_is_looked_up_again(place: Place, links: Path) -> None:
    wheel(links, "apple", "1.2")
    first = place.make(spec("apple>=1"))
    assert place.make(spec("apple>=1")).reused
    wheel(links, "apple", "1.3")
    third = place.make(spec("apple>=1"))
    assert not third.reused
    assert (first.build.version, third.build.version) == ("1.2", "1.3")
    assert first.build.key != third.build.key


def test_another_name_or_requirement_is_another_build(place: Place, links: Path) -> None:
    wheel(links, "apple", "1.2")
    wheel(links, "pear", "2")
    keys = [place.make(spec("apple==1.2"), name).build.key for name in ("b", "c")]
    keys.append(place.make(spec("apple==1.2", "pear==2")).build.key)
    assert len(set(keys)) == 3


def test_a_build_whose_artifact_has_gone_is_made_again(place: Place, links: Path) -> None:
    wheel(links, "apple", "1.2")
    first = place.make(spec("apple==1.2"))
    place.store.path(first.build.artifacts[0].digest).unlink()
    second = place.make(spec("apple==1.2"))
    assert not second.reused
    assert place.store.has(first.build.artifacts[0].digest)
    with place.ledger.read() as connection:
        assert connection.scalar(select(func.count()).select_from(builds)) == 1
    assert place.events() == ["build.made", "build.made"]


def test_a_build_signed_by_another_installation_is_made_and_signed_again(
    place: Place, links: Path, tmp_path: Path
) -> None:
    wheel(links, "apple", "1.2")
    place.make(spec("apple==1.2"))
    ours = load_or_make_key(tmp_path / "other")
    made = place.make(spec("apple==1.2"), key=ours)
    assert not made.reused
    check_build(made.build, json.loads(place.store.get(made.provenance)), ours.public)


def test_the_orchestrators_own_environment_stays_as_it_is(place: Place, links: Path) -> None:
    wheel(links, "apple-unheard-of", "1.2")
    place.make(spec("apple-unheard-of==1.2"))
    importlib.invalidate_caches()
    assert importlib.util.find_spec("apple_unheard_of") is None
    assert importlib.util.find_spec("torch") is None


def test_a_wheel_that_does_not_exist_is_named_with_the_indexes_tried(place: Place, links: Path) -> None:
    wheel(links, "apple", "1.2")
    with pytest.raises(BuildError) as caught:
        place.make(spec("apple==1.2", "pear==9"))
    message = str(caught.value)
    assert "no wheel for pear==9" in message
    assert "pip's default index" in message
    assert "Could not find a version that satisfies the requirement pear==9" in message
    assert caught.value.do
    assert place.leftovers() == []


def test_under_a_constraints_file_too_the_missing_wheel_is_named(
    place: Place, links: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel(links, "apple", "1.2")
    (tmp_path / "constraints.txt").write_text("apple<2\n")
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "constraints.txt"))
    with pytest.raises(BuildError, match=r"no wheel for apple==1\.9 .*\(from versions: 1\.2\)"):
        place.make(spec("apple==1.9"))


def test_wheels_that_exclude_each_other_are_said_to_and_the_log_is_kept(place: Place, links: Path) -> None:
    wheel(links, "apple", "1", needs=["seed==1"])
    wheel(links, "pear", "1", needs=["seed==2"])
    for version in ("1", "2"):
        wheel(links, "seed", version)
    with pytest.raises(BuildError, match="cannot be had together") as caught:
        place.make(spec("apple==1", "pear==1"))
    log = Path(caught.value.kept.removeprefix("The whole log: ").rstrip("."))
    assert "The conflict is caused by" in log.read_text()


def test_a_consumer_folder_without_cmake_is_a_clear_error(place: Place, links: Path) -> None:
    wheel(links, "apple", "1.2")
    (place.root / "catalog" / "empty").mkdir()
    consumer = WheelBuild(kind="wheel", requirements=["apple==1.2"], consumer="empty")
    with pytest.raises(BuildError, match=r"has no CMakeLists\.txt"):
        place.make(consumer)
