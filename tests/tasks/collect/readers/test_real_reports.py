"""Reports as the real tools write them: run here where the tool is at hand, else recorded (`data/`).

Recorded: pytest 9.2.0 with pytest-reportlog 1.0.0, both formats of one run; PyTorch's `test_comms_id` (GoogleTest).
"""

# ruff: noqa: E501  (reports as they are)

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from blocks.lease import worst
from tests.tasks.collect.readers.reading import cases_of, reading_of

DATA = Path(__file__).parent / "data"


def named(cases: list[dict]) -> dict[tuple[str, str, str], str]:
    """The worst outcome by (file, class, name)."""
    outcomes: dict[tuple[str, str, str], str] = {}
    for case in cases:
        key = (case["file"], case["cls"], case["name"])
        outcomes[key] = worst([outcomes[key], case["outcome"]] if key in outcomes else [case["outcome"]])
    return outcomes


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "test_a.py").write_text(
        textwrap.dedent("""
            import pytest, sys
            def test_ok(): print("printed")
            def test_bad():
                print("said before \\x1b[31mit failed")
                assert 1 == 2, "no\\x00good"
            @pytest.mark.parametrize("x", ["a::b", "c d"])
            def test_p(x): pass
            class TestK:
                class TestN:
                    def test_in(self): pass
            @pytest.mark.xfail
            def test_xf(): assert 0
            @pytest.mark.skip(reason="why")
            def test_sk(): pass
            @pytest.fixture
            def boom(): raise RuntimeError("setup")
            def test_err(boom): pass
        """)
    )
    return tmp_path


def test_pytests_own_xml_gives_every_test_its_file_class_and_outcome(project: Path) -> None:
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=r.xml", "-o", "addopts=", "sub"]
    subprocess.run([*argv, f"--rootdir={project}"], cwd=project, capture_output=True, timeout=60, check=False)
    cases = cases_of((project / "r.xml").read_bytes())
    assert named(cases) == {
        ("sub/test_a.py", "", "test_ok"): "passed",
        ("sub/test_a.py", "", "test_bad"): "failed",
        ("sub/test_a.py", "", "test_p[a::b]"): "passed",
        ("sub/test_a.py", "", "test_p[c d]"): "passed",
        ("sub/test_a.py", "TestK::TestN", "test_in"): "passed",
        ("sub/test_a.py", "", "test_xf"): "xfailed",
        ("sub/test_a.py", "", "test_sk"): "skipped",
        ("sub/test_a.py", "", "test_err"): "error",
    }
    bad = next(case for case in cases if case["name"] == "test_bad")
    assert "assert 1 == 2" in bad["message"]
    assert all(case["seconds"] is not None for case in cases)


def test_one_pytest_run_has_the_same_tests_and_outcomes_in_xml_and_in_its_log() -> None:
    from_xml = named(cases_of((DATA / "pytest.xml").read_bytes()))
    from_log = named(cases_of((DATA / "pytest-reportlog.jsonl").read_bytes()))
    assert len(from_log) == 15
    # XML does not tell an unexpected pass from a pass.
    assert from_log.pop(("sub/test_a.py", "", "test_xp")) == "xpassed"
    assert from_xml.pop(("sub/test_a.py", "", "test_xp")) == "passed"
    assert from_xml == from_log


def test_a_failed_subtest_fails_its_test() -> None:
    outcomes = named(cases_of((DATA / "pytest-reportlog.jsonl").read_bytes()))
    assert outcomes[("sub/test_a.py", "Low", "test_u")] == "failed"


def test_gtest_says_the_same_in_xml_and_in_json() -> None:
    from_xml, from_json = (cases_of((DATA / name).read_bytes()) for name in ("gtest.xml", "gtest.json"))
    assert len(from_xml) == 9
    assert from_xml[0]["cls"] == "CommsIdTest"
    assert from_xml[0]["file"].endswith("test/cpp/profiler/comms_id.cpp")
    columns = ("suite", "file", "cls", "name", "outcome", "seconds", "test_id")
    assert [[case[c] for c in columns] for case in from_xml] == [[case[c] for c in columns] for case in from_json]


