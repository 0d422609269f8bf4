"""The first error in a log is the line that a person would look for."""

from __future__ import annotations

import pytest

from tasks.build.first_error import first_error

LOGS = {
    "a compiler": (
        "[ 50%] Building CXX object x.o\nx.cpp: In function 'int main()':\n"
        "x.cpp:3:5: warning: unused [-Werror=unused]\n"
        "x.cpp:4:7: error: 'y' was not declared in this scope\nx.cpp:9:1: error: later\nmake: *** [all] Error 2\n",
        "x.cpp:4:7: error: 'y' was not declared in this scope",
    ),
    "a missing header": (
        "a.cpp:1:10: fatal error: nope.h: No such file or directory\ncompilation terminated.\n",
        "a.cpp:1:10: fatal error: nope.h: No such file or directory",
    ),
    "a linker": (
        "/usr/bin/ld: m.o: in function `main':\nm.cpp:(.text+0x9): undefined reference to `f()'\n"
        "collect2: error: ld returned 1\n",
        "m.cpp:(.text+0x9): undefined reference to `f()'",
    ),
    "a missing library": (
        "/usr/bin/ld: cannot find -lnope\ncollect2: error: ld returned",
        "/usr/bin/ld: cannot find -lnope",
    ),
    "MSVC and nvcc": ("x.cu(3): error C2065: 'y': undeclared\n", "x.cu(3): error C2065: 'y': undeclared"),
    "CMake": (
        "-- Detecting\nCMake Error at CMakeLists.txt:3 (find_package):\n  Could not find Torch\n\n"
        "-- Configuring incomplete\n",
        "CMake Error at CMakeLists.txt:3 (find_package): Could not find Torch",
    ),
    "Python": (
        'running build\nTraceback (most recent call last):\n  File "s.py", line 1, in <module>\n'
        '    raise X("error: no")\n'
        "ValueError: seven\nmore\n",
        "ValueError: seven",
    ),
    "Python without a message": (
        "Traceback (most recent call last):\n  File\nKeyboardInterrupt\n",
        "KeyboardInterrupt",
    ),
    "git": ("fatal: repository '/x' does not exist\n", "fatal: repository '/x' does not exist"),
    "pip": ("Looking in links\nERROR: No matching distribution\n", "ERROR: No matching distribution"),
    "a full disk": ("cc1plus: out\nx: No space left on device\n", "x: No space left on device"),
    "a shell": ("sh: 1: frobnicate: command not found\n", "sh: 1: frobnicate: command not found"),
    "nothing that looks like one": ("one\ntwo\n\n", "two"),
    "no errors counted": ("0 errors, all well\n-- error handling: on the way\nlast\n", "last"),
    "nothing at all": ("", ""),
}


@pytest.mark.parametrize("log", LOGS)
def test_the_first_error_is_found(log: str) -> None:
    text, expected = LOGS[log]
    assert first_error(text.splitlines(keepends=True)) == expected


def test_a_very_long_line_is_cut() -> None:
    assert len(first_error([f"x.cpp:1: error: {'template<' * 1000}"])) == 300
