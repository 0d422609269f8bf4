"""Durations out of PyTorch's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blocks.catalog.load import default_root, load_catalog
from blocks.catalog.models import SuiteSpec
from blocks.errors import CatalogError
from tasks.plan.times import Times, read_times, seconds_of, suite_times

SAMPLE = {
    "default": {
        "default": {"test_ops": 4160.94, "cpp/test_api": 50.0, "inductor/test_x": 3},
        "slow": {"test_ops": 9000},
    },
    "linux-jammy-py3.14-clang18": {"default": {"test_ops": 1.5}},
}


@pytest.fixture
def times_file(tmp_path: Path) -> Path:
    (tmp_path / "times.json").write_text(json.dumps(SAMPLE))
    return tmp_path / "times.json"


@pytest.mark.parametrize(
    ("job", "config", "seconds"),
    [
        ("linux-jammy-py3.14-clang18", "default", 1.5),
        ("linux-jammy-py3.14-clang18", "slow", 1.5),
        ("another", "slow", 9000),
        ("another", "another", 4160.94),
    ],
)
def test_a_job_and_config_are_chosen_with_default_for_either(
    times_file: Path, job: str, config: str, seconds: float
) -> None:
    assert read_times(times_file, job=job, config=config)["test_ops"] == seconds


def test_files_are_found_as_pytorch_names_them(times_file: Path) -> None:
    suite = SuiteSpec(kind="gtest", times=times_file.name)
    times = suite_times(suite, times_file.parent, job="cpu", config="default")
    assert times.of_file("test_ops.py") == 4160.94
    assert times.of_file("inductor/test_x.py") == 3
    assert times.of_file("test_api") == 50
    assert times.of_file("test_nothing.py") is None


def test_a_file_that_is_gone_or_broken_is_said(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="cannot be read"):
        read_times(tmp_path / "none.json", job="", config="")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(CatalogError, match="cannot be read"):
        read_times(tmp_path / "bad.json", job="", config="")


def test_values_that_are_no_seconds_are_not_believed(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(
        '{"default": {"default": {"a": -1, "b": "x", "c": true, "d": NaN, "e": 2, "f": Infinity}}}'
    )
    times = suite_times(SuiteSpec(kind="gtest", times="t.json"), tmp_path, job="", config="")
    assert dict(times.files) == {"e": 2.0}


def test_known_tests_take_their_own_time_and_the_rest_shares_what_remains() -> None:
    tests = ["A.long", "A.x", "B.y", "B.z"]
    times = Times({"test": 21.0}, {"test": {"A.long": 10.0, "B": 4.0}})
    seconds = seconds_of(tests, "test", times, SuiteSpec(kind="gtest", start_seconds=1.0))
    assert [seconds(test) for test in tests] == [10.0, 6.0, 2.0, 2.0]


def test_classes_of_pytest_node_ids_are_found() -> None:
    tests = ["d/test_x.py::TestA::test_1", "d/test_x.py::TestA::test_2"]
    seconds = seconds_of(tests, "d/test_x.py", Times({}, {"d/test_x": {"TestA": 8.0}}), SuiteSpec(kind="pytest"))
    assert [seconds(test) for test in tests] == [4.0, 4.0]


def test_without_times_the_suites_default_holds() -> None:
    seconds = seconds_of(["A.a"], "f", Times(), SuiteSpec(kind="gtest", default_seconds_per_test=0.7))
    assert seconds("A.a") == 0.7


def test_the_shipped_times_cover_all_binaries_of_the_wheel() -> None:
    root = default_root()
    times = suite_times(load_catalog(root).suites["libtorch"], root, job="cpu", config="default")
    assert len(times.files) == 115
    assert times.of_file("TCPStoreTest") == 23.9
    assert times.within("TCPStoreTest")["TCPStoreTest.testLibUVSetAndWait"] > 10
