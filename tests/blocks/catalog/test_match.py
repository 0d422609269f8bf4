"""Naming tests by glob."""

from __future__ import annotations

import datetime

import pytest

from blocks.catalog.match import label, names, quarantined
from blocks.catalog.models import Quarantined

TODAY = datetime.date(2026, 12, 1)


@pytest.mark.parametrize(
    ("file", "test", "expected"),
    [
        ("quantized_test", "TestQTensor.RoundingMode", "quantized_test::TestQTensor.RoundingMode"),
        ("a/test_x.py", "a/test_x.py::TestX::test_y[1]", "a/test_x.py::TestX.test_y[1]"),
        ("test_x.py", "test_x.py::test_y", "test_x.py::test_y"),
    ],
)
def test_a_label_reads_the_same_for_gtest_and_pytest(file: str, test: str, expected: str) -> None:
    assert label(file, test) == expected


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("test_x.py::TestX.test_y[1]", True),
        ("test_x.py::*", True),
        ("*TestX*", True),
        ("test_x.py::TestX::test_y*", True),
        ("TestX", False),
        ("test_x.py::TestX.test_y", False),
        ("*testx*", False),
    ],
)
def test_a_pattern_is_a_glob_or_the_name_itself(pattern: str, meant: bool) -> None:
    assert names(pattern, "test_x.py", "test_x.py::TestX::test_y[1]") is meant


def test_a_file_may_be_named_by_its_last_name() -> None:
    assert names("quantized_test::A.*", "site/torch/test/quantized_test", "A.b")
    assert names("site/torch/*::A.*", "site/torch/test/quantized_test", "A.b")
    assert not names("test/quantized_test::A.*", "site/torch/test/quantized_test", "A.b")


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ({}, True),
        ({"suite": "other"}, False),
        ({"environment": "cuda-12"}, False),
        ({"environment": "rocm-6"}, True),
        ({"label": "f::A.b"}, False),
        ({"label": "site/f::A.a"}, True),
        ({"today": datetime.date(2027, 1, 1)}, True),
        ({"today": datetime.date(2027, 1, 2)}, False),
    ],
)
def test_quarantine_holds_for_its_suite_environments_tests_and_days(changed: dict[str, object], kept: bool) -> None:
    entry = Quarantined(
        suite="s",
        test="f::A.a",
        environments=["cpu", "rocm-*"],
        reason="r",
        owner="o",
        expires=datetime.date(2027, 1, 1),
    )
    asked = {"suite": "s", "environment": "cpu", "label": "f::A.a", "today": TODAY} | changed
    assert (quarantined([entry], **asked) is entry) is kept  # type: ignore[arg-type]
