"""What each kind means: its outcomes, its figures, and how much of a file without an end is kept."""

# ruff: noqa: E501  (reports as they are)

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.collect.readers import detect
from tests.tasks.collect.readers.reading import cases_of, issues_of, reading_of

REPORTS = {
    "junit": b'<?xml version="1.0"?><testsuite name="s" tests="2"><testcase name="a" classname="C" time="1"/>'
    b'<testcase name="b" classname="C"><failure message="m">x</failure></testcase></testsuite>',
    "gtest-json": b'{"tests": 2, "testsuites": [{"name": "S", "testsuite": [{"name": "a", "result": "COMPLETED", "time": "0.1s"},'
    b' {"name": "b", "properties": {"p": 1}, "failures": [{"failure": "Expected", "type": ""}, {"failure": "Too", "type": ""}]}]}]}',
    "pytest-reportlog": b'{"$report_type": "SessionStart"}\n{"nodeid": "a.py::t", "when": "setup", "outcome": "passed",'
    b' "$report_type": "TestReport"}\n{"nodeid": "a.py::t", "when": "call", "outcome": "passed", "duration": 1,'
    b' "$report_type": "TestReport"}\n{"nodeid": "a.py::t", "when": "teardown", "outcome": "passed",'
    b' "$report_type": "TestReport"}\n{"$report_type": "SessionFinish"}\n',
    "dynamo-csv": b"dev,name,batch_size,accuracy\ncuda,resnet18,4,pass\ncuda,vgg16,4,fail_accuracy\n",
    "benchmark-v3": b'[{"benchmark": {"name": "TorchInductor", "mode": "training", "dtype": "amp"}, "model": {"name": "m",'
    b' "backend": "inductor"}, "metric": {"name": "speedup", "benchmark_values": [1.0, 2.0]}}]',
}  # fmt: skip


@pytest.mark.parametrize("kind", REPORTS)
def test_a_kind_is_known_by_its_content_and_no_other_takes_it(kind: str) -> None:
    found = detect.kind_of(b"\xef\xbb\xbf\n " + REPORTS[kind])
    assert found is not None
    assert kind == found.NAME
    taken = [one.NAME for one in detect.KINDS if one.recognises(REPORTS[kind].decode())]
    assert taken == [kind]
    assert reading_of(REPORTS[kind])[0].outcome == "ingested"


@given(st.sampled_from(sorted(REPORTS)), st.data())
@settings(max_examples=300, deadline=None)
def test_any_cut_of_a_report_keeps_only_rows_of_the_whole(kind: str, data: st.DataObject) -> None:
    whole = REPORTS[kind]
    _, cases, metrics = reading_of(whole)
    cut = whole[: data.draw(st.integers(0, len(whole) - 3))]
    reading, kept, figures = reading_of(cut)
    assert reading.outcome in ("salvaged", "refused") or not cases or kind == "dynamo-csv", reading
    said = ("test_id", "outcome", "message")
    assert {tuple(case[of] for of in said) for case in kept} <= {tuple(case[of] for of in said) for case in cases}
    assert len(kept) <= len(cases)
    assert len(figures) <= len(metrics)


