"""A real browser, headless, on the pages of the two servers."""

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image, ImageStat
from playwright.sync_api import Page, expect, sync_playwright

PICTURES = os.environ.get("RLHF_PICTURES")
"""Folder that pictures go to; `make pictures` sets it to docs/pictures."""


@contextmanager
def opened(*flags: str, width: int = 1400, height: int = 1000) -> Iterator[Page]:
    """A page that waits half a minute for what it looks for; `flags` are Chromium's."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", *flags])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(30_000)
        expect.set_options(timeout=30_000)  # what is expected has a limit of its own, of 5 s
        yield page
        browser.close()


def use_colors(page: Page, scheme: Literal["light", "dark"]) -> None:
    """Show a page in light or dark, as a person chooses it in either user interface, or in the browser."""
    page.emulate_media(color_scheme=scheme)
    page.evaluate(
        """scheme => Object.entries({
            "color-scheme": JSON.stringify(scheme),
            "_mlflow_dark_mode_toggle_enabled": String(scheme === "dark"),
            "databricks-dark-mode-pref": scheme,
        }).forEach(([name, value]) => localStorage.setItem(name, value))""",
        scheme,
    )
    page.reload()


def brightness(page: Page) -> float:
    """The median of what is seen, from 0 (black) to 255 (white)."""
    return float(ImageStat.Stat(Image.open(io.BytesIO(page.screenshot())).convert("L")).median[0])


def take_picture(page: Page, name: str, folder: Path) -> None:
    """Keep what is seen: in the documentation where that was asked for, else beside the test."""
    page.wait_for_timeout(1000)  # what moves comes to rest
    page.screenshot(path=Path(PICTURES or folder) / f"{name}.png")
