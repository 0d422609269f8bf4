"""A small catalog that is right, and a way to spoil it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

GOOD = """\
builds:
  wheel: {kind: wheel, requirements: [torch==2.13.0]}
environments:
  cpu: {build: wheel}
  gpu: {build: wheel, accelerator: cuda}
suites:
  compiled:
    kind: gtest
    files: [site/torch/bin/*]
  python:
    kind: pytest
    sources: sources/python
    files: [test_*.py]
pools:
  local: {kind: local}
profiles:
  small:
    matrix:
      - {environment: cpu, suite: compiled}
      - {environment: cpu, suite: python}
    pools: [local]
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write files of a catalog (the good one first) and give its folder."""

    def write_files(good: str = GOOD, **files: str) -> Path:
        (tmp_path / "sources/python").mkdir(parents=True, exist_ok=True)
        (tmp_path / "a.yaml").write_text(good)
        for name, text in files.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        return tmp_path

    return write_files


def line_of(text: str, words: str) -> int:
    """The number of the line that holds `words`."""
    return next(number for number, line in enumerate(text.splitlines(), start=1) if words in line)
