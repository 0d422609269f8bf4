"""The page as a browser sees it: complete, inert, readable on a phone and in the dark, with and without JavaScript."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from blocks.errors import CommonfleetError
from blocks.ledger import Ledger
from blocks.plan import Skip
from tasks.collect.segments import cut_segments
from tasks.publish.report import write_report
from tests.ledger_rows import BASE_TIME, Case, made_unit, make_run, open_made
from tests.tasks.publish.chromium import ask, dump, needs_chromium
from tests.tasks.publish.told_run import Judged, Told, attempt, case, gtest_argv, metric, tell

HOSTILE = '</script><img src=x onerror="top.hacked=1"><script>top.hacked=1</script>\x1b[31m\u202e\'"&{{7*7}}'
SECTIONS = ("failures", "planned", "timeline", "slowest", "attempts", "machines", "ledger")
_OPEN = 'for (const one of view.document.querySelectorAll("details")) one.open = true;'
LONG = "averyveryverylongnamewithoutanyplacetobreakit" * 6


def write(folder: Path, fill: Callable[[Ledger], Any]) -> Path:
    ledger = open_made(folder / "home")
    try:
        return write_report(ledger, fill(ledger).run, folder / "report.html")
    finally:
        ledger.close()


def fill_failing(ledger: Ledger) -> Any:
    hostile, fine = f"T.{HOSTILE}", "T.fine"
    bad = case("test_api", hostile, "failed", 0.5, HOSTILE + "m" * 1_000_000)
    order = [case("lazy", "L.a", "crashed", 0.1, "SIGSEGV"), case("lazy", f"L.{LONG}", "failed", 0.1, LONG)]
    again = [attempt(2, 9.0, [case("lazy", "L.a")], alone="L.a", argv=gtest_argv("lazy", "L.a"))]
    figures = [metric(HOSTILE, "eager", "latency", 0.8, "ms", 0.02), metric(LONG, "", "speedup", 1.3, "x", 0.1)]
    bench = made_unit("mlp", suite="benchmark", kind="benchmark", terminal=None, delivered=False)
    units = [
        Told(
            made_unit("test_api", [Case(hostile), Case(fine)], terminal=None, delivered=False),
            (attempt(1, 1.0, [bad, case("test_api", fine)], argv=gtest_argv("test_api"), output=HOSTILE * 50),),
        ),
        Told(
            made_unit("lazy", [Case("L.a"), Case(f"L.{LONG}")], terminal=None, delivered=False),
            (attempt(1, 2.0, order, argv=gtest_argv("lazy"), output="Signal 11"), *again),
            slot=1,
        ),
        Told(bench, (attempt(1, 12.0, [case("bench.py", "mlp")], metrics=figures),)),
        Told(made_unit(LONG, [Case("T.b")], terminal="lost", reason=HOSTILE + LONG, delivered=False)),
        Told(made_unit("later", [Case("T.c")], terminal="not_run", reason="cancelled", delivered=False)),
    ]
    verdicts = [
        Judged(
            "libtorch", f"test_api::{hostile}", "broke", True, evidence={HOSTILE: HOSTILE, "previous_outcome": "passed"}
        ),
        Judged("libtorch", "lazy::L.a", "order_dependent", False),
        Judged("libtorch", f"lazy::L.{LONG}", "broken_trunk", False, evidence={"quarantined": {"reason": LONG}}),
    ]
    before = [made_unit("gone", [Case(f"G.{HOSTILE}"), Case(f"G.{LONG}")]), made_unit("later", [Case("T.c")])]
    make_run(ledger, before, run="r-before", created=BASE_TIME - 86_400)
    sentence = f"1 test broke: {HOSTILE}{LONG}"
    left_out = [Skip("libtorch", "cpu", HOSTILE, "no gtest")]
    return tell(ledger, units, sentence=sentence, exit_code=1, verdicts=verdicts, left_out=left_out)


def fill_cancelled(ledger: Ledger) -> Any:
    units = [
        Told(made_unit("a", [Case("T.a")], terminal=None, delivered=False), (attempt(1, 1.0, [case("a", "T.a")]),)),
        Told(made_unit("b", [Case("T.b")], terminal="not_run", reason="cancelled", delivered=False)),
    ]
    return tell(ledger, units, state="cancelled", exit_code=1, sentence="The run was cancelled: 1 of 2 units had run.")


@pytest.fixture(scope="module")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run in which much went wrong and much is hostile."""
    return write(tmp_path_factory.mktemp("failing"), fill_failing)


@pytest.fixture(scope="module")
def cancelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("cancelled"), fill_cancelled)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run that ended before it had a plan worth the name."""
    return write(tmp_path_factory.mktemp("empty"), lambda ledger: make_run(ledger, [], state="failed", exit_code=2))


class Elements(HTMLParser):
    """All start tags of a page, with their attributes."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


