"""The catalog: what is right loads, and every mistake is told with its file, its line and what would be right."""

from __future__ import annotations

import contextlib
import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blocks.catalog.document import MAX_BYTES
from blocks.catalog.load import default_root, load_catalog, read_catalog
from blocks.errors import CatalogError
from tests.blocks.catalog.conftest import GOOD, Write, line_of


def refusal(root: Path) -> str:
    with pytest.raises(CatalogError) as caught:
        load_catalog(root)
    return str(caught.value)


def test_a_catalog_that_is_right_loads(write: Write) -> None:
    catalog = load_catalog(write())
    assert catalog.environments["gpu"].accelerator == "cuda"
    assert [cell.suite for cell in catalog.profiles["small"].matrix] == ["compiled", "python"]


def test_sections_may_be_spread_over_files(write: Write) -> None:
    catalog = load_catalog(write(b="pools:\n  more: {kind: ssh, vendor: acme}\n"))
    assert set(catalog.pools) == {"local", "more"}


ELSEWHERE = {
    "is a pytest suite and needs `files`": "  python:",
    "`compiled` on `cpu` stands twice": "note: again",
    "needs 2 devices and `cpu` has none": "suite: python}",
    "expected ',' or '}', but got ':'": "  gpu:",
}
"""Mistakes that are told at another line than the one that was spoilt."""


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ("    files: [site/torch/bin/*]", "    fils: [site/torch/bin/*]", "Did you mean `files`?"),
        ("    kind: gtest", "    kind: gtst", "'gtest', 'pytest', 'benchmark' or 'command'"),
        ("{kind: wheel, requirements: [torch==2.13.0]}", "{kind: weel, requirements: []}", "'wheel', 'source'"),
        ("{kind: wheel, requirements: [torch==2.13.0]}", "{kind: wheel}", "`requirements` is missing"),
        ("{kind: wheel, requirements: [torch==2.13.0]}", "{kind: wheel, requirement: []}", "Did you mean `req"),
        ("  cpu: {build: wheel}", "  cpu: {build: weel}", "there is no build `weel`. Did you mean `wheel`?"),
        ("suite: compiled}", "suite: compild}", "there is no suite `compild`. Did you mean `compiled`?"),
        ("environment: cpu, suite: python", "environment: cpi, suite: python", "Did you mean `cpu`"),
        ("    pools: [local]", "    pools: [lokal]", "there is no pool `lokal`. Did you mean `local`?"),
        ("    sources: sources/python", "    sources: sources/pithon", "pithon is missing"),
        ("    files: [test_*.py]", "    models: [mlp]", "is a pytest suite and needs `files`"),
        ("    files: [test_*.py]", "    files: [t.py]\n    models: [mlp]", "`models` means nothing in a pytest suite"),
        ("    files: [test_*.py]", "    files: [t.py]\n    sample_by: '('", "is no regular expression"),
        ("    files: [test_*.py]", "    files: [t.py]\n    sample_by: 'x'", "should have one group and has 0"),
        ("    files: [test_*.py]", "    files: [t.py]\n    times: t.json", "t.json is missing"),
        ("    files: [test_*.py]", "    files: [t.py]\n    cpus: two", "`cpus`"),
        ("    files: [test_*.py]", "    files: [t.py]\n    env: {X: on}", "Put it in quotes"),
        ("    files: [test_*.py]", "    files: [t.py]\n    devices: 2", "needs 2 devices and `cpu` has none"),
        ("  local: {kind: local}", "  Local: {kind: local}", "lower-case letters"),
        ("  local: {kind: local}", "  2.13: {kind: local}", 'Write it as "2.13"'),
        ("pools:\n  local:", "polls:\n  local:", "`polls` is no section. Did you mean `pools`"),
        ("  cpu: {build: wheel}", "  cpu: {build: wheel}\n  cpu: {build: wheel}", "`cpu` stands twice: first at"),
        ("  cpu: {build: wheel}", "  cpu: {build: wheel", "expected ',' or '}', but got ':'"),
        ("  cpu: {build: wheel}", "  cpu: !!python/object:os.system {}", "is not read here"),
        ("  cpu: {build: wheel}", "  cpu: {build: wheel, config: !!python/name:os.system x}", "this is no YAML"),
        ("  cpu: {build: wheel}", "  cpu: {build: wheel, env: {E: '1', <<: {A: '2'}}}", "merge keys"),
        ("requirements: [torch==2.13.0]", "requirements: [torch], indexes: [s3.amazonaws.com]", "names a cloud"),
        ("suite: compiled}", "suite: compiled, include: ['AWS.*']}", "names a cloud (`AWS`)"),
        ("suite: compiled}", "suite: compiled, tier: {sample: 0}}", "greater than 0"),
        ("suite: compiled}", "suite: compiled, tier: {smple: 1}}", "Did you mean `sample`?"),
        ("suite: python}", "suite: compiled, note: again}", "`compiled` on `cpu` stands twice"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line_and_what_would_be_right(
    write: Write, right: str, wrong: str, expected: str
) -> None:
    assert right in GOOD
    text = GOOD.replace(right, wrong)
    message = refusal(write(text))
    assert expected in message
    first = line_of(text, ELSEWHERE.get(expected, wrong.splitlines()[0]))
    lines = range(first, first + len(wrong.splitlines()))
    assert any(f"a.yaml:{line}: " in message for line in lines), message


def test_all_mistakes_are_told_at_once(write: Write) -> None:
    text = GOOD.replace("build: wheel}", "build: weel}").replace("[local]", "[lokal]").replace("kind: gtest", "kind: g")
    message = refusal(write(text))
    assert "`weel`" in message
    assert "`lokal`" in message
    assert "'g'" in message


def test_a_duplicate_name_across_files_names_both_places(write: Write) -> None:
    message = refusal(write(b="# a comment\npools:\n  local: {kind: local}\n"))
    assert "b.yaml:3: pool `local` stands twice: first at" in message
    assert f"a.yaml:{line_of(GOOD, 'local: {kind')}" in message


def test_a_file_that_cannot_be_read_hides_no_names_from_the_others(write: Write) -> None:
    spoilt = GOOD.replace("  local: {kind: local}", "  local: {kind: local")
    message = refusal(write(spoilt, b="environments:\n  more: {build: wheel}\n  other: {bild: wheel}\n"))
    assert "a.yaml" in message
    assert "b.yaml:3: in environments.other: `bild` is no key" in message
    assert "there is no build" not in message


def test_a_circle_of_profiles_is_shown(write: Write) -> None:
    circle = "profiles:\n  a: {extends: b}\n  b: {extends: c}\n  c: {extends: a}\n  d: {extends: a}\n"
    message = refusal(write(b=circle))
    assert "b.yaml:2: profiles extend each other in a circle: a -> b -> c -> a." in message
    assert message.count("in a circle") == 1


def test_a_profile_that_extends_itself_is_a_circle(write: Write) -> None:
    assert "x -> x" in refusal(write(b="profiles:\n  x: {extends: x}\n"))


def test_a_profile_inherits_and_its_own_cells_take_the_inherited_ones_place(write: Write) -> None:
    more = """\
profiles:
  sampled:
    extends: small
    lease_target_seconds: 7
    matrix:
      - {environment: cpu, suite: python, tier: {sample: 0.5}}
      - {environment: gpu, suite: compiled}
  again: {extends: sampled}
"""
    profiles = load_catalog(write(b=more)).profiles
    cells = {(cell.environment, cell.suite): cell.tier.sample for cell in profiles["again"].matrix}
    assert cells == {("cpu", "compiled"): 1.0, ("cpu", "python"): 0.5, ("gpu", "compiled"): 1.0}
    assert profiles["again"].pools == ["local"]
    assert profiles["again"].lease_target_seconds == 7
    assert profiles["small"].lease_target_seconds == 30


def test_an_expired_quarantine_warns_and_an_unknown_suite_in_it_is_a_mistake(write: Write) -> None:
    entry = "quarantine:\n- {{suite: {suite}, test: 'x::*', reason: r, owner: them, expires: 2026-01-31}}\n"
    root = write(b=entry.format(suite="python"))
    (warning,) = read_catalog(root, today=datetime.date(2026, 2, 1)).warnings
    assert "b.yaml:2" in warning
    assert "them" in warning
    assert read_catalog(root, today=datetime.date(2026, 1, 31)).warnings == ()
    assert "Did you mean `python`" in refusal(write(b=entry.format(suite="pithon")))


def test_prose_may_name_a_cloud(write: Write) -> None:
    load_catalog(write(GOOD.replace("suite: compiled}", "suite: compiled, note: 'runner: linux.aws.h100'}")))


def test_aliases_that_blow_up_are_refused(write: Write) -> None:
    levels = [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]" for i in range(1, 10)]
    bomb = "\n".join(["x0: &x0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]", *levels])
    assert "aliases make more than" in refusal(write(b=bomb))


def test_an_anchor_that_contains_itself_is_refused(write: Write) -> None:
    assert "contains itself" in refusal(write(b="pools: &p\n  local: *p\n"))


def test_a_file_that_is_too_large_too_deep_or_no_text_is_refused(write: Write) -> None:
    assert "split it" in refusal(write(b="# " + "x" * MAX_BYTES))
    assert "nested too deeply" in refusal(write(b="[" * 100_000))
    root = write(b="")
    (root / "b.yaml").write_bytes(b"\xff\xfe\x00")
    assert "b.yaml:1: cannot be read" in refusal(root)


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    assert "COMMONFLEET_CATALOG" in refusal(tmp_path)


def test_the_environment_may_name_another_catalog(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COMMONFLEET_CATALOG", str(tmp_path))
    assert default_root() == tmp_path


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_a_file_holds_the_answer_is_a_catalog_or_a_catalog_error(write: Write, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(GOOD)))
    end = data.draw(st.integers(start, min(len(GOOD), start + 40)))
    junk = st.text(st.sampled_from("{}[]:-&*!|>'\"#%@`,? \n\tabc019.~\x00é"), max_size=12)
    root = write(GOOD[:start] + data.draw(junk) + GOOD[end:])
    with contextlib.suppress(CatalogError):
        load_catalog(root)
