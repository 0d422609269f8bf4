"""The kind pytest over a project's own tests as they are: written for that project's runner, not for ours."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tasks.run.conftest import Wire, message, order_of, unit

CONFTEST = """
import copy
import pytest
from shards import Shards

def pytest_addoption(parser):
    parser.addoption("--use-main", action="store_true")
    parser.addoption("--shards", type=int, default=1)

def pytest_configure(config):
    config.pluginmanager.register(Shards(config), "shards")

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    items[:] = [copy.copy(item) for item in items]
    for item in items:
        item.add_marker("unheard_of")

@pytest.hookimpl(hookwrapper=True)
def pytest_report_teststatus(report, config):
    result = yield
    outcome, letter, verbose = result.get_result()
    result.force_result((outcome, letter, f"{verbose} [{report.duration}]" if verbose else verbose))

def pytest_runtest_logreport(report):
    if report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        report.longrepr = (*report.longrepr[:2], report.nodeid + ": " + report.longrepr[2])
"""
SHARDS = """
class Shards:
    def __init__(self, config): self.config = config
    def pytest_report_collectionfinish(self, config, items): return f"{config.getoption('shards')} shards"
    def pytest_collection_modifyitems(self, config, items): items[:] = items[::-1]
"""
GENERATED = """
import os, subprocess, sys, tempfile, unittest

def load_tests(loader, tests, pattern): return unittest.TestSuite()
load_tests = load_tests

def instantiate(template, scope):
    base = scope.pop(template.__name__)
    for device in ("CPU", "META"):
        made = type(base.__name__ + device, (unittest.TestCase,), {"device": device.lower()})
        for name in [name for name in vars(base) if name.startswith("test_")]:
            for dtype in ("float32", "int64"):
                def test(self, name=name, dtype=dtype): getattr(base, name)(self, self.device, dtype)
                setattr(made, f"{name}_{made.device}_{dtype}", test)
        made.__module__ = base.__module__
        scope[made.__name__] = made

class Case:
    def test_add(self, device, dtype):
        if device == "meta": raise unittest.SkipTest("Only runs on cpu")
        self.assertEqual(dtype, "float32")
instantiate(Case, globals())

