"""What the pages say is true: the commands, views, files, tests, links and examples that they name are there."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
import shutil
import tomllib
from functools import cache
from pathlib import Path

import pytest

from blocks.catalog.load import default_root, load_catalog
from blocks.ledger import open_ledger
from blocks.ledger.query import run_query, view_columns
from blocks.ledger.views import VIEWS
from blocks.store import Store
from deployments.cli.main import app
from tests.docs.pages import ROOT, Page, pages, table

PAGES = pages()
README = PAGES[0]
COMMANDS = {name for name in app if not name.startswith("-")}
FOLDERS = ("blocks/", "tasks/", "flows/", "deployments/", "tests/", "docs/", ".ci/")
OF_A_SYSTEM = ("/usr", "/proc", "/dev", "/tmp", "/root", "/var/lib/commonfleet", "/v2")
"""Absolute paths that mean the same on every machine."""

every_page = pytest.mark.parametrize("page", PAGES, ids=str)


def option_names(command: str) -> set[str]:
    """The options that a command takes, such as `--json`. (The parser adds `--run` and `--empty-suite` of its own.)"""
    arguments = app[command].assemble_argument_collection()
    names = {name for argument in arguments if argument.index is None for name in argument.names}
    return {name for name in names if not name.startswith("--empty-")}


def queries(page: Page) -> list[str]:
    """SQL blocks, and what shell blocks give to `commonfleet query`."""
    lines = [shlex.split(line) for line in page.code if line.startswith("commonfleet query ")]
    return page.blocks("sql") + [words[-1] for words in lines if " " in words[-1]]


@cache
def functions_of(path: Path) -> set[str]:
    """Names of the functions of a test file, those in classes included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_the_command_table_has_every_command_and_only_options_that_exist() -> None:
    rows = [row[0].strip("`").split() for row in table(README, "command")]

    assert [words[0] for words in rows] == ["commonfleet"] * len(rows)
    assert sorted(words[1] for words in rows) == sorted(COMMANDS)
    for words in rows:
        named = {word.strip("[]") for word in words if word.strip("[]").startswith("--")}
        assert named == option_names(words[1]), words[1]


@every_page
def test_every_command_and_target_on_a_page_exists(page: Page) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for code in page.code:
        words = code.split()
        if words[:1] == ["commonfleet"] and len(words) > 1:
            assert words[1] in COMMANDS, code
        if words[:1] == ["make"]:
            assert set(itertools.takewhile(lambda word: "=" not in word, words[1:])) <= targets, code


@every_page
def test_every_option_on_a_page_exists(page: Page) -> None:
    for code in page.code:
        words = code.split()
        if words[:1] == ["commonfleet"] and len(words) > 1 and "query" not in words:
            named = {word.strip("[]") for word in words if word.strip("[]").startswith("--")}
            assert named <= option_names(words[1]), code


def test_the_readme_names_every_view() -> None:
    (sentence,) = re.findall(r"\*\*Queries\*\* go over these views: (.*?)\. Their", README.text, re.DOTALL)

    assert set(re.findall(r"`(\w+)`", sentence)) == set(VIEWS)


def test_the_views_and_their_columns_are_those_of_the_ledger() -> None:
    (page,) = (page for page in PAGES if str(page) == "docs/ledger.md")
    shown = {row[0].strip("`"): (row[1], re.findall(r"`(\w+)`", row[2])) for row in table(page, "view")}

    assert shown == {name: (VIEWS[name].about, columns) for name, columns in view_columns().items()}


def test_every_query_on_a_page_can_be_answered(tmp_path: Path) -> None:
    ledger = open_ledger(f"sqlite:///{tmp_path}/ledger.db", tmp_path / "results", Store(tmp_path / "store"))
    asked = [sql for page in PAGES for sql in queries(page)]

    assert len(asked) > 3
    for sql in asked:
        assert isinstance(run_query(ledger, sql), list), sql
    ledger.close()


@every_page
def test_every_link_leads_somewhere(page: Page) -> None:
    for link in page.links:
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.path.parent / name).resolve() if name else page.path
        assert target.exists(), link
        if anchor:
            assert anchor in Page(target).anchors, link


@every_page
def test_every_file_that_is_named_exists(page: Page) -> None:
    for span in page.spans:
        name = span.partition("::")[0]
        if name.startswith(FOLDERS) and " " not in name:
            assert list(ROOT.glob(name.rstrip("/"))), span


@every_page
def test_every_test_that_is_named_exists(page: Page) -> None:
    for span in page.spans:
        name, mark, function = span.partition("::")
        if mark and name.startswith("tests/"):
            assert function in functions_of(ROOT / name), span


@pytest.mark.parametrize("page", [page for page in PAGES if page.path.parent.name == "docs"], ids=str)
def test_every_page_on_a_mechanism_names_the_tests_that_guard_it(page: Page) -> None:
    rows = table(page, "promise")

    assert rows
    assert all("`tests/" in row[1] for row in rows)


@every_page
def test_every_variable_that_is_named_is_read_somewhere(page: Page) -> None:
    read = "".join(path.read_text() for folder in ("blocks", "deployments", "tests") for path in code_of(folder))
    for name in set(re.findall(r"\b(?:COMMONFLEET|SOAK)_[A-Z_]+\b", page.text)):
        assert f'"{name}"' in read, name


def code_of(folder: str) -> list[Path]:
    return [path for path in (ROOT / folder).rglob("*.py") if path.parent != Path(__file__).parent]


@every_page
def test_no_page_names_a_place_of_somebodys_machine(page: Page) -> None:
    text = re.sub(r"https?://\S+", "", page.text)
    named = re.findall(r"(?<![\w.~*}/)])/[a-z][\w./-]+", text)

    assert [path for path in named if not path.startswith(OF_A_SYSTEM)] == []


def test_every_catalog_example_on_a_page_loads_beside_the_shipped_files(tmp_path: Path) -> None:
    examples = [block for page in PAGES for block in page.blocks("yaml")]
    assert len(examples) > 3
    for number, example in enumerate(examples):
        folder = tmp_path / str(number)
        shutil.copytree(default_root(), folder)
        (folder / "example.yaml").write_text(example)
        load_catalog(folder)


def test_the_changelog_has_an_entry_for_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert re.search(rf"^## \[{re.escape(version)}\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_decisions_are_numbered_without_gaps_and_all_are_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    records = sorted(path.name for path in folder.glob("[0-9]*.md"))

    assert [int(name[:4]) for name in records] == list(range(1, len(records) + 1))
    assert Page(folder / "README.md").links == records
    for name in records:
        assert (folder / name).read_text().startswith(f"# {int(name[:4])}. ")


def test_pictures_are_small() -> None:
    pictures = list((ROOT / "docs" / "images").iterdir())

    assert pictures
    assert all(path.stat().st_size < 400_000 for path in pictures)
