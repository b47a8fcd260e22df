"""A real Chromium, for the tests of what people look at; skipped without one, unless `make browser` asks for them."""

from __future__ import annotations

import os
import shutil

import pytest

WANTED = os.environ.get("RUNWARE_FLOW_BROWSER") == "1"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def chromium():
    """The browser."""
    if not WANTED:
        pytest.skip("needs a browser: make browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium):
    """Open a file, or an address; whatever the page complains of, or asks the network for, fails the test."""
    complaints, contexts = [], []

    def opener(path, *, width=1200, height=860, scheme="light", scripts=True):
        context = chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, java_script_enabled=scripts
        )
        contexts.append(context)
        page = context.new_page()
        address = path if isinstance(path, str) else path.as_uri()
        own = address if isinstance(path, str) else "file:"
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("data:", "blob:", own)) or complaints.append(f"asked for {request.url}")
            ),
        )
        page.goto(address)
        return page

    yield opener
    for context in contexts:
        context.close()
    assert complaints == []