class BrokenClass(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise RuntimeError("no such device")
    def test_one(self): pass
    def test_two(self): pass

class Places(unittest.TestCase):
    def test_reads_beside_itself(self):
        with open("expect/answer.txt") as file: self.assertEqual(file.read(), "42")
    def test_writes_where_it_is(self):
        with open("made.txt", "w") as file: file.write("x")
        self.assertTrue(os.path.exists("made.txt"))
    def test_imports_its_neighbour(self):
        import neighbour
        self.assertEqual(neighbour.__file__, os.path.join(os.path.dirname(os.path.realpath(__file__)), "neighbour.py"))
    def test_starts_an_interpreter(self):
        script = "import neighbour, sys; sys.exit(7)"
        self.assertEqual(subprocess.run([sys.executable, "-c", script]).returncode, 7)
    def test_subtests(self):
        for n in range(3):
            with self.subTest(n=n): self.assertNotEqual(n, 1)

if __name__ == "__main__":
    unittest.main()
"""
PLANNED = {
    "CaseCPU.test_add_cpu_float32": "passed",
    "CaseCPU.test_add_cpu_int64": "failed",
    "CaseMETA.test_add_meta_float32": "skipped",
    "CaseMETA.test_add_meta_int64": "skipped",
    "BrokenClass.test_one": "error",
    "BrokenClass.test_two": "error",
    "Places.test_reads_beside_itself": "passed",
    "Places.test_writes_where_it_is": "passed",
    "Places.test_imports_its_neighbour": "passed",
    "Places.test_starts_an_interpreter": "passed",
    "Places.test_subtests": "failed",
}
RERUNS = """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for last in (False, True):
        item._initrequest()
        for report in runtestprotocol(item, nextitem=nextitem, log=False):
            again = report.failed and not last
            if again:
                report.outcome = "rerun"
            item.ihook.pytest_runtest_logreport(report=report)
            if again:
                break
        else:
            break
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    (folder / "expect").mkdir(parents=True)
    (folder / "expect" / "answer.txt").write_text("42")
    (folder / "neighbour.py").write_text("")
    return folder


def attempts(wire: Wire, sources: Path, file: str, retry_alone: int = 0) -> list[dict[str, object]]:
    """List the file's tests as planning does, then run what was listed."""
    listed = wire.ok("discover", kind="pytest", sources=str(sources), file=file, python=sys.executable)
    assert listed["error"] is None, listed
    one = unit("u", "pytest", {"file": file}, tests=listed["tests"])
    order = order_of(one, sources=sources, python=sys.executable, retry_alone=retry_alone)
    return list(wire.run(order)[0]["attempts"])


def test_a_checkout_with_hooks_and_generated_classes_gives_what_plain_pytest_gives(wire: Wire, sources: Path) -> None:
    (sources / "conftest.py").write_text(CONFTEST)
    (sources / "shards.py").write_text(SHARDS)
    (sources / "sub").mkdir()
    (sources / "sub" / "test_generated.py").write_text(GENERATED)
    (sources / "sub" / "neighbour.py").write_text("")
    (company,) = attempts(wire, sources, "sub/test_generated.py")
    told = {f"{one['cls']}.{one['name']}": one["outcome"] for one in company["results"]}  # type: ignore[attr-defined]
    assert told == PLANNED
    assert "no such device" in message(company, "test_one")
    assert "Only runs on cpu" in message(company, "test_add_meta_int64")
    argv = [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", "--no-summary", "sub/test_generated.py"]
    plain = subprocess.run(argv, cwd=sources, capture_output=True, text=True, check=False).stdout
    said = re.findall(r"^\S+::(\w+)::(\w+) (PASSED|FAILED|SKIPPED|ERROR)\b", plain, re.MULTILINE)
    # pytest calls a test passed whose subtests fail, and the subtests failed; to us it is the test that failed.
    same = {f"{cls}.{name}": outcome.lower() for cls, name, outcome in said if name != "test_subtests"}
    assert same == {name: outcome for name, outcome in PLANNED.items() if name != "Places.test_subtests"}, plain


def test_a_test_that_its_own_plugin_runs_again_has_one_result_which_says_so(wire: Wire, sources: Path) -> None:
    (sources / "conftest.py").write_text(RERUNS)
    (sources / "test_r.py").write_text(
        "import os\ndef test_flaky():\n    first = not os.path.exists('seen')\n    open('seen', 'w').close()\n"
        "    assert not first, 'not yet'\ndef test_bad(): assert 0\n"
    )
    (company,) = attempts(wire, sources, "test_r.py")
    told = [(one["name"], one["outcome"]) for one in company["results"]]  # type: ignore[attr-defined]
    assert told == [("test_flaky", "passed"), ("test_bad", "failed")]
    assert "run again by the suite's own pytest plugin" in message(company, "test_flaky")
    assert "not yet" in message(company, "test_flaky")


def test_a_project_that_stops_at_its_first_failure_still_has_all_results(wire: Wire, sources: Path) -> None:
    (sources / "pytest.ini").write_text("[pytest]\naddopts = -x\n")
    (sources / "test_x.py").write_text("def test_a(): assert 0\ndef test_b(): pass\n")
    (company,) = attempts(wire, sources, "test_x.py")
    assert [one["outcome"] for one in company["results"]] == ["failed", "passed"]  # type: ignore[attr-defined]


def test_tests_that_use_pytests_cache_have_one_and_not_in_the_sources(wire: Wire, sources: Path) -> None:
    (sources / "pytest.ini").write_text("[pytest]\ncache_dir = .own_cache\n")
    (sources / "test_c.py").write_text(
        "def test_a(cache):\n    cache.set('a/b', 1)\n    assert cache.get('a/b', 0) == 1\n"
    )
    (company,) = attempts(wire, sources, "test_c.py")
    assert [one["outcome"] for one in company["results"]] == ["passed"]  # type: ignore[attr-defined]
    assert not (sources / ".own_cache").exists()


def test_compiled_kernels_are_not_kept_where_the_sources_have_a_folder(wire: Wire, sources: Path) -> None:
    """PyTorch's own tests have a folder `inductor`; the cache of that name must not be a link into it."""
    (sources / "inductor").mkdir()
    (sources / "inductor" / "test_i.py").write_text(
        "import os\ndef test_a():\n    os.makedirs(os.environ['TORCHINDUCTOR_CACHE_DIR'])\n"
    )
    (company,) = attempts(wire, sources, "inductor/test_i.py")
    assert [one["outcome"] for one in company["results"]] == ["passed"]  # type: ignore[attr-defined]
