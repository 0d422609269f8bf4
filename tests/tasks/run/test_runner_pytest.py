"""The kind pytest: each result as it happens, whatever becomes of the process."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tasks.collect.checks import part_from
from tasks.run.runner import spool
from tests.tasks.run.conftest import Wire, message, order_of, unit

EVERY_OUTCOME = """
import os, unittest, pytest

def test_passes(): pass
def test_fails(): assert 1 == 2
@pytest.mark.skip(reason="not today")
def test_skipped(): pass
def test_skips(): pytest.skip("inside")
@pytest.mark.xfail(reason="known")
def test_xfailed(): assert 0
@pytest.mark.xfail(run=False, reason="never run")
def test_xfailed_unrun(): os._exit(1)
@pytest.mark.xfail
def test_xpassed(): pass
@pytest.mark.xfail(strict=True)
def test_xpassed_strictly(): pass
@pytest.fixture
def broken(): raise RuntimeError("set up wrong")
def test_setup_error(broken): pass
@pytest.fixture
def broken_after():
    yield
    raise RuntimeError("torn down wrong")
def test_teardown_error(broken_after): pass
def test_fails_and_teardown_error(broken_after): assert 0
@pytest.mark.parametrize("text", ["a::b", "spaced out", "[brackets]", "ümlaut", "new\\nline", "quote'\\"", "\\udcff"])
def test_odd(text): pass
class TestClass:
    class TestInner:
        def test_deep(self): pass
class Case(unittest.TestCase):
    def test_subtests(self):
        for n in range(3):
            with self.subTest(n=n):
                self.assertNotEqual(n, 1)
    @unittest.expectedFailure
    def test_expected(self): self.fail()
def test_long(): assert 0, "y" * 100_000
"""
EXPECTED = {
    "test_passes": "passed",
    "test_fails": "failed",
    "test_skipped": "skipped",
    "test_skips": "skipped",
    "test_xfailed": "xfailed",
    "test_xfailed_unrun": "xfailed",
    "test_xpassed": "xpassed",
    "test_xpassed_strictly": "failed",
    "test_setup_error": "error",
    "test_teardown_error": "error",
    "test_fails_and_teardown_error": "failed",
    "test_deep": "passed",
    "test_subtests": "failed",
    "test_expected": "xfailed",
    "test_long": "failed",
}


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    return folder


def ids_of(wire: Wire, sources: Path, file: str, **fields: Any) -> list[str]:
    found = wire.ok("discover", kind="pytest", sources=str(sources), file=file, python=sys.executable, **fields)
    assert found["error"] is None, found
    return list(found["tests"])


def run(wire: Wire, sources: Path, unit: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    (record,) = wire.run(order_of(unit, sources=sources, python=sys.executable, **fields))
    return list(record["attempts"])


def test_every_outcome_is_told_apart(wire: Wire, sources: Path) -> None:
    (sources / "sub").mkdir()
    (sources / "sub" / "test_x.py").write_text(EVERY_OUTCOME)
    tests = ids_of(wire, sources, "sub/test_x.py")
    one = unit("u", "pytest", {"file": "sub/test_x.py"}, tests=tests)
    (company,) = run(wire, sources, one, retry_alone=0)
    told = {result["name"]: result for result in company["results"]}
    assert len(told) == len(tests) == len(company["results"])
    odd = [name for name in told if name.startswith("test_odd")]
    assert {name: told[name]["outcome"] for name in told if name not in odd} == EXPECTED
    assert len(odd) == 7
    assert {told[name]["outcome"] for name in odd} == {"passed"}
    assert "test_odd[a::b]" in odd
    assert "test_odd[[brackets]]" in odd
    assert {result["file"] for result in told.values()} == {"sub/test_x.py"}
    assert told["test_deep"]["cls"] == "TestClass::TestInner"
    assert "assert 1 == 2" in told["test_fails"]["message"]
    assert "set up wrong" in told["test_setup_error"]["message"]
    assert "not today" in told["test_skipped"]["message"]
    assert len(told["test_long"]["message"]) < 17_000
    assert all(result["seconds"] is not None for result in told.values())


CRASHES = """
import os, signal, time, pytest
def test_a(): pass
def test_exits(): print("last words", flush=True); os._exit(3)
def test_b(): pass
@pytest.mark.parametrize("x", [1, 2])
def test_killed(x): os.kill(os.getpid(), signal.SIGKILL if x == 1 else 0)
def test_hangs(): time.sleep(60)
def test_c(): assert 0
def test_leaks_a_fork():
    if os.fork() == 0:
        raise RuntimeError("this copy of pytest must tell nothing")
    os.wait()
def test_closes_everything(): os.closerange(3, 200)
def test_d(): pass
"""


def test_a_test_that_takes_its_process_along_is_blamed_and_the_rest_goes_on(wire: Wire, sources: Path) -> None:
    (sources / "test_c.py").write_text(CRASHES)
    one = unit("u", "pytest", {"file": "test_c.py"}, tests=ids_of(wire, sources, "test_c.py"), test_timeout_seconds=4.0)
    company, *alone = run(wire, sources, one)
    assert {result["name"]: result["outcome"] for result in company["results"]} == {
        "test_a": "passed",
        "test_exits": "crashed",
        "test_b": "passed",
        "test_killed[1]": "crashed",
        "test_killed[2]": "passed",
        "test_hangs": "timed_out",
        "test_c": "failed",
        "test_leaks_a_fork": "passed",
        "test_closes_everything": "crashed",
        "test_d": "passed",
    }
    assert "exit code 3" in message(company, "test_exits")
    assert "SIGKILL" in message(company, "test_killed[1]")
    assert [attempt["test"].split("::")[1] for attempt in alone] == [
        "test_exits", "test_killed[1]", "test_hangs", "test_c", "test_closes_everything",
    ]  # fmt: skip
    assert all(len(attempt["results"]) == 1 for attempt in alone)


def test_results_are_told_while_the_process_runs(wire: Wire, sources: Path) -> None:
    """Else a killed unit would take its finished tests along: here the unit's time ends inside the third test."""
    (sources / "test_s.py").write_text(
        "import time\ndef test_a(): pass\ndef test_b(): pass\ndef test_c(): time.sleep(60)\n"
    )
    one = unit("u", "pytest", {"file": "test_s.py"}, tests=ids_of(wire, sources, "test_s.py"), timeout_seconds=4.0)
    (company,) = run(wire, sources, one, retry_alone=0)
    assert [result["outcome"] for result in company["results"]] == ["passed", "passed", "timed_out"]


def test_only_what_was_planned_runs(wire: Wire, sources: Path) -> None:
    (sources / "test_p.py").write_text("def test_a(): pass\ndef test_b(): assert 0\ndef test_c(): pass\n")
    planned = ["test_p.py::test_a", "test_p.py::test_c", "test_p.py::test_gone"]
    (company,) = run(wire, sources, unit("u", "pytest", {"file": "test_p.py"}, tests=planned))
    assert [(one["name"], one["outcome"]) for one in company["results"]] == [
        ("test_a", "passed"),
        ("test_c", "passed"),
        ("test_gone", "error"),
    ]


def test_a_file_that_cannot_be_collected_gives_each_planned_test_the_reason(wire: Wire, sources: Path) -> None:
    (sources / "test_broken.py").write_text("import nothing_like_this\ndef test_a(): pass\n")
    found = wire.ok("discover", kind="pytest", sources=str(sources), file="test_broken.py", python=sys.executable)
    assert found["tests"] == []
    assert "nothing_like_this" in found["error"]
    planned = ["test_broken.py::test_a", "test_broken.py::test_b"]
    (company,) = run(wire, sources, unit("u", "pytest", {"file": "test_broken.py"}, tests=planned))
    assert [one["outcome"] for one in company["results"]] == ["error", "error"]
    assert "nothing_like_this" in message(company, "test_b")
    (unplanned,) = run(wire, sources, unit("u", "pytest", {"file": "test_broken.py"}), lease="lease-2")
    assert [one["outcome"] for one in unplanned["results"]] == ["error"]


def test_a_file_that_skips_itself_is_skipped(wire: Wire, sources: Path) -> None:
    (sources / "test_none.py").write_text("import pytest\npytest.skip('no device', allow_module_level=True)\n")
    (company,) = run(wire, sources, unit("u", "pytest", {"file": "test_none.py"}, tests=["test_none.py::test_a"]))
    assert (company["outcome"], company["note"]) == ("skipped", "")
    assert "no device" in message(company, "test_a")


def test_without_a_plan_everything_found_is_run_and_survives_a_crash(wire: Wire, sources: Path) -> None:
    (sources / "test_o.py").write_text("import os\ndef test_a(): pass\ndef test_b(): os._exit(1)\ndef test_c(): pass\n")
    (company,) = run(wire, sources, unit("u", "pytest", {"file": "test_o.py"}), retry_alone=0)
    told = [(one["name"], one["outcome"]) for one in company["results"]]
    assert told == [("test_a", "passed"), ("test_b", "crashed"), ("test_c", "passed")]


def test_a_unit_that_could_not_be_listed_for_the_plan_has_the_reason_in_its_note(wire: Wire, sources: Path) -> None:
    (sources / "test_u.py").write_text("def test_a(): pass\ndef test_b(): assert 0\n")
    company, alone = run(wire, sources, unit("u", "pytest", {"file": "test_u.py", "unlisted": "it hung"}))
    assert [result["outcome"] for result in company["results"]] == ["passed", "failed"]
    assert company["note"] == "its tests could not be listed for the plan: it hung"
    assert (alone["test"], alone["note"]) == ("test_u.py::test_b", "")


def test_names_that_nobody_could_plan_do_not_cost_the_lease(wire: Wire, sources: Path) -> None:
    (sources / "test_l.py").write_text(
        "import pytest\n@pytest.mark.parametrize('n', [1, 2], ids=['x' * 9000 + str(n) for n in (1, 2)])\n"
        "def test_a(n): assert n == 1\n"
    )
    (record,) = wire.run(order_of(unit("u", "pytest", {"file": "test_l.py"}), sources=sources, python=sys.executable))
    assert part_from(spool.encode({"protocol": 1, "lease": "l", "part": 1, "records": [record]}))
    assert [len({result["name"] for result in attempt["results"]}) for attempt in record["attempts"]] == [2, 1]


def test_arguments_and_the_sources_own_settings_apply_and_nothing_above_them(
    wire: Wire, sources: Path, tmp_path: Path
) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (tmp_path / "conftest.py").write_text("raise RuntimeError('not ours')\n")
    (sources / "test_k.py").write_text("def test_one(): pass\ndef test_two(): pass\n")
    assert ids_of(wire, sources, "test_k.py", args=["-k", "two"]) == ["test_k.py::test_two"]
    (sources / "pyproject.toml").write_text("[tool.pytest.ini_options]\npython_functions = 'check_*'\n")
    (sources / "test_k.py").write_text("def test_one(): pass\ndef check_two(): pass\n")
    assert ids_of(wire, sources, "test_k.py") == ["test_k.py::check_two"]


def test_a_slow_collection_is_no_reason_to_wait_for_results(wire: Wire, sources: Path) -> None:
    """A test's time limit also ends a process that hangs before any test."""
    (sources / "test_h.py").write_text("import time\ntime.sleep(60)\ndef test_a(): pass\n")
    began = time.monotonic()
    one = unit("u", "pytest", {"file": "test_h.py"}, tests=["test_h.py::test_a"], test_timeout_seconds=2.0)
    (company,) = run(wire, sources, one)
    assert [result["outcome"] for result in company["results"]] == ["error"]
    assert company["outcome"] == "timed_out"
    assert time.monotonic() - began < 20
