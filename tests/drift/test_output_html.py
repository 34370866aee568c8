"""The page, without a browser: what it holds, and that nothing in a report can get out of it."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from output_support import (
    MODE,
    REPORT_SETTINGS,
    REPORTS,
    STARTED,
    check_at,
    judged,
    large,
    large_history,
    lost,
    office,
    office_history,
)

from llamaherd.drift import html
from llamaherd.drift.html import render_html
from llamaherd.drift.report import COMPONENTS, DriftReport
from llamaherd.drift.text import lines_of, printable

STYLE = Path(html.__file__).with_name("report.css").read_text()
# Everything that the page is built of. No script, form, frame, image or link to elsewhere.
TAGS = re.compile(
    "html|head|meta|link|title|style|body|header|main|footer|section|div|h[1-4]|p|dl|dt|dd|ol|li|"
    "details|summary|figure|figcaption|svg|g|rect|path|b|span|code|pre|ins|del|em|time|input|label|wbr"
)
ATTRIBUTES = re.compile(
    "lang|charset|name|content|http-equiv|rel|href|class|id|role|title|type|checked|for|datetime|"
    "viewbox|width|height|x|y|rx|d|aria-(label|hidden|labelledby)"
)
VOID = {"meta", "link", "input", "rect", "path", "wbr"}


class Page(HTMLParser):
    """Reads a page strictly: every element closed in order; keeps texts by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts.setdefault(tag, [])
        if tag not in VOID:
            self.open.append(tag)
            self.texts[tag].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[self.open[-1]][-1] += data

    def classed(self, name: str) -> list[dict[str, str | None]]:
        return [a for _, a in self.tags if name in (a.get("class") or "").split()]


@REPORT_SETTINGS
@given(REPORTS)
def test_nothing_in_any_report_becomes_markup(report: DriftReport) -> None:
    page = Page(render_html(report, [replace(report, started="2001-01-01T00:00:00+00:00")]))

    assert all(TAGS.fullmatch(tag) for tag, _ in page.tags)
    assert all(ATTRIBUTES.fullmatch(name) for _, attributes in page.tags for name in attributes)
    assert {a["href"] for _, a in page.tags if "href" in a} == {"data:,"}


@REPORT_SETTINGS
@given(REPORTS)
def test_every_host_finding_and_line_of_any_report_is_on_the_page(report: DriftReport) -> None:
    page = Page(render_html(report))

    assert sorted(page.texts.get("h3", [])) == sorted(printable(h.name) for h in report.hosts)
    assert len(page.classed("host")) == len(report.hosts)
    found = [finding for host in report.hosts for finding in host.findings] + [*report.upstream]
    assert len(page.classed("finding")) == len(found)
    subjects = page.texts.get("code", [])
    lines = [text for tag in ("ins", "del", "em", "span") for text in page.texts.get(tag, [])]
    for finding in found:
        assert printable(finding.subject) in subjects
        assert set(lines_of(finding.diff)) <= set(lines)


@REPORT_SETTINGS
@given(REPORTS)
def test_any_page_can_be_written_and_has_ids_that_are_unique(report: DriftReport) -> None:
    text = render_html(report)
    ids = [a["id"] for _, a in Page(text).tags if "id" in a]

    assert text.encode()
    assert len(set(ids)) == len(ids)


def test_the_policy_allows_exactly_this_style_and_nothing_else() -> None:
    text = render_html(office())
    style = text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = next(
        a["content"] for _, a in Page(text).tags if a.get("http-equiv") == "Content-Security-Policy"
    )

    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def test_page_and_style_load_nothing() -> None:
    assert not re.search(r"url\(|@import|src=|https?://|<script", STYLE)
    assert not re.search(r"<script|\ssrc=|\sstyle=|\son[a-z]+=", render_html(office()))


def test_every_cell_opens_and_is_named_for_those_who_cannot_see_it() -> None:
    page = Page(render_html(office(), office_history()))
    labels = [a["aria-label"] for tag, a in page.tags if tag == "summary" and "aria-label" in a]

    assert len(labels) == 4 * len(COMPONENTS)
    assert "llama_server: 2 declared, 1 running" in labels
    assert labels.count("models: ok") == 3
    assert labels.count("models: not judged") == 1


