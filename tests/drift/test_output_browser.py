"""The page in a real browser: phone and desk, light and dark, by mouse and by keyboard."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_support import Browser, browser
from output_support import (
    UNIT,
    check_at,
    judged,
    large,
    large_history,
    lost,
    office,
    office_history,
)
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from llamaherd.drift.html import render_html
from llamaherd.drift.report import COMPONENTS, Finding

pytestmark = pytest.mark.browser

SERVER, MODELS = (f".c{COMPONENTS.index(name)}" for name in ("llama_server", "models"))
CELL = f"#host-gpu-02 {SERVER}"
WINDOWS = [(width, scheme) for width in (1280, 768, 375) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pages")
    (made / "office.html").write_text(render_html(office(), office_history()))
    (made / "large.html").write_text(render_html(large(), large_history()))
    return made


def overflow(window: Browser) -> object:
    """Pixels by which the page is wider than the window."""
    return window.run(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )


@pytest.mark.parametrize(("width", "scheme"), WINDOWS)
@pytest.mark.parametrize("page", ["office.html", "large.html"])
def test_the_page_fits_and_the_console_is_silent(
    window: Browser, folder: Path, page: str, width: int, scheme: str
) -> None:
    window.open(folder / page, width, scheme=scheme)
    window.run("for (const fold of document.querySelectorAll('details')) fold.open = true")

    assert overflow(window) == 0
    assert window.complaints() == []


@pytest.mark.parametrize("width", [1280, 375])
def test_a_click_opens_a_cell_to_its_diff_and_history(
    window: Browser, folder: Path, width: int
) -> None:
    window.open(folder / "office.html", width)
    assert not window.find(f"{CELL} pre").is_displayed()

    window.find(f"{CELL} > summary").click()

    assert window.find(f"{CELL} pre").is_displayed()
    assert "+Environment=LLAMA_ARG_CTX_SIZE=131072" in window.find(f"{CELL} pre").text
    assert "14 checks" in window.find(f"{CELL} .runs").text

    window.find(f"{CELL} > summary").click()
    assert not window.find(f"{CELL} pre").is_displayed()


def test_the_cell_that_was_clicked_stays_where_it_was(window: Browser, folder: Path) -> None:
    window.open(folder / "office.html", 1280)
    summary = window.find(f"{CELL} > summary")
    before = summary.rect
    summary.click()

    assert summary.rect == before


@pytest.mark.parametrize("width", [1280, 375])
def test_the_keyboard_reaches_and_opens_a_cell_and_shows_where_it_is(
    window: Browser, folder: Path, width: int
) -> None:
    window.open(folder / "office.html", width)
    for _ in range(60):
        ActionChains(window.driver).send_keys(Keys.TAB).perform()
        if window.run(f"return document.activeElement.matches('{CELL} > summary')"):
            break
    outline = window.run("return getComputedStyle(document.activeElement).outlineWidth")
    ActionChains(window.driver).send_keys(Keys.ENTER).perform()

    assert outline == "3px"
    assert window.find(f"{CELL} pre").is_displayed()


@pytest.mark.parametrize("width", [1280, 768, 375])
def test_no_two_cells_of_a_row_overlap_and_fingers_find_them(
    window: Browser, folder: Path, width: int
) -> None:
    window.open(folder / "office.html", width)
    boxes = [cell.rect for cell in window.find_all("#host-gpu-02 > details > summary")]

    for index, one in enumerate(boxes):
        assert one["width"] >= 40
        assert one["height"] >= 40
        for other in boxes[index + 1 :]:
            apart = one["x"] + one["width"] <= other["x"] + 0.5
            assert apart or one["y"] + one["height"] <= other["y"] + 0.5


def test_what_a_cell_says_fits_into_it(window: Browser, folder: Path) -> None:
    everything = [
        Finding(plane, "llama_server", f"{plane} {number}", "differs")  # type: ignore[arg-type]
        for plane in ("declared", "running", "upstream")
        for number in range(12)
    ]
    page = folder / "full.html"
    page.write_text(render_html(check_at(0, judged("gpu-01", *everything))))
    for width in (1700, 1560, 1280, 1250, 970, 768, 375):
        window.open(page, width)
        spilt = window.run(
            f"const cell = document.querySelector('{SERVER} > summary');"
            "return [cell.scrollWidth - cell.clientWidth, cell.scrollHeight - cell.clientHeight]"
        )
        assert spilt == [0, 0]


def test_the_filter_shows_hosts_by_state(window: Browser, folder: Path) -> None:
    window.open(folder / "office.html", 1280)

    def shown() -> list[str]:
        return [name.text for name in window.find_all("h3") if name.is_displayed()]

    assert shown() == ["gpu-03", "gpu-02", "workshop", "gpu-01"]
    window.find("label[for=show-drift]").click()
    assert shown() == ["gpu-02", "workshop"]
    ActionChains(window.driver).send_keys(Keys.ARROW_RIGHT).perform()
    assert shown() == ["gpu-01"]
    window.find("label[for=show-all]").click()
    assert len(shown()) == 4


def test_light_and_dark_differ(window: Browser, folder: Path) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        window.open(folder / "office.html", 1280, scheme=scheme)
        grounds.append(window.run("return getComputedStyle(document.body).backgroundColor"))

    assert grounds == ["rgb(245, 246, 247)", "rgb(14, 17, 22)"]


def test_paper_shows_the_differences_of_cells_that_are_closed(
    window: Browser, folder: Path
) -> None:
    window.open(folder / "office.html", 1280, scheme="dark", media="print")

    def seen(selector: str) -> object:
        return window.run(f"return document.querySelector('{selector}').checkVisibility()")

    assert seen(f"{CELL} pre")
    assert not seen(f"#host-gpu-02 {MODELS} .runs")
    assert window.run("return getComputedStyle(document.body).color") == "rgb(23, 27, 33)"


def test_a_hostile_report_stays_text(window: Browser, folder: Path) -> None:
    bad = "</script></style><img src=x onerror=document.title='owned'><script>document.title=1//"
    finding = Finding("declared", "models", bad, bad, (f"+{bad}", "-\x1b[2J"), bad)
    page = folder / "hostile.html"
    long = judged("x" * 200, UNIT)
    page.write_text(render_html(check_at(0, judged(bad, finding), lost("b", bad), long)))
    window.open(page, 375)
    window.run("for (const fold of document.querySelectorAll('details')) fold.open = true")

    assert window.driver.title == "Drift of inventories/fleet.yaml: 3 hosts: 2 drift, 1 unreachable"
    assert window.find_all("img, script") == []
    assert window.find(f"{MODELS} ins").text == f"+{bad}"
    assert overflow(window) == 0
    assert window.complaints() == []


def test_a_script_that_got_into_the_page_would_not_run(window: Browser, folder: Path) -> None:
    page = folder / "script.html"
    script = "<script>document.title = 'owned'</script>"
    page.write_text(render_html(office()).replace("</main>", f"{script}</main>"))
    window.open(page, 1280)

    assert window.driver.title != "owned"
    assert any("Content Security Policy" in said for said in window.complaints())


def test_a_thousand_hosts_open_and_filter_quickly(window: Browser, folder: Path) -> None:
    page = folder / "thousand.html"
    page.write_text(render_html(large(1000), large_history(1000)))
    started = time.monotonic()
    window.open(page, 1280)
    opened = time.monotonic()
    window.find("label[for=show-drift]").click()
    shown = window.run(
        "return [...document.querySelectorAll('.host')].filter(e => e.offsetHeight).length"
    )
    filtered = time.monotonic()

    assert isinstance(shown, int)
    assert 50 < shown < 500
    assert opened - started < 10
    assert filtered - opened < 5
