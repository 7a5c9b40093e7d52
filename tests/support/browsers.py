"""Chromium for tests: the system's own, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = ("--headless", "--no-sandbox", "--disable-background-networking")
_SOFTWARE_WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


@contextmanager
def open_chromium(*, webgl: bool = False) -> Iterator[Any]:
    """Yield a browser, drawing WebGL without a graphics card if asked; skip the test where there is none."""
    chromium = next(filter(None, map(shutil.which, _NAMES)), None)
    if chromium is None:
        pytest.skip("Chromium is not installed")
    os.environ.setdefault("PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD", "1")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    drawing = _SOFTWARE_WEBGL if webgl else ("--disable-gpu",)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*_ARGUMENTS, *drawing])
        yield browser
        browser.close()