@pytest.mark.skipif(not shutil.which("ctest"), reason="CMake is not installed")
def test_ctests_xml_keeps_a_missing_program_from_looking_skipped(tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        textwrap.dedent("""
            cmake_minimum_required(VERSION 3.16)
            project(tiny NONE)
            enable_testing()
            add_test(NAME passes COMMAND true)
            add_test(NAME fails COMMAND sh -c "echo 'no <good> & red'; exit 3")
            add_test(NAME skips COMMAND sh -c "exit 77")
            set_tests_properties(skips PROPERTIES SKIP_RETURN_CODE 77)
            add_test(NAME gone COMMAND /does/not/exist)
            add_test(NAME off COMMAND true)
            set_tests_properties(off PROPERTIES DISABLED TRUE)
        """)
    )
    report = tmp_path / "report.xml"
    for argv in (["cmake", "-S", ".", "-B", "b"], ["ctest", "--test-dir", "b", "--output-junit", str(report)]):
        subprocess.run(argv, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    cases = {case["name"]: case for case in cases_of(report.read_bytes())}
    assert {name: case["outcome"] for name, case in cases.items()} == {
        "passes": "passed", "fails": "failed", "skips": "skipped", "gone": "error", "off": "skipped",
    }  # fmt: skip
    assert cases["fails"]["output"] == "no <good> & red"
    assert {case["cls"] for case in cases.values()} == {""}


SUREFIRE = """<?xml version="1.0" encoding="UTF-8"?>
<testsuite xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" version="3.0" name="com.example.AppTest" time="1,234.567"
  xsi:noNamespaceSchemaLocation="https://maven.apache.org/surefire/maven-surefire-plugin/xsd/surefire-test-report.xsd"
  tests="5" errors="1" skipped="1" failures="1">
  <properties><property name="java.version" value="17"/></properties>
  <testcase name="passes" classname="com.example.AppTest" time="1,234.5"/>
  <testcase name="fails" classname="com.example.AppTest" time="0.01">
    <failure message="expected:&lt;1&gt; but was:&lt;2&gt;" type="AssertionError"><![CDATA[AssertionError: at <App>]]></failure>
    <rerunFailure message="again" type="AssertionError"><stackTrace><![CDATA[trace]]></stackTrace></rerunFailure>
    <system-out><![CDATA[some output]]></system-out>
  </testcase>
  <testcase name="breaks" classname="com.example.AppTest" time="0"><error type="java.lang.NullPointerException"/></testcase>
  <testcase name="flaky" classname="com.example.AppTest" time="0.2">
    <flakyFailure message="once" type="AssertionError"><stackTrace>first</stackTrace></flakyFailure>
    <flakyFailure message="twice" type="AssertionError"><stackTrace>second</stackTrace></flakyFailure>
  </testcase>
  <testcase name="ignored" classname="com.example.AppTest" time="0"><skipped message="later"/></testcase>
</testsuite>
"""


def test_surefires_reruns_are_counted_and_its_thousands_understood() -> None:
    reading, cases, _ = reading_of(SUREFIRE)
    assert (reading.outcome, reading.known, reading.issues) == ("ingested", 5, ())
    assert [(case["name"], case["outcome"], case["reruns"]) for case in cases] == [
        ("passes", "passed", 0), ("fails", "failed", 1), ("breaks", "error", 0), ("flaky", "passed", 2),
        ("ignored", "skipped", 0),
    ]  # fmt: skip
    assert cases[0]["seconds"] == 1234.5
    assert cases[1]["message"] == "expected:<1> but was:<2>\nAssertionError: at <App>"
    assert cases[1]["output"].splitlines() == ["rerunFailure: again", "trace", "some output"]
    assert cases[2]["message"] == "java.lang.NullPointerException"
