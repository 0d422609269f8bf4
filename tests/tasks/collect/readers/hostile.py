"""Files that were made to break a reader, and what must come of each: generated, the same for the same seed."""

# ruff: noqa: E501  (a line per file reads better than six)

from __future__ import annotations

import gzip
import json
import os
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MB = 1 << 20


@dataclass(frozen=True)
class Hostile:
    """One file: how to make its content, the outcome, how many cases are kept, and a word of the reason or an issue."""

    name: str
    make: Callable[[random.Random], bytes]
    outcome: str
    cases: int
    tells: str = ""


def suite(*cases: str, head: str = '<testsuite name="s">', tail: str = "</testsuite>") -> bytes:
    return "".join([head, *cases, tail]).encode()


def case(name: str, inside: str = "", **more: str) -> str:
    attributes = "".join(f' {key}="{value}"' for key, value in {"name": name, "classname": "C", **more}.items())
    return f"<testcase{attributes}>{inside}</testcase>" if inside else f"<testcase{attributes}/>"


OK = case("ok")
LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


def _noise(chosen: random.Random) -> bytes:
    return chosen.randbytes(200_000)


def _flipped(chosen: random.Random) -> bytes:
    data = bytearray(suite(*(case(f"t{n}") for n in range(200))))
    for _ in range(60):
        data[chosen.randrange(3000, len(data))] = chosen.randrange(256)
    return bytes(data)


def _log(*records: object, tail: str = "\n") -> bytes:
    return ("\n".join(map(json.dumps, records)) + tail).encode()


def _phase(node: str, when: str, outcome: str = "passed") -> dict[str, object]:
    return {"nodeid": node, "when": when, "outcome": outcome, "duration": 0.1, "$report_type": "TestReport"}


def _gtest(tests: int, cut: int = 0) -> bytes:
    suite_ = {"name": "S", "testsuite": [{"name": f"t{n}", "classname": "S", "time": "0s"} for n in range(tests)]}
    data = json.dumps({"tests": tests, "testsuites": [suite_]}).encode()
    return data[: len(data) - cut]


START = {"$report_type": "SessionStart"}
END = {"$report_type": "SessionFinish"}
WHOLE = [_phase("a.py::t", when) for when in ("setup", "call", "teardown")]
V3 = {"benchmark": "b", "model": "m", "metric": {"name": "latency", "benchmark_values": [1]}}