def test_hosts_in_trouble_come_first_else_the_fleets_order_stays() -> None:
    report = check_at(0, judged("a"), judged("b", MODE), judged("c"), lost("d"), judged("e", MODE))

    assert Page(render_html(report)).texts["h3"] == ["d", "b", "e", "a", "c"]


@pytest.mark.parametrize(
    ("report", "verdict"),
    [
        (check_at(0), "No host was checked"),
        (check_at(0, judged("a")), "The one host is in order"),
        (check_at(0, judged("a"), judged("b")), "All 2 hosts are in order"),
        (check_at(0, judged("a"), judged("b", MODE)), "1 of 2 hosts drifted"),
        (check_at(0, lost("a")), "1 of 1 host unreachable"),
        (office(), "2 of 4 hosts drifted, 1 unreachable"),
        (large(), "10 of 60 hosts drifted, 2 unreachable, 1 check broke off"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_verdict_is_the_heading(report: DriftReport, verdict: str) -> None:
    assert Page(render_html(report)).texts["h1"] == [verdict]


def test_a_cell_tells_when_its_state_changed() -> None:
    text = render_html(office(), office_history())
    cell = text.partition('id="host-gpu-02"')[2].partition('<details class="c4"')[2]
    runs = re.findall(r"<li><b class=\"\w+\">([\w, ]+)</b> <span>(\d+ checks?)", cell)

    assert runs[:3] == [("ok", "11 checks"), ("declared", "3 checks"), ("ok", "4 checks")]


def test_history_may_come_in_any_order_and_hold_the_report_itself() -> None:
    past = office_history()

    assert render_html(office(), past) == render_html(office(), [office(), *reversed(past)])


def test_a_cell_that_never_moved_says_so_in_a_sentence() -> None:
    past = [check_at(6 * back, judged("gpu-01")) for back in (1, 2)]
    text = render_html(check_at(0, judged("gpu-01")), past)

    assert "<p>models: in order in all 3 checks kept.</p>" in text


def test_a_host_new_to_the_fleet_has_a_past_without_it() -> None:
    text = render_html(check_at(0, judged("a"), judged("b")), [check_at(6, judged("a"))])

    assert "not in the fleet" in text


def test_times_are_shown_with_their_zone() -> None:
    report = replace(check_at(0), started="2026-11-22T10:18:14+01:00")

    assert "2026-11-22 10:18 +01:00" in render_html(report)
    assert "2026-11-22 09:18 UTC" in render_html(check_at(0))
    assert STARTED.isoformat() in render_html(check_at(0))


def test_a_thousand_hosts_make_a_page_of_less_than_3_megabytes() -> None:
    text = render_html(large(1000), large_history(1000))

    assert len(text.encode()) < 3_000_000


# Contrast, by WCAG 2.2: text 4.5, shapes 3.

INKS = ("ink", "muted", "ok", "declared", "running", "upstream", "error")
GROUNDS = ("page", "surface", "sunken")
PAIRS = [(ink, ground) for ink in INKS for ground in GROUNDS]
PAIRS += [("added", "added-tint"), ("removed", "removed-tint"), ("error", "error-tint")]


def colours(scheme: str) -> dict[str, str]:
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)[:2]
    chosen = light if scheme == "light" else light + dark
    return dict(re.findall(r"--([a-z-]+): #([0-9a-f]{6});", chosen))


def luminance(colour: str) -> float:
    channels = [int(colour[index : index + 2], 16) / 255 for index in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("ink", "ground"), PAIRS)
def test_text_can_be_read(scheme: str, ink: str, ground: str) -> None:
    palette = colours(scheme)

    assert contrast(palette[ink], palette[ground]) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("ground", GROUNDS)
def test_the_keyboards_focus_can_be_seen(scheme: str, ground: str) -> None:
    palette = colours(scheme)

    assert contrast(palette["focus"], palette[ground]) >= 3