@given(st.sampled_from(sorted(REPORTS)), st.lists(st.tuples(st.integers(0, 2**31), st.integers(0, 255)), max_size=6))
@settings(max_examples=500, deadline=None)
def test_any_bytes_changed_in_a_report_end_in_an_outcome(kind: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(REPORTS[kind])
    for at, byte in changes:
        data[at % len(data)] = byte
    assert reading_of(bytes(data))[0].outcome in ("ingested", "salvaged", "refused")


@given(st.binary(max_size=300), st.sampled_from([b"", b"<testsuite>", b"{", b"[", b"\x1f\x8b\x08", b"name,accuracy\n"]))
@settings(max_examples=500, deadline=None)
def test_any_bytes_at_all_end_in_an_outcome(data: bytes, start: bytes) -> None:
    assert reading_of(start + data)[0].outcome in ("ingested", "salvaged", "refused")


def test_the_worst_that_a_junit_case_says_is_its_outcome() -> None:
    (case,) = cases_of('<testsuite><testcase name="a"><skipped/><error message="e"/><failure/></testcase></testsuite>')
    assert (case["outcome"], case["message"]) == ("error", "e")


def test_nested_suites_name_the_way_down() -> None:
    cases = cases_of(
        '<testsuites name="all"><testsuite name="a"><testsuite name="b"><testcase name="x"/></testsuite>'
        '<testcase name="y"/></testsuite><testcase name="z"/></testsuites>'
    )
    assert [(case["suite"], case["name"]) for case in cases] == [("a/b", "x"), ("a", "y"), ("", "z")]


def test_what_a_suite_printed_after_a_failed_case_is_no_row() -> None:
    _, cases, _ = reading_of(
        b'<testsuite name="s" tests="2"><testcase name="a" classname="C"/><testcase name="b" classname="C">'
        b"<failure/></testcase><system-out>said by the suite</system-out></testsuite>"
    )
    assert [(case["name"], case["outcome"]) for case in cases] == [("a", "passed"), ("b", "failed")]


def test_a_csv_whose_name_stands_in_quotes_with_others_is_no_dynamo_report() -> None:
    reading, cases, _ = reading_of(b'"x,name,speedup,y"\nfoo\n')
    assert (reading.outcome, cases) == ("refused", [])


def test_a_failure_of_a_suite_itself_is_a_row() -> None:
    cases = cases_of('<testsuite name="s"><error message="cannot load">trace</error><testcase name="x"/></testsuite>')
    assert [(case["cls"], case["name"], case["outcome"]) for case in cases] == [
        ("s", "(suite)", "error"),
        ("", "x", "passed"),
    ]
    assert cases[0]["message"] == "cannot load\ntrace"


def test_output_is_kept_of_tests_that_went_wrong() -> None:
    inside = "<system-out>said</system-out>"
    cases = cases_of(
        f'<testsuite><testcase name="a">{inside}</testcase><testcase name="b"><failure/>{inside}</testcase></testsuite>'
    )
    assert [case["output"] for case in cases] == [None, "said"]


def test_control_characters_are_replaced_where_xml_forbids_them_and_kept_readable() -> None:
    reading, cases, _ = reading_of(
        b'<testsuite><testcase name="a\x1b[31m&#0;"><failure>x & y &nbsp; <![CDATA[& z]]></failure></testcase></testsuite>'
    )
    assert issues_of(reading) == {"repaired": 1}
    assert cases[0]["name"] == "a\ufffd[31m\ufffd"
    assert cases[0]["message"] == "x & y &nbsp; & z"


def test_a_killed_process_leaves_its_known_tests_and_the_one_in_hand_is_named() -> None:
    log = REPORTS["pytest-reportlog"].decode().splitlines()[:-1]
    log += [re.sub("::t", "::hangs", log[1])]
    reading, cases, _ = reading_of("\n".join(log) + '\n{"nodeid": "a.p')
    assert (reading.outcome, [case["name"] for case in cases]) == ("salvaged", ["t"])
    assert issues_of(reading) == {"cut": 1, "in_hand": 1}


def test_dynamos_words_become_outcomes() -> None:
    said = ["pass", "pass_due_to_skip", "fail_accuracy", "timeout", "eager_1st_run_OOM", "infra_error", ""]
    lines = "".join(f"cuda,m{n},4,{word},5\n" for n, word in enumerate(said))
    cases = cases_of("dev,name,batch_size,accuracy,graph_breaks\n" + lines)
    assert [case["outcome"] for case in cases] == [
        "passed",
        "skipped",
        "failed",
        "timed_out",
        "error",
        "error",
        "error",
    ]
    assert cases[4]["message"] == "eager_1st_run_OOM"


def test_a_model_that_did_not_run_has_no_figures() -> None:
    _, cases, metrics = reading_of(
        "dev,name,batch_size,speedup,abs_latency,compression_ratio\ncuda,a,8,1.5,20.5,0.9\ncuda,b,0,0.0,0.0,0\n"
    )
    assert [(case["name"], case["outcome"]) for case in cases] == [("a", "passed"), ("b", "error")]
    assert [(row["model"], row["metric"], row["value"], row["measured_in"]) for row in metrics] == [
        ("a", "speedup", 1.5, "x"), ("a", "abs_latency", 20.5, "ms"), ("a", "compression_ratio", 0.9, "x"),
    ]  # fmt: skip


def test_pytorchs_own_records_come_as_lines_with_words_for_accuracy() -> None:
    about = {"name": "TorchInductor", "mode": "inference", "dtype": "bfloat16", "extra_info": {"device": "cuda"}}
    model = {"name": "BertForMaskedLM", "type": "OSS model", "backend": "inductor", "origins": ["huggingface"]}
    metrics = [
        {"name": "accuracy", "extra_info": {"benchmark_values": ["fail_accuracy"]}},
        {"name": "speedup", "benchmark_values": [1.5, 2.5], "target_value": 2},
    ]
    lines = "".join(json.dumps({"benchmark": about, "model": model, "metric": metric}) + "\n" for metric in metrics)
    reading, cases, figures = reading_of(lines)
    assert (reading.kind, reading.outcome, reading.known) == ("benchmark-v3", "ingested", 2)
    assert (cases[0]["name"], cases[0]["outcome"]) == ("BertForMaskedLM", "failed")
    assert cases[0]["cls"] == "accuracy/inference/bfloat16/inductor/cuda"
    (speedup,) = figures
    assert (speedup["value"], speedup["samples"], speedup["target"]) == (2.0, [1.5, 2.5], 2.0)
    assert json.loads(speedup["detail"])["model"]["origins"] == ["huggingface"]
