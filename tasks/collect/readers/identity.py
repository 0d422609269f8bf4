"""What a JUnit test case is called by us: (file, class, name), from what each flavour of the format writes.

The same test must get the same name from its XML, from its JSON and from our own runner. So pytest's dotted
`classname` is taken apart into file and class, and CTest's, which only repeats the name, is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

Split = Callable[[str, str], tuple[str, str]]
"""From (the case's or suite's `file`, the case's `classname`) to our (file, class)."""


def flavour(root: str, attributes: Mapping[str, str]) -> str:
    """Which tool wrote this, by its outermost elements: `pytest`, `ctest` or `junit` (gtest, surefire, any other)."""
    name = attributes.get("name", "")
    if name in ("pytest", "pytest tests"):
        return "pytest"
    if root == "testsuite" and "disabled" in attributes and "hostname" in attributes and "errors" not in attributes:
        return "ctest"
    return "junit"


def pytest(file: str, classname: str) -> tuple[str, str]:
    """`tests.test_a.TestB.TestC` is class `TestB::TestC` of `tests/test_a.py`.

    Without a `file` (pytest writes it in the family xunit1 only) the class starts at the first part with a capital:
    pytest's own rule for classes, and PEP 8's for modules.
    """
    if file:
        module = file.removesuffix(".py").replace("/", ".").replace("\\", ".")
        if classname == module or classname.startswith(module + "."):
            return file, classname[len(module) + 1 :].replace(".", "::")
        return file, classname
    parts = classname.split(".")
    first = next((at for at, part in enumerate(parts) if part[:1].isupper()), len(parts))
    if first == 0:
        return "", classname
    return "/".join(parts[:first]) + ".py", "::".join(parts[first:])


def ctest(file: str, classname: str) -> tuple[str, str]:
    """CTest knows no classes."""
    return file, ""


def junit(file: str, classname: str) -> tuple[str, str]:
    """As it is written."""
    return file, classname


SPLITS: dict[str, Split] = {"pytest": pytest, "ctest": ctest, "junit": junit}