CORPUS = [
    # entities and documents' types
    Hostile("billion-laughs.xml", lambda _: f'<!DOCTYPE x [<!ENTITY l0 "ha">{LAUGHS}]><testsuite name="&l9;"/>'.encode(), "refused", 0, "document type"),
    Hostile("quadratic-entity.xml", lambda _: f'<!DOCTYPE x [<!ENTITY a "{"A" * 50_000}">]><testsuite>{"&a;" * 50_000}</testsuite>'.encode(), "refused", 0, "document type"),
    Hostile("external-entity.xml", lambda _: b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><testsuite><testcase name="&e;"/></testsuite>', "refused", 0, "document type"),
    Hostile("external-dtd.xml", lambda _: b'<!DOCTYPE x SYSTEM "http://192.0.2.1/x.dtd"><testsuite><testcase name="a"/></testsuite>', "refused", 0, "document type"),
    Hostile("parameter-entity.xml", lambda _: b'<!DOCTYPE x [<!ENTITY % p SYSTEM "file:///dev/zero">%p;]><testsuite/>', "refused", 0, "document type"),
    Hostile("unknown-entity.xml", lambda _: suite(case("a&nbsp;b"), OK), "ingested", 2, "repaired"),
    # sizes
    Hostile("attribute-64-mb.xml", lambda _: suite(OK, case("A" * (64 * MB)), OK), "ingested", 3, "shortened"),
    Hostile("text-64-mb.xml", lambda _: suite(OK, case("b", f"<failure>{'x' * (64 * MB)}</failure>"), OK), "ingested", 3),
    Hostile("comment-64-mb.xml", lambda _: suite(OK, f"<!--{'<' * (64 * MB)}-->", OK), "salvaged", 1, "more than 8 MB"),
    Hostile("cdata-32-mb.xml", lambda _: suite(OK, case("b", f"<failure><![CDATA[{'<' * (32 * MB)}]]></failure>")), "ingested", 2),
    Hostile("deep.xml", lambda _: suite(OK, "<a>" * 200_000, "</a>" * 200_000), "salvaged", 1, "deep"),
    Hostile("deep-suites.xml", lambda _: b"<testsuite>" * 50_000 + OK.encode(), "refused", 0, "deep"),
    Hostile("attributes-200k.xml", lambda _: suite(OK, "<testcase " + " ".join(f'a{n}="1"' for n in range(200_000)) + "/>"), "salvaged", 1, "attributes"),
    Hostile("failures-100k.xml", lambda _: suite(case("a", "<failure message='m'/>" * 100_000)), "ingested", 1),
    Hostile("suites-100k.xml", lambda _: suite('<testsuite name="n"/>' * 100_000, OK), "ingested", 1),
    Hostile("cases-400k.xml", lambda _: suite(*(f'<testcase name="{n}"/>' for n in range(400_000))), "ingested", 400_000),
    Hostile("same-name-200k.xml", lambda _: suite(*(OK for _ in range(200_000))), "ingested", 200_000),
    Hostile("documents-2000.xml", lambda _: suite(OK) * 2_000, "salvaged", 1_000, "documents"),
    # ends that are missing
    Hostile("empty.xml", lambda _: b"", "refused", 0, "empty"),
    Hostile("blank.xml", lambda _: b" \n\t\0" * 1000, "refused", 0, "empty"),
    Hostile("cut.xml", lambda _: suite(*(case(f"t{n}", "<failure>x</failure>") for n in range(1000)), head='<testsuite tests="1000">')[:-10_000], "salvaged", 850, "ends in the middle"),
    Hostile("cut-in-character.xml", lambda _: suite(OK) [:-12] + "<testcase name='é".encode()[:-1], "salvaged", 1, "ends in the middle"),
    Hostile("cut-in-cdata.xml", lambda _: suite(OK, "<testcase name='b'><failure><![CDATA[abc", tail=""), "salvaged", 1, "ends in the middle"),
    Hostile("nul-tail.xml", lambda _: suite(OK) + b"\0" * 4096, "ingested", 1),
    Hostile("only-a-tag.xml", lambda _: b"<testsuite", "refused", 0, "ends in the middle"),
    # characters
    Hostile("control.xml", lambda _: suite(case("a\x1b[31mb\x00c"), OK), "ingested", 2, "repaired"),
    Hostile("charref.xml", lambda _: suite(case("a&#27;b&#0;c&#xFFFF;d&#55296;"), OK), "ingested", 2, "repaired"),
    Hostile("bad-utf8.xml", lambda _: suite(OK).replace(b"ok", b"o\xff\xfe\xc3k"), "ingested", 1, "repaired"),
    Hostile("latin1-undeclared.xml", lambda _: suite(case("é")).decode().encode("latin-1"), "ingested", 1, "repaired"),
    Hostile("wrong-encoding.xml", lambda _: b'<?xml version="1.0" encoding="utf-16"?>' + suite(OK), "ingested", 1, "repaired"),
    Hostile("unknown-encoding.xml", lambda _: b'<?xml version="1.0" encoding="no-such"?>' + suite(OK), "ingested", 1, "repaired"),
    Hostile("punycode.xml", lambda _: b'<?xml version="1.0" encoding="punycode"?>' + suite(case("\x01" + "a" * 300_000)), "ingested", 1, "repaired"),
    Hostile("utf16.xml", lambda _: suite(case("é")).decode().encode("utf-16"), "ingested", 1),
    Hostile("ampersand.xml", lambda _: suite(case("a & b"), OK), "ingested", 2, "repaired"),
    # shapes
    Hostile("namespace.xml", lambda _: suite(OK, head='<testsuite xmlns="urn:x">'), "ingested", 1),
    Hostile("prefix.xml", lambda _: b'<j:testsuite xmlns:j="urn:x"><j:testcase name="a"><j:failure/></j:testcase></j:testsuite>', "ingested", 1),
    Hostile("two-documents.xml", lambda _: b'<?xml version="1.0"?>' + suite(OK) + b'\n<?xml version="1.0"?>' + suite(OK, OK), "ingested", 3, "documents"),
    Hostile("junk-after.xml", lambda _: suite(OK) + b"Killed\n", "salvaged", 1, "follows"),
    Hostile("duplicate-attribute.xml", lambda _: suite(OK, '<testcase name="a" name="b"/>'), "salvaged", 1, "duplicate"),
    Hostile("counts-lie.xml", lambda _: suite(OK, head='<testsuite tests="99">'), "ingested", 1, "count"),
    Hostile("count-absurd.xml", lambda _: suite(OK, head=f'<testsuite tests="{"9" * 5000}">'), "ingested", 1),
    Hostile("times.xml", lambda _: suite(*(case(f"t{n}", time=said) for n, said in enumerate(("nan", "inf", "-1", "1e400", "0x10", "٣", "1_0", "1,234", "9e9", "x")))), "ingested", 10, "time"),
    Hostile("html.xml", lambda _: b"<html><body><p>502 Bad Gateway</p></body></html>", "refused", 0, "<html>"),
    Hostile("suite-error.xml", lambda _: suite('<error message="cannot load"/>', OK), "ingested", 2),
    Hostile("noise.bin", _noise, "refused", 0, "no kind"),
    Hostile("flipped.xml", _flipped, "salvaged", -1),
    # compressed
    Hostile("bomb.xml.gz", lambda _: gzip.compress(b"<testsuite>" + b" " * (200 * MB), 9), "refused", 0, "gzip holds more"),
    Hostile("cut.xml.gz", lambda _: gzip.compress(suite(*(case(os.urandom(8).hex()) for _ in range(5_000))))[:-2_000], "salvaged", -1, "gzip ends in the middle"),
    Hostile("damaged.xml.gz", lambda _: gzip.compress(suite(OK))[:20] + b"\xff" * 50, "refused", 0, "gzip"),
    Hostile("gzip-in-gzip.gz", lambda _: gzip.compress(gzip.compress(suite(OK))), "refused", 0, "no kind"),
    Hostile("zlib.bin", lambda _: zlib.compress(suite(OK)), "refused", 0, "no kind"),
    # JSON and lines
    Hostile("deep.json", lambda _: b'{"testsuites": [' + b"[" * 500_000, "refused", 0, "no JSON"),
    Hostile("gtest-cut.json", lambda _: _gtest(1000, cut=100), "salvaged", 998, "ends in the middle"),
    Hostile("gtest-shapes.json", lambda _: b'{"tests": "x", "testsuites": [1, null, {"testsuite": [2, {"name": 3}, []]}]}', "ingested", 1, "shape"),
    Hostile("big-number.json", lambda _: b'{"tests": ' + b"9" * 100_000 + b', "testsuites": []}', "refused", 0, "no JSON"),
    Hostile("surrogate.json", lambda _: b'{"testsuites": [{"testsuite": [{"name": "\\ud800\\u0000"}]}]}', "ingested", 1),
    Hostile("killed.jsonl", lambda _: _log(START, *WHOLE, _phase("a.py::u", "setup"), tail='\n{"nodeid": "a.py'), "salvaged", 1, "in_hand"),
    Hostile("bad-lines.jsonl", lambda _: _log(START, *WHOLE, "text", ["x"], END) + b"\xff{]\n", "ingested", 1, "line"),
    Hostile("line-32-mb.jsonl", lambda _: _log(START, *WHOLE, {"x": "y" * (32 * MB), "$report_type": "?"}, END), "ingested", 1),
    Hostile("v3-cut.json", lambda _: json.dumps([V3] * 100).encode()[:-30], "salvaged", 0, "ends in the middle"),
    Hostile("v3-values.json", lambda _: json.dumps([{**V3, "metric": {"name": "m", "benchmark_values": [float("nan"), "x", None, True]}}]).encode(), "ingested", 0, "value"),
    Hostile("field-200-kb.csv", lambda _: b"dev,name,batch_size,accuracy\ncpu,a,1,pass\ncpu," + b"x" * 200_000 + b",1,pass\n", "salvaged", 1, "no CSV"),
    Hostile("ragged.csv", lambda _: b"dev,name,batch_size,speedup\ncpu,a,1,1.5\ncpu\ncpu,b,1,1,1,1\ncpu,c,1,nan\ncpu,d,1,1.", "salvaged", 2, "value"),
]  # fmt: skip


def write(folder: Path, seed: int) -> None:
    """Every file of the corpus."""
    for hostile in CORPUS:
        (folder / hostile.name).write_bytes(hostile.make(random.Random(f"{seed} {hostile.name}")))
