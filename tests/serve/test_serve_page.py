"""The page's journey in headless Chromium: the example and a real scan, from the choice to the download."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest

from serve_helpers import KEY, Service, phantom_file, running

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'kdrift[browser]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium, such as the package chromium of Debian"),
]
JOB_MS = 180_000


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("page")
    args = {"storage": str(folder / "store"), "samplers": {"replicas": 2, "device": "cpu"}}
    with running(folder, args, key=KEY) as started:
        yield started


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the screenshots, to be looked at (KDRIFT_SCREENSHOTS)."""
    return Path(os.environ.get("KDRIFT_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))


@pytest.fixture
def page(service: Service) -> Iterator[Any]:
    """The page with its key given; no console error and no request to elsewhere by its end."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        errors: list[str] = []
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(str(service.client.base_url))
        page.wait_for_selector("#key-row:visible")
        page.fill("#key", KEY)
        page.press("#key", "Tab")
        page.wait_for_selector("#method option[value=annealed]", state="attached")
        yield page
        browser.close()
    assert not errors
    own = str(service.client.base_url).rstrip("/")
    assert all(url.startswith((f"{own}/", f"blob:{own}", "data:")) for url in requests)


def wait_for_state(page: Any, pattern: str) -> None:
    playwright.expect(page.locator("#state")).to_have_text(re.compile(pattern), timeout=JOB_MS)


def assert_result(page: Any, num_slices: int) -> None:
    page.wait_for_selector("#result:visible", timeout=JOB_MS)
    assert page.inner_text("#level") in ("trusted", "caution", "not trusted")
    assert "left-out k-space" in page.inner_text("#sentence")
    assert page.locator("#verdict").bounding_box()["y"] < page.locator("#mean").bounding_box()["y"]
    for kind in ("mean", "std"):
        playwright.expect(page.locator(f"#{kind}")).to_have_attribute("src", re.compile("^blob:"))
        page.wait_for_timeout(300)
        assert page.locator(f"#{kind}").bounding_box()["height"] > 200, "the image is not drawn"
        assert float(page.inner_text(f"#{kind}-top").split()[0]) > 0
    assert page.is_visible("#slice-row") == (num_slices > 1)
    with page.expect_download() as download:
        page.click("#download")
    with h5py.File(io.BytesIO(Path(download.value.path()).read_bytes())) as file:
        assert len(file["reconstruction"]) == num_slices
        assert float(file["std"][:].max()) > 0
    with page.expect_download() as download:
        page.click("#panel")
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")


def test_the_example(page: Any, pictures: Path) -> None:
    page.check("[value=example]")
    page.fill("#samples", "4")
    page.fill("#steps", "10")
    page.screenshot(path=str(pictures / "form.png"), full_page=True)
    page.click("#submit")
    wait_for_state(page, r"evaluation \d+ of \d+, about \d+ s left")
    page.screenshot(path=str(pictures / "running.png"), full_page=True)
    assert_result(page, 1)
    assert "dB (zero-filled" in page.inner_text("#figures")
    page.screenshot(path=str(pictures / "example.png"), full_page=True)


def test_a_slice_that_is_not_trusted_is_shown_so(page: Any, pictures: Path) -> None:
    page.check("[value=example]")
    page.fill("#samples", "2")
    page.fill("#steps", "4")
    page.select_option("#mistrust", "fallback")
    page.click("#submit")
    page.wait_for_selector("#result:visible", timeout=JOB_MS)
    assert page.inner_text("#level") == "not trusted"
    assert page.get_attribute("#level", "class") == "not-trusted"
    assert page.inner_text("#sentence").startswith("TV predicts left-out k-space better")
    assert page.inner_text("#sentence").endswith("TV is given in its place")
    assert page.inner_text("#mean-caption") == "tv, in place of the mean"
    page.screenshot(path=str(pictures / "not_trusted.png"), full_page=True)
    page.select_option("#method", "tv")
    page.click("#submit")
    page.wait_for_selector("#result:visible", timeout=JOB_MS)
    assert not page.is_visible("#verdict")
    assert page.inner_text("#mean-caption") == "mean"


def test_each_slice_has_its_verdict(page: Any, pictures: Path, service: Service, tmp_path: Path) -> None:
    page.set_input_files("#file", str(phantom_file(tmp_path / "volume.h5", 3)))
    for name, value in (("samples", "2"), ("steps", "3"), ("acceleration", "2"), ("acs", "12")):
        page.fill(f"#{name}", value)
    with page.expect_response(re.compile(r"/v1/reconstructions/[0-9a-f]{32}$")) as answer:
        page.click("#submit")
    page.wait_for_selector("#result:visible", timeout=JOB_MS)
    verdicts = service.status(answer.value.json()["id"])["verdicts"]
    for index in ("0", "1", "2"):
        page.fill("#slice", index)
        playwright.expect(page.locator("#slice-number")).to_have_text(index)
        said = f"{page.inner_text('#level')}: {page.inner_text('#sentence')}"
        assert said == verdicts[index]["sentence"]
    assert re.match(r"slices: (\d [a-z ]+( \([\d, ]+\))?(, )?)+$", page.inner_text("#verdicts"))
    page.screenshot(path=str(pictures / "volume.png"), full_page=True)


def test_cancel_and_mistakes_are_shown(page: Any, pictures: Path) -> None:
    page.click("#submit")
    page.wait_for_selector("#error:visible")
    assert "choose a file first" in page.inner_text("#error")
    page.check("[value=example]")
    page.fill("#steps", "3000")
    page.click("#submit")
    wait_for_state(page, r"evaluation \d+")
    page.click("#cancel")
    page.wait_for_selector("#error:visible")
    assert "cancelled on request" in page.inner_text("#error")
    page.screenshot(path=str(pictures / "cancelled.png"), full_page=True)


def test_a_real_scan(page: Any, pictures: Path, shared_data: Path) -> None:
    scan = shared_data / "kspace" / "graz_t2_4ch.h5"
    if not scan.is_file():
        pytest.skip(f"{scan} is absent")
    page.set_input_files("#file", str(scan))
    assert page.is_checked("[value=file]")
    page.fill("#samples", "4")
    page.fill("#steps", "20")
    page.click("#submit")
    assert_result(page, 1)
    assert page.inner_text("#title") == scan.name
    page.screenshot(path=str(pictures / "graz.png"), full_page=True)
