"""Draw the pictures of docs/: ``python tests/drift/screenshots.py docs/images``."""

import sys
import tempfile
from pathlib import Path

from browser_support import Browser, browser
from output_support import large, large_history, office, office_history

from llamaherd.drift.html import render_html
from llamaherd.drift.report import COMPONENTS

OFFICE = (f"#host-gpu-02 .c{COMPONENTS.index('llama_server')} > summary",)
PHONE = (f"#host-gpu-02 .c{COMPONENTS.index('opencode')} > summary",)
PICTURES = {
    "drift-office-light": ("office", 1280, 1190, "light", OFFICE),
    "drift-office-dark": ("office", 1280, 1190, "dark", OFFICE),
    "drift-phone-light": ("office", 375, 1240, "light", PHONE),
    "drift-phone-dark": ("office", 375, 1240, "dark", PHONE),
    "drift-60-hosts": ("large", 1280, 1150, "light", ()),
}


def main(folder: Path) -> None:
    """Write every picture into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, browser() as window:
        pages = {"office": Path(scratch, "office.html"), "large": Path(scratch, "large.html")}
        pages["office"].write_text(render_html(office(), office_history()))
        pages["large"].write_text(render_html(large(), large_history()))
        for name, (page, width, tallest, scheme, cells) in PICTURES.items():
            window.open(pages[page], width, scheme=scheme)
            _draw(window, folder / f"{name}.png", width, tallest, cells)


def _draw(window: Browser, path: Path, width: int, tallest: int, cells: tuple[str, ...]) -> None:
    for cell in cells:
        window.find(cell).click()
    window.run("document.activeElement.blur()")
    path.write_bytes(window.screenshot(width, tallest))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
