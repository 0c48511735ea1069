"""A real headless Chromium that can reach no network, and what it complains of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, sync_playwright

ARGUMENTS = (
    "--no-sandbox",  # which root cannot have
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PHONE = 390  # pixels


@dataclass
class Window:
    """A page, and what went wrong in it: errors, failed requests, and requests to other hosts."""

    page: Page
    screenshots: Path
    complaints: list[str] = field(default_factory=list)

    def keep(self, name: str) -> Path:
        """Keep a picture of the whole page."""
        path = self.screenshots / f"{name}.png"
        self.page.screenshot(path=path, full_page=True)
        print(f"screenshot: {path}")
        return path

    @property
    def width(self) -> int:
        """How wide its content is, in pixels."""
        return int(self.page.evaluate("document.documentElement.scrollWidth"))


@contextmanager
def window(folder: Path, *, dark: bool = False, width: int = 1200) -> Iterator[Window]:
    """Open a window; pictures go to the folder, or where CROSSMODAL_SCREENSHOTS says."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium; `bash scripts/test.sh --slow` installs Debian's where it may")
    screenshots = Path(os.environ.get("CROSSMODAL_SCREENSHOTS", folder))
    screenshots.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
        )
        opened = Window(context.new_page(), screenshots)
        told = opened.complaints
        opened.page.on("console", lambda one: told.append(one.text) if one.type in ("error", "warning") else None)
        opened.page.on("pageerror", lambda error: told.append(str(error)))

        def tell_failed(request: Request) -> None:
            if request.failure != "net::ERR_ABORTED":  # which the page itself took back, as where one turns to another
                told.append(f"failed ({request.failure}): {request.url[:200]}")

        opened.page.on("requestfailed", tell_failed)

        def refuse_others(route: object, request: object) -> None:
            url = request.url  # type: ignore[attr-defined]
            if url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:", "http://localhost:")):
                route.continue_()  # type: ignore[attr-defined]
            else:
                told.append(f"asked for {url[:200]}")
                route.abort()  # type: ignore[attr-defined]

        context.route("**/*", refuse_others)
        yield opened
        browser.close()
