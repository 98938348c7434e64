"""The page in a real Chromium: what every journey on it must keep to."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from serve_helpers import KEY, Service

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'kdrift[browser]'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
JOB_MS = 240_000
DESKTOP = {"viewport": {"width": 1440, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
_REFUSED = re.compile(r"Failed to load resource: the server responded with a status of 4\d\d")
expect = playwright.expect


@contextmanager
def browsing(service: Service, *, key: str | None = KEY, refused: bool = False, **context: Any) -> Iterator[Any]:
    """A page with its key given; no console error and no request to elsewhere by its end.

    `refused` is for journeys whose mistakes the service is to refuse: Chromium reports these answers by itself.
    """
    own = str(service.client.base_url).rstrip("/")
    errors: list[str] = []
    requests: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(accept_downloads=True, **{**DESKTOP, **context}).new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda each: errors.append(each.text) if each.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(own)
        page.wait_for_selector("#key")
        if key is not None:
            give_key(page, key)
        yield page
        browser.close()
    assert [each for each in errors if not (refused and _REFUSED.match(each))] == []
    assert all(url.startswith((f"{own}/", f"blob:{own}", "data:")) for url in requests)


def give_key(page: Any, key: str = KEY) -> None:
    page.fill("#key", key)
    page.press("#key", "Enter")
    page.wait_for_selector("#file", state="attached")


def accessible(page: Any) -> None:
    """Axe finds nothing, and nothing reaches beyond the width."""
    found = axe.Axe().run(page).response["violations"]
    assert found == [], [(each["id"], [node["html"][:120] for node in each["nodes"]][:3]) for each in found]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def keep(page: Any, folder: Path, name: str, *, full: bool = False) -> None:
    """Keep a picture of the page as it is."""
    picture = Image.open(io.BytesIO(page.screenshot(full_page=full)))
    picture.save(folder / f"{name}.webp", quality=80, method=6)


def choose(page: Any, path: Path) -> None:
    page.set_input_files("#file", str(path))
    page.wait_for_selector("#facts", timeout=60_000)


def see_result(page: Any) -> None:
    """Wait until all panels are drawn."""
    page.wait_for_selector("#result", timeout=JOB_MS)
    page.wait_for_selector(".panel canvas")
    for canvas in page.locator(".panel canvas").all():
        expect(canvas).not_to_have_attribute("data-drawn", "0", timeout=60_000)


def shown(page: Any) -> list[str]:
    return [panel.get_attribute("data-kind") for panel in page.locator(".panel[data-kind]").all()]


def value(page: Any, kind: str) -> float:
    """The value under the cursor in a panel."""
    return float(page.inner_text(f".panel[data-kind={kind}] .value").replace("−", "-"))


def scale(page: Any, kind: str) -> tuple[str, str]:
    low, high = page.locator(f".panel[data-kind={kind}] .scale span").all_inner_texts()
    return low, high


def images_of(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        found = {name: file[name][:] for name in file}
    found["mean"] = found.pop("reconstruction")
    if "reference" in found:
        found["error"] = np.abs(found["mean"] - found["reference"])
    return found