# -- what stands there ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["failing", "cancelled", "empty"])
def test_every_section_is_there_whatever_became_of_the_run(name: str, request: pytest.FixtureRequest) -> None:
    ids = {attributes.get("id") for _, attributes in Elements(request.getfixturevalue(name)).found}
    assert set(SECTIONS) <= ids


def test_the_links_of_the_page_lead_to_places_on_it(failing: Path) -> None:
    elements = Elements(failing).found
    ids = {attributes.get("id") for _, attributes in elements}
    targets = [attributes["href"] or "" for _, attributes in elements if "href" in attributes]
    assert targets
    assert [target for target in targets if target.removeprefix("#") not in ids] == []


@pytest.mark.parametrize("name", ["failing", "cancelled", "empty"])
def test_the_page_asks_nobody_for_anything(name: str, request: pytest.FixtureRequest) -> None:
    page = request.getfixturevalue(name)
    text = page.read_text()
    for tag, attributes in Elements(page).found:
        assert tag not in ("img", "iframe", "object", "embed", "video", "audio", "source", "link", "base", "form")
        assert not {"src", "srcset", "poster", "data", "action", "background"} & set(attributes)
        assert (attributes.get("href") or "#").startswith("#")
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"url\(|@import|expression\(", style)
    assert "default-src 'none'" in text


@needs_chromium
def test_the_numbers_that_matter_are_on_the_page(failing: Path, tmp_path: Path) -> None:
    body = dump(failing, tmp_path)
    start = body.index("<main")
    body = body[start : body.index("<script>", start)]
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))
    assert "units planned 5" in text
    assert "ran 3" in text
    assert "not run 1" in text
    assert "lost 1" in text
    assert "The books balance" in text
    assert "New failures 1" in text
    assert "Failed or crashed in company, passed alone · 1 test" in text
    assert "Quarantined · 1 test" in text
    assert "Gone dark 3" in text
    assert "Vanished: neither planned nor left out · 2 tests" in text
    assert "Their unit did not run · 1 test" in text
    assert "1.30×" in text
    assert "1.17 – 1.43×" in text


@needs_chromium
def test_a_cancelled_run_is_neither_green_nor_red(cancelled: Path, tmp_path: Path) -> None:
    answer = ask(
        cancelled, 'const v = view.document.querySelector(".verdict"); return [v.className, v.innerText];', tmp_path
    )
    assert answer[0] == "verdict undecided"
    assert "The run was cancelled: 1 of 2 units had run." in answer[1]


# -- what cannot happen --------------------------------------------------------------------------------------------


@needs_chromium
def test_hostile_names_and_messages_are_shown_and_do_nothing(failing: Path, tmp_path: Path) -> None:
    answer = ask(
        failing,
        _OPEN
        + """const all = view.document, names = [...all.querySelectorAll("*")].flatMap(e => e.getAttributeNames());
        return { scripts: all.querySelectorAll("script").length, images: all.querySelectorAll("img").length,
            hacked: top.hacked || view.hacked || null, text: all.body.innerText,
            handlers: names.filter(name => /^on/.test(name)).length };""",
        tmp_path,
    )
    assert (answer["scripts"], answer["images"], answer["handlers"], answer["hacked"]) == (1, 0, 0, None)
    assert 'T.</script><img src=x onerror="top.hacked=1">' in answer["text"]
    assert "\u202e" not in answer["text"]
    assert "{{7*7}}" in answer["text"]


def test_a_megabyte_of_message_is_capped_and_says_so(failing: Path) -> None:
    text = failing.read_text()
    assert len(text) < 400_000
    assert "characters left out here" in text


# -- how it can be read --------------------------------------------------------------------------------------------


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_never_scrolls_sideways(failing: Path, width: int, tmp_path: Path) -> None:
    answer = ask(
        failing,
        _OPEN
        + """const root = view.document.documentElement;
        const wide = [...view.document.querySelectorAll("main *")].filter(
            e => e.getBoundingClientRect().right > root.clientWidth + 1
                && !e.closest(".scroll, .lanes, pre, svg")).map(e => e.outerHTML.slice(0, 120));
        return { wide: root.scrollWidth, seen: root.clientWidth, who: wide.slice(0, 5) };""",
        tmp_path,
        width=width,
    )
    assert answer["seen"] == width
    assert answer["who"] == []
    assert answer["wide"] <= width


