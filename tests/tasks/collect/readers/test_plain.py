"""Plain cases taken out by a pattern are the cases that the parser's events tell, and no other."""

# ruff: noqa: E501  (a line per document reads better than three)

from __future__ import annotations

import random
from typing import Any

import pytest

from tasks.collect.readers import junit, junit_plain
from tests.tasks.collect.readers.reading import reading_of

CASE = '<testcase classname="a.B{0}" name="test_{1}[x-{1}]" time="0.{1}" file="a.py" />'
FIVE = "\n".join(CASE.format(n // 3, n) for n in range(5))
TWICE = FIVE.replace("<testcase", '<testcase time="1"')

DOCUMENTS = {
    "plain": f'<testsuites><testsuite name="s" tests="5">{FIVE}</testsuite></testsuites>',
    "in a comment": f'<testsuite name="s"><!-- > {FIVE} -->{CASE.format(7, 7)}</testsuite>',
    "in a CDATA section of a suite": f'<testsuite name="s"><![CDATA[ > {FIVE} ]]>{CASE.format(7, 7)}</testsuite>',
    "in an instruction": f'<testsuite name="s"><?pi > {FIVE} ?>{CASE.format(7, 7)}</testsuite>',
    "in an attribute": f"<testsuite name='s' package='>{FIVE}'></testsuite>",
    "in a failure's CDATA": f'<testsuite name="s"><testcase name="f"><failure><![CDATA[{FIVE}]]></failure></testcase></testsuite>',
    "in a case": f'<testsuite name="s"><testcase name="outer">{FIVE}</testcase></testsuite>',
    "in an element of another kind": f'<testsuite name="s"><properties>{FIVE}</properties></testsuite>',
    "outside of any suite": f"<report>{FIVE}</report>",
    "behind the end": f'<testsuite name="s"></testsuite>{FIVE}',
    "a tag that is not closed before": f'<testsuite name="s"><properties>{FIVE}</testsuite>',
    "two documents": f'<testsuite name="s">{FIVE}</testsuite>\n<?xml version="1.0"?><testsuite name="t">{FIVE}</testsuite>',
    "nested suites": f'<testsuite name="s">{FIVE}<testsuite name="t">{FIVE}</testsuite>{FIVE}</testsuite>',
    "with output": f'<testsuite name="s">{FIVE.replace(" />", "><system-out>a > b " + "x" * 300 + "</system-out></testcase>")}</testsuite>',
    "with output that is no XML": f'<testsuite name="s">{FIVE.replace(" />", "><system-out>]]> " + "x" * 300 + "</system-out></testcase>")}</testsuite>',
    "with references": f'<testsuite name="s">{FIVE.replace("[", "&lt;")}</testsuite>',
    "one with a reference": f'<testsuite name="s">{FIVE}{FIVE.replace("test_2[", "test_2&amp;")}</testsuite>',
    "an attribute twice": f'<testsuite name="s">{TWICE}</testsuite>',
    "cut off": f'<testsuite name="s" tests="15">{FIVE}{FIVE}<testcase classname="a" na',
    "wrong behind": f'<testsuite name="s">\n{FIVE}\n{FIVE}\n<oops></testsuite>',
    "a failure between": f'<testsuite name="s">{FIVE}<testcase name="f" classname="C"><failure message="m">t</failure></testcase>{FIVE}</testsuite>',
    "gtest": '<testsuites><testsuite name="S">'
    + "".join(
        f'<testcase name="t{n}" status="{"notrun" if n % 3 == 0 else "run"}" result="completed" time="0.001" '
        'timestamp="2026-01-01T00:00:00.000" classname="S" />\n'
        for n in range(9)
    )
    + "</testsuite></testsuites>",
    "Latin-1": f'<?xml version="1.0" encoding="ISO-8859-1"?><testsuite name="s">{FIVE}</testsuite>',
    "EBCDIC that looks like it": f'<?xml version="1.0" encoding="cp037"?><testsuite name="s">{FIVE}</testsuite>',
    "a document type": f'<!DOCTYPE testsuite [<!ENTITY a "b">]><testsuite name="s">{FIVE}</testsuite>',
}  # fmt: skip


def told(data: str | bytes) -> tuple[Any, ...]:
    reading, cases, _ = reading_of(data)
    return reading.outcome, reading.why, reading.known, reading.issues, cases


def without(monkeypatch: pytest.MonkeyPatch, data: str | bytes) -> tuple[Any, ...]:
    with monkeypatch.context() as patch:
        patch.setattr(junit_plain.Runs, "next", lambda self, start: None)
        return told(data)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_says_the_same_with_the_pattern_and_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(DOCUMENTS[name]) == without(monkeypatch, DOCUMENTS[name])


def test_any_mix_says_the_same_with_the_pattern_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(junit_plain, "_LEAST_BYTES", 1)
    pieces = [
        FIVE, CASE.format(1, 1), "<!-- ", " -->", "<![CDATA[", "]]>", '<testsuite name="t">', "</testsuite>", "<?p ", "?>",
        '<testcase name="q">', "</testcase>", "<failure>", "</failure>", " text > ", "\n", "<system-out>", "</system-out>",
        "<properties x='", "'>", "</properties>", "&lt;", "\r\n", CASE.format("ü", 2), "<testcase ", "/>",
    ]  # fmt: skip
    for seed in range(1_500):
        dice = random.Random(seed)
        body = "".join(dice.choice(pieces) for _ in range(dice.randint(1, 9)))
        document = f'<testsuite name="s">{FIVE if seed % 2 else ""}{body}</testsuite>'
        assert told(document) == without(monkeypatch, document), f"seed {seed}: {document}"


def test_pieces_of_any_size_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a piece ends inside of a tag, expat waits, and the cases behind it are not plain yet."""
    document = "".join([DOCUMENTS["nested suites"]] * 3)
    whole = told(document)
    for size in (7, 64, 301, 1_000):
        monkeypatch.setattr(junit, "_CHUNK", size)
        assert told(document) == whole


def test_the_pattern_is_used_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    plain = junit.Cases.plain
    monkeypatch.setattr(
        junit.Cases, "plain", lambda self, columns, cases: (taken.append(cases), plain(self, columns, cases))
    )
    told(DOCUMENTS["plain"])
    told(DOCUMENTS["with output"])
    assert taken == [5, 5]
