"""A browser for the tests of pages."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# How long a page may take on a machine that others use too.
_PATIENCE_MS = 120_000


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium, headless."""
    found = os.environ.get("FACTLAB_CHROMIUM") or next(
        filter(None, map(shutil.which, _NAMES)), None
    )
    with sync_playwright() as playwright:
        if found is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("needs Chromium: apt-get install chromium, or name it in FACTLAB_CHROMIUM")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


class Window:
    """A page, and what must not happen on it.

    Attributes:
        page: the page.
        errors: that its console shows.
        strangers: addresses that are not of this machine, which it asked for.
    """

    def __init__(self, page: Page) -> None:
        self.page, self.errors, self.strangers = page, list[str](), list[str]()
        page.set_default_timeout(_PATIENCE_MS)
        page.on("console", lambda m: m.type == "error" and self.errors.append(m.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.route("**/*", self._meet)

    def forgive(self) -> None:
        """Take refusals of the server, which a browser notes by itself, for no errors."""
        told = "Failed to load resource"
        self.errors[:] = [error for error in self.errors if not error.startswith(told)]

    def _meet(self, route) -> None:
        url = route.request.url
        if url.startswith(("http://127.0.0.1:", "file:", "data:")):
            route.continue_()
        else:
            self.strangers.append(url)
            route.abort()


LOOKS = {
    "wide-light": ({"width": 1280, "height": 900}, "light"),
    "narrow-dark": ({"width": 390, "height": 844}, "dark"),
}


@contextmanager
def _opened(look: str, request, browser: Browser, tmp_path: Path) -> Iterator[Window]:
    size, scheme = LOOKS[look]
    context = browser.new_context(viewport=size, color_scheme=scheme)
    window = Window(context.new_page())
    failed_before = request.session.testsfailed
    yield window
    if request.session.testsfailed > failed_before:
        window.page.screenshot(path=tmp_path / "page.png", full_page=True)
    context.close()
    assert not window.strangers
    assert not window.errors


@pytest.fixture(params=LOOKS)
def window(request, browser, tmp_path) -> Iterator[Window]:
    """A window, wide and light or narrow and dark; a picture of it is kept if the test fails."""
    with _opened(request.param, request, browser, tmp_path) as window:
        yield window


@pytest.fixture
def wide_window(request, browser, tmp_path) -> Iterator[Window]:
    """The wide one alone, where the look makes no difference."""
    with _opened("wide-light", request, browser, tmp_path) as window:
        yield window