_CONTRAST = """
const channel = c => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const rgba = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const behind = e => { for (; e; e = e.parentElement) {
    const c = rgba(view.getComputedStyle(e).backgroundColor); if (c[3] > 0) return c; } return [255, 255, 255, 1]; };
const faint = {};
for (const e of view.document.querySelectorAll("body *")) {
    if (e.closest("svg, script, .skip")) continue;
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    const a = light(rgba(view.getComputedStyle(e).color)), b = light(behind(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint[e.tagName + "." + e.className] = ratio.toFixed(2);
}
return [view.getComputedStyle(view.document.body).backgroundColor, faint];
"""


@needs_chromium
@pytest.mark.parametrize(("scheme", "dark"), [("1", False), ("0", True)])
def test_every_text_has_enough_contrast_in_light_and_in_dark(
    failing: Path, scheme: str, dark: bool, tmp_path: Path
) -> None:
    background, faint = ask(failing, _OPEN + _CONTRAST, tmp_path, f"--blink-settings=preferredColorScheme={scheme}")
    brightness = sum(int(part) for part in re.findall(r"\d+", background)[:3])
    assert (brightness < 200) == dark
    assert faint == {}


@needs_chromium
def test_the_theme_can_be_changed_by_hand(cancelled: Path, tmp_path: Path) -> None:
    before, after = ask(
        cancelled,
        """const shade = () => view.getComputedStyle(view.document.body).backgroundColor;
        const first = shade(); view.document.getElementById("theme").click(); return [first, shade()];""",
        tmp_path,
    )
    assert before != after


@needs_chromium
def test_without_javascript_everything_can_be_read_and_no_dead_button_is_shown(failing: Path, tmp_path: Path) -> None:
    answer = ask(
        failing,
        """const all = view.document;
        const hidden = [...all.querySelectorAll("button, #zoom, #told")].filter(e => e.offsetParent === null).length;
        const summary = all.querySelector("details:not([open]) > summary"); summary.click();
        return { hidden, controls: all.querySelectorAll("button, #zoom, #told").length,
            opened: summary.parentElement.open, text: all.body.innerText };""",
        tmp_path,
        scripted=False,
    )
    assert answer["hidden"] == answer["controls"] > 0
    assert answer["opened"]
    assert "Everything that went wrong in this run" in answer["text"]


@needs_chromium
def test_the_page_makes_sense_to_a_screen_reader(failing: Path, tmp_path: Path) -> None:
    answer = ask(
        failing,
        """const all = view.document, name = e => e.getAttribute("aria-label") || e.textContent.trim();
        return { lang: all.documentElement.lang, h1: all.querySelectorAll("h1").length,
            levels: [...all.querySelectorAll("h1, h2, h3, h4")].map(h => Number(h.tagName[1])),
            unnamed: [...all.querySelectorAll("button, summary, svg, [role=region]")].filter(e => !name(e)).length,
            bare: [...all.querySelectorAll("thead th")].filter(e => e.scope !== "col").length,
            still: [...all.querySelectorAll(".scroll, .lanes")].filter(e => e.tabIndex !== 0).length,
            plain: [...all.querySelectorAll(".badge")].filter(e => !/[a-z]{4}/.test(e.textContent)).length };""",
        tmp_path,
    )
    assert answer["lang"] == "en"
    assert answer["h1"] == 1
    assert all(after - before <= 1 for before, after in zip(answer["levels"], answer["levels"][1:], strict=False))
    assert (answer["unnamed"], answer["bare"], answer["still"], answer["plain"]) == (0, 0, 0, 0)


# -- sizes and accidents -------------------------------------------------------------------------------------------


def test_twenty_thousand_results_make_a_small_page_in_seconds(tmp_path: Path) -> None:
    ledger = open_made(tmp_path / "home")
    bad, good = {"outcome": "failed", "message": "<&>" * 3000}, {}
    units = [
        made_unit(f"unit-{n}", [Case(f"C{n}.t{i}", **(good if i % 20 else bad)) for i in range(100)])
        for n in range(200)
    ]
    made = make_run(ledger, units, machines=4)
    cut_segments(ledger, run=made.run, everything=True)
    began = time.monotonic()
    page = write_report(ledger, made.run, tmp_path / "report.html")
    assert time.monotonic() - began < 10
    assert page.stat().st_size < 2_000_000
    assert 'Failures not judged <span class="soft">1,000</span>' in page.read_text()
    ledger.close()


def test_a_report_that_cannot_be_written_leaves_the_former_one_and_no_litter(tmp_path: Path) -> None:
    ledger = open_made(tmp_path / "home")
    made = make_run(ledger, [])
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CommonfleetError, match="could not be written"):
        write_report(ledger, made.run, tmp_path / "file" / "report.html")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "report.html").mkdir()
    with pytest.raises(CommonfleetError, match="could not be written"):
        write_report(ledger, made.run, tmp_path / "reports" / "report.html")
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["report.html"]
    ledger.close()
