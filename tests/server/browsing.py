"""A headless Chromium, and pages in it that fail a test if they complain."""

import shutil
from contextlib import contextmanager

import pytest
from playwright.sync_api import expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NEEDS_CHROMIUM = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: on Debian, apt install chromium"),
]
PHONE = {"width": 390, "height": 844}
expect.set_options(timeout=30_000)  # another program may take the core from a browser


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@contextmanager
def opened(browser, url, **options):
    """A page that fails the test if it complains, or asks for anything from elsewhere."""
    context = browser.new_context(**{"color_scheme": "light", "viewport": {"width": 1280, "height": 900}} | options)
    page = context.new_page()
    page.set_default_timeout(60_000)
    complaints, foreign = [], []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    own = (url, "data:", f"blob:{url}")
    page.on("request", lambda asked: foreign.append(asked.url) if not asked.url.startswith(own) else None)
    page.goto(url)
    yield page
    context.close()
    assert (complaints, foreign) == ([], [])
