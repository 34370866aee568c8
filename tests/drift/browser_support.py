"""A real Chromium, driven by its own driver; Debian's packages chromium and chromium-driver."""

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

MISSING = "no chromium or no chromedriver: apt-get install chromium chromium-driver"


class Browser:
    """One window, which can be a phone or a desk's screen, light or dark, or paper."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, page: Path, width: int, *, scheme: str = "light", media: str = "") -> None:
        """Show a file in a window of this width; ``media`` may be ``print``."""
        self.size(width, 812 if width < 500 else 800)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", media=media, features=features)
        self.driver.get(page.as_uri())

    def size(self, width: int, height: int) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )

    def command(self, name: str, **arguments: object) -> dict[str, object]:
        return self.driver.execute_cdp_cmd(name, arguments)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def find_all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def run(self, script: str) -> object:
        return self.driver.execute_script(script)

    def complaints(self) -> list[str]:
        """What the console says since it was asked last: errors, violations, failed loads."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def screenshot(self, width: int, tallest: int) -> bytes:
        """The whole page as PNG, down to ``tallest`` pixels."""
        height = self.run("return document.documentElement.scrollHeight")
        assert isinstance(height, int)
        self.size(width, min(height, tallest))
        self.run("window.scrollTo(0, 0)")
        picture = self.command("Page.captureScreenshot", format="png")["data"]
        assert isinstance(picture, str)
        return base64.b64decode(picture)


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser without a window; it may reach nothing but files."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        raise FileNotFoundError(MISSING)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # No sandbox: tests run as root in containers. No proxy answers, so nothing can be loaded.
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--proxy-server=127.0.0.1:9",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    driver.set_page_load_timeout(60)
    driver.set_script_timeout(60)
    try:
        yield Browser(driver)
    finally:
        driver.quit()
