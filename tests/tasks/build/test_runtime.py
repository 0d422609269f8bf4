"""What a build needs is read off its wheels, and a host without it is told so in words."""

from __future__ import annotations

from typing import Any

import pytest

from blocks.build import Runtime
from tasks.build.runtime import glibc_needed, missing_on, runtime_of

HOST: dict[str, Any] = {
    "arch": "x86_64",
    "libc": "glibc 2.36",
    "python": {"cp311": "/usr/bin/python3.11"},
    "toolchain": ["c++", "cmake"],
}


@pytest.mark.parametrize(
    ("tags", "arch", "libc"),
    [
        (["py3-none-any"], "", ""),
        (["cp311-cp311-manylinux_2_28_x86_64"], "x86_64", "glibc 2.28"),
        (["cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.manylinux_2_28_x86_64"], "x86_64", "glibc 2.17"),
        (["cp311-cp311-manylinux_2_5_x86_64", "cp311-abi3-manylinux_2_31_x86_64"], "x86_64", "glibc 2.31"),
        (["cp311-cp311-manylinux_2_9_aarch64", "py3-none-manylinux2010_aarch64"], "aarch64", "glibc 2.12"),
        (["cp311-cp311-manylinux1_x86_64"], "x86_64", "glibc 2.5"),
        (["cp311-cp311-musllinux_1_2_x86_64"], "x86_64", "musl 1.2"),
        (["cp311-cp311-linux_x86_64"], "x86_64", ""),
    ],
)
def test_arch_and_libc_are_what_the_wheels_tags_say(tags: list[str], arch: str, libc: str) -> None:
    runtime = runtime_of([f"x-1.0-{tag}.whl" for tag in tags], python="cp311", toolchain=["c++"])
    assert runtime == Runtime(arch, "cp311", libc, ("c++",))


def test_what_was_compiled_here_can_raise_the_libc() -> None:
    wheels = ["x-1-cp311-cp311-manylinux_2_28_x86_64.whl"]
    assert runtime_of(wheels, python="cp311", glibc=(2, 34)).libc == "glibc 2.34"
    assert runtime_of(wheels, python="cp311", glibc=(2, 4)).libc == "glibc 2.28"


def test_the_newest_symbol_version_counts_as_a_number() -> None:
    assert glibc_needed([b"\0GLIBC_2.9\0GLIBC_2.34\0", b"GLIBC_2.17"]) == (2, 34)
    assert glibc_needed([b"GLIBCXX_3.4.29"]) is None


def test_a_host_that_has_everything_lacks_nothing() -> None:
    assert missing_on(Runtime("x86_64", "cp311", "glibc 2.28", ("c++",)), HOST) == []
    assert missing_on(Runtime(), {}) == []
    assert missing_on(Runtime(libc="glibc 2.9"), HOST) == []


@pytest.mark.parametrize(
    ("runtime", "reason"),
    [
        (Runtime(arch="aarch64"), "it is x86_64; the build is for aarch64"),
        (Runtime(python="cp313"), "it has no Python cp313 (it has: cp311)"),
        (Runtime(libc="glibc 2.39"), "it has glibc 2.36; the build needs glibc 2.39 or newer"),
        (Runtime(libc="musl 1.2"), "it has glibc 2.36; the build needs musl 1.2 or newer"),
        (Runtime(toolchain=("c++", "nvcc", "ninja")), "it lacks nvcc, ninja"),
    ],
)
def test_what_a_host_lacks_is_said_in_words(runtime: Runtime, reason: str) -> None:
    assert missing_on(runtime, HOST) == [reason]


def test_every_reason_is_given_and_a_silent_host_lacks_everything() -> None:
    assert len(missing_on(Runtime("x86_64", "cp311", "glibc 2.28", ("c++",)), {})) == 4
