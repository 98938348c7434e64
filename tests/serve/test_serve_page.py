"""The page's journeys in headless Chromium: desktop, phone, light, dark, keyboard alone, reload in mid-run, bad files.

`KDRIFT_SCREENSHOTS=FOLDER` keeps its pictures, which are to be looked at; those of the documentation are among them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from page_helpers import (
    CHROMIUM,
    DESKTOP,
    JOB_MS,
    PHONE,
    accessible,
    browsing,
    choose,
    expect,
    give_key,
    images_of,
    keep,
    scale,
    see_result,
    shown,
    value,
)
from serve_helpers import KEY, LONG, Service, phantom_file, running, tiny_prior

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium, such as the package chromium of Debian"),
]
EVERY = ["mean", "std", "reference", "error", "zero_filled", "lower", "upper", "samples"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("page")
    priors = {"brain-complex": "brain-complex", "tiny": str(tiny_prior(folder / "tiny"))}
    args = {"storage": str(folder / "store"), "samplers": {"replicas": 2, "device": "cpu"}, "priors": priors}
    with running(folder, args, key=KEY) as started:
        started.client.headers["Authorization"] = f"Bearer {KEY}"
        yield started


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the screenshots, to be looked at (KDRIFT_SCREENSHOTS)."""
    return Path(os.environ.get("KDRIFT_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))


@pytest.fixture(scope="module")
def example(service: Service) -> str:
    """A finished job of the example, with the prior that it is for."""
    plan = {"num_samples": 4, "settings": {"num_steps": 12}, "keep_samples": True}
    job_id = service.accepted(example="phantom", plan=plan, mask={"kind": "equispaced"})
    for _ in range(8):  # minutes, on a busy machine
        job = service.client.get(f"/v1/reconstructions/{job_id}", params={"wait": 55}).json()
        if job["state"] not in ("queued", "running"):
            break
    assert job["state"] == "done"
    return job_id


@pytest.fixture
def nothing_left(service: Service) -> Iterator[None]:
    """Whatever a journey left behind is cancelled."""
    yield
    for state in ("queued", "running"):
        for job in service.client.get("/v1/reconstructions", params={"state": state}).json()["reconstructions"]:
            service.cancel(job["id"])


def of_tiny(page: Any, **values: str) -> None:
    """Ask for the prior that is fast, with few steps."""
    page.select_option("#prior", "tiny")
    for name, text in {"samples": "2", "steps": "3", **values}.items():
        page.fill(f"#{name}", text)


def test_a_file_from_the_choice_to_the_downloads(service: Service, pictures: Path, tmp_path: Path) -> None:
    with browsing(service, color_scheme="light") as page:
        keep(page, pictures, "start")
        accessible(page)
        assert "Research only" in page.inner_text("footer")
        choose(page, phantom_file(tmp_path / "volume.h5", 3))
        assert "fully sampled" in page.inner_text("#facts")
        assert page.input_value("#mask") == "equispaced"
        assert page.input_value("#acceleration") == "2"
        assert page.is_checked("[name=method][value=annealed]")
        groups = page.locator("fieldset.group legend").all_inner_texts()
        assert [each.split("\n")[0].split(" ")[0] for each in groups] == ["Posterior", "Classical"]
        expect(page.locator("label.method.chosen .time")).to_have_text(re.compile(r"evaluation|s|min"))
        of_tiny(page)
        page.evaluate("scrollTo(0, 0)")
        keep(page, pictures, "form")
        accessible(page)
        page.click("#submit")
        see_result(page)
        assert re.search(r"#/jobs/[0-9a-f]{32}", page.url)
        assert shown(page) == EVERY
        assert "posterior samples" in page.inner_text("#ran")
        assert "SHA-256" in page.inner_text("#ran")
        accessible(page)
        kept = {}
        buttons = page.locator(".files button")
        for button in buttons.all():
            with page.expect_download() as download:
                button.click()
            kept[button.get_attribute("id")] = Path(download.value.path())
        assert set(kept) == {f"get-{n}" for n in ("h5", "npz", "png", "nifti", "dicom", "ismrmrd", "bart", "panel")}
        assert all(path.stat().st_size > 500 for path in kept.values())
        looked_at(page, images_of(kept["get-h5"]))
        slices_turn(page, service)


def looked_at(page: Any, images: dict[str, np.ndarray]) -> None:
    """Values under the cursor are those of the file; cursor, zoom and window are shared; threshold and reset work."""
    page.evaluate("scrollTo(0, 0)")
    box = page.locator(".panel[data-kind=mean] canvas").bounding_box()
    where = (box["x"] + box["width"] * 0.55, box["y"] + box["height"] * 0.4)
    page.mouse.move(*where)
    row, col = map(int, re.match(r"Row (\d+), column (\d+)", page.inner_text(".place")).groups())
    assert (row, col) == (int(0.4 * 32), int(0.55 * 32))
    for kind in EVERY:
        image = images[kind][1, 0] if kind == "samples" else images[kind][1]
        assert value(page, kind) == pytest.approx(float(image[row, col]), rel=6e-3), kind
    before, spread = scale(page, "reference"), scale(page, "std")
    page.mouse.down()
    page.mouse.move(where[0] + 60, where[1] - 40, steps=4)
    page.mouse.up()
    assert scale(page, "reference") != before
    assert scale(page, "reference") == scale(page, "mean") == scale(page, "upper")
    assert scale(page, "std") == spread == scale(page, "error")
    drawn = page.evaluate("document.querySelector('.panel[data-kind=error] canvas').toDataURL()")
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    assert page.evaluate("document.querySelector('.panel[data-kind=error] canvas').toDataURL()") != drawn, "zoom"
    page.get_by_role("button", name="Reset").click()
    assert scale(page, "reference") == before
    plain = page.evaluate("document.querySelector('.panel[data-kind=mean] canvas').toDataURL()")
    page.get_by_label("Uncertainty on the mean").check()
    assert page.evaluate("document.querySelector('.panel[data-kind=mean] canvas').toDataURL()") != plain, "overlay"
    assert re.search(r"% of white: \d+ % of pixels", page.inner_text(".overlay"))
    page.get_by_label("Uncertainty on the mean").uncheck()
    page.get_by_role("button", name="Lower", exact=True).click()
    assert "lower" not in shown(page)


def slices_turn(page: Any, service: Service) -> None:
    """By slider, wheel, keys and strip; the address holds the slice, which a reload keeps, and words its verdict."""
    job_id = re.search(r"[0-9a-f]{32}", page.url)[0]
    verdicts = service.status(job_id)["verdicts"]
    number = page.locator("#slice-number")
    expect(number).to_have_text("1")
    page.fill("#slice", "2")
    expect(number).to_have_text("2")
    page.locator(".panel[data-kind=mean] canvas").hover()
    page.mouse.wheel(0, -100)
    expect(number).to_have_text("1")
    page.focus(".panels")
    page.keyboard.press("PageUp")
    expect(number).to_have_text("0")
    page.get_by_role("button", name=re.compile("^slice 2")).click()
    for index in ("2", "0"):
        page.get_by_role("button", name=re.compile(f"^slice {index}")).click()
        expect(number).to_have_text(index)
        assert page.inner_text("#level").lower() == verdicts[index]["level"]
        said = verdicts[index]["sentence"].partition(": ")[2]
        assert page.inner_text("#sentence").lower().startswith(said.lower())
    assert page.url.endswith("?slice=0")
    page.reload()
    see_result(page)
    expect(number).to_have_text("0")


def test_a_file_is_sent_once_and_kept_over_a_reload(service: Service, tmp_path: Path) -> None:
    def uploads() -> list[str]:
        return [each["name"] for each in service.client.get("/v1/uploads").json()]

    with browsing(service) as page:
        sent: list[str] = []
        page.on("request", lambda each: sent.append(each.method) if "/v1/uploads" in each.url else None)
        choose(page, phantom_file(tmp_path / "once.h5"))
        assert re.search(r"#/\?upload=[0-9a-f]{32}$", page.url)
        page.reload()
        page.wait_for_selector("#facts", timeout=60_000)
        assert "once.h5" in page.inner_text("#facts")
        page.check("[name=method][value=cg_sense]")
        page.click("#submit")
        see_result(page)
        assert [method for method in sent if method != "GET"] == ["POST"]
        page.go_back()
        page.wait_for_selector("#facts")
        time = page.locator("label.method.chosen .time")
        expect(time).to_have_text(re.compile(r"^(under 1|\d+) s$"))
        assert "once.h5" in uploads()
        choose(page, phantom_file(tmp_path / "another.h5"))
        expect(page.locator("#facts")).to_contain_text("another.h5")
        assert "another.h5" in uploads()
        assert "once.h5" not in uploads()
        address = page.url
        service.client.delete(f"/v1/uploads/{address[-32:]}", headers={"Tus-Resumable": "1.0.0"})
    with browsing(service, refused=True) as page:
        page.goto(address)
        expect(page.locator("#source-error")).to_contain_text("no upload of this id")
        assert "upload=" not in page.url


@pytest.mark.usefixtures("nothing_left")
def test_the_image_forms_and_a_reload_goes_on(service: Service, pictures: Path) -> None:
    with browsing(service) as page:
        page.click("#example")
        page.wait_for_selector("#facts", timeout=60_000)
        assert "simulated" in page.inner_text("#facts")
        page.fill("#steps", "300")
        page.click("#submit")
        page.wait_for_selector(".forming img[alt^=mean]", timeout=JOB_MS)
        expect(page.locator("#step")).to_have_text(re.compile(r"Evaluation \d+ of \d+"), timeout=JOB_MS)
        address = page.url
        page.go_back()
        page.wait_for_selector("#facts")
        assert page.input_value("#steps") == "300"
        page.go_forward()
        assert page.url == address
        page.reload()  # the key is still there
        page.wait_for_selector(".forming img[alt^=mean]", timeout=JOB_MS)
        expect(page.locator("dl.facts")).to_contain_text(re.compile(r"Time left\s*about \d+ (s|min)"), timeout=JOB_MS)
        expect(page.locator("dl.facts")).to_contain_text(re.compile(r"Data residual\s*[\d.]+ %"))
        page.wait_for_selector(".trace polyline", timeout=JOB_MS)
        keep(page, pictures, "running")
        accessible(page)
        page.click("#cancel")
        expect(page.locator("#why")).to_contain_text("ancelled on request", timeout=30_000)
        keep(page, pictures, "cancelled")
        accessible(page)


@pytest.mark.parametrize(
    ("name", "options"),
    [("light", {"color_scheme": "light"}), ("dark", {"color_scheme": "dark"}),
     ("phone", {**PHONE, "color_scheme": "dark", "reduced_motion": "reduce"})],
    ids=["light", "dark", "phone"],
)  # fmt: skip
def test_a_result(service: Service, pictures: Path, example: str, name: str, options: dict[str, Any]) -> None:
    with browsing(service, **options) as page:
        page.goto(f"{page.url.partition('#')[0]}#/jobs/{example}")
        see_result(page)
        assert page.inner_text("#level").lower() in ("trusted", "caution", "not trusted")
        assert "left-out k-space" in page.inner_text("#sentence")
        assert "dB" in page.inner_text("#figures")
        tops = [page.locator(place).bounding_box()["y"] for place in ("#verdict", ".panels", "#figures-title")]
        assert tops == sorted(tops)
        accessible(page)
        page.evaluate("scrollTo(0, 0)")
        keep(page, pictures, f"result_{name}")
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.click("#theme")
        page.click("#theme")
        other = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (other != background) == (name == "light")  # system, light, dark
        page.reload()
        see_result(page)
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_by_keyboard_alone(service: Service, pictures: Path) -> None:
    with browsing(service, key=None) as page:
        tab_to(page, "#key")
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        page.wait_for_selector("#example")
        tab_to(page, "#example")
        page.keyboard.press("Enter")
        page.wait_for_selector("#facts", timeout=60_000)
        tab_to(page, "[name=method]:checked")
        for _ in range(40):
            if page.is_checked("[name=method][value=cg_sense]"):
                break
            page.keyboard.press("ArrowDown")
        tab_to(page, "#submit")
        page.keyboard.press("Enter")
        see_result(page)
        assert shown(page) == ["mean", "reference", "error", "zero_filled"]
        assert "draws no samples" in page.inner_text("#verdict")
        tab_to(page, ".panels")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("Shift+ArrowDown")
        assert page.inner_text(".place").startswith("Row 106, column 95")
        before = scale(page, "mean")
        page.keyboard.press("w")
        page.keyboard.press("s")
        assert scale(page, "mean") != before
        page.keyboard.press("+")
        assert page.inner_text(".zoom output") == "125 %"
        page.keyboard.press("0")
        assert (page.inner_text(".zoom output"), scale(page, "mean")) == ("100 %", before)
        page.keyboard.press("?")
        expect(page.locator("dialog.help")).to_be_visible()
        accessible(page)
        keep(page, pictures, "keys")
        page.keyboard.press("Escape")
        expect(page.locator("dialog.help")).to_be_hidden()


def tab_to(page: Any, place: str) -> None:
    for _ in range(80):
        if page.evaluate("place => document.activeElement.matches(place)", place):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not reach {place}")


def test_what_was_measured_with_gaps_gets_no_mask(service: Service, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(2, 4, 32, 32))
    kspace = (noise[0] + 1j * noise[1]).astype(np.complex64)
    kspace[..., 1:12:2] = kspace[..., 21:32:2] = 0
    np.save(tmp_path / "gaps.npy", kspace)
    with browsing(service) as page:
        choose(page, tmp_path / "gaps.npy")
        assert "undersampled" in page.inner_text("#facts")
        assert "no mask" in page.inner_text(".why")
        assert page.input_value("#mask") == ""
        page.check("[name=method][value=cg_sense]")
        page.click("#submit")
        see_result(page)
        assert shown(page) == ["mean", "zero_filled"]
        assert "no reference" in page.inner_text("#result")


@pytest.mark.parametrize(
    ("name", "coils", "mask", "panels"),
    [("graz_t2_4ch.h5", 4, "equispaced", EVERY),
     ("ucb_prospective_8ch.npy", 8, "", ["mean", "std", "zero_filled", "lower", "upper", "samples"])],
    ids=["fully-sampled", "undersampled"],
)  # fmt: skip
def test_a_measured_scan(
    service: Service, pictures: Path, shared_data: Path, name: str, coils: int, mask: str, panels: list[str]
) -> None:
    """What was measured is proposed for as it was measured, and its posterior is looked at."""
    with browsing(service, color_scheme="dark") as page:
        choose(page, shared_data / "kspace" / name)
        assert re.search(rf"Coils\s+{coils}\b", page.inner_text("#facts"))
        assert page.locator("#facts .tag.gaps").count() == (mask == "")
        assert page.input_value("#mask") == mask
        for field, text in (("samples", "4"), ("steps", "8")):
            page.fill(f"#{field}", text)
        page.click("#submit")
        see_result(page)
        assert shown(page) == panels
        assert page.inner_text("#level").lower() in ("trusted", "caution", "not trusted")
        assert "brain-complex" in page.inner_text("#ran")
        accessible(page)
        page.evaluate("scrollTo(0, 0)")
        keep(page, pictures, f"measured_{name.partition('_')[0]}")


def test_mistakes_are_told_beside_what_caused_them(service: Service, pictures: Path, tmp_path: Path) -> None:
    scan = phantom_file(tmp_path / "scan.h5")
    (tmp_path / "broken.h5").write_bytes(scan.read_bytes()[:4000])
    (tmp_path / "notes.npy").write_text("this is no k-space")
    np.savez(tmp_path / "empty.npz")
    with browsing(service, refused=True, color_scheme="light") as page:
        for name in ("notes.npy", "empty.npz", "broken.h5"):
            page.set_input_files("#file", str(tmp_path / name))
            expect(page.locator("#source-error")).to_contain_text(name, timeout=60_000)
            assert page.locator("#submit").count() == 0
        keep(page, pictures, "bad_file")
        accessible(page)
        choose(page, scan)
        assert page.locator("#source-error").count() == 0
        of_tiny(page, samples="1000")
        page.click("#submit")
        expect(page.locator("#samples-error")).to_contain_text("t most num_samples 64")
        assert page.evaluate("document.activeElement.id") == "samples"
        accessible(page)
        page.goto(f"{page.url.partition('#')[0]}#/jobs/{'0' * 32}")
        expect(page.locator(".error")).to_contain_text("no reconstruction of this id")


def test_a_key_is_asked_for_and_forgotten(service: Service) -> None:
    with browsing(service, key=None, refused=True) as page:
        page.fill("#key", "a-key-that-nobody-has")
        page.press("#key", "Enter")
        expect(page.locator(".error")).to_be_visible()
        accessible(page)
        give_key(page)
        assert KEY not in page.evaluate("JSON.stringify(localStorage)")
        page.reload()
        page.wait_for_selector("#file", state="attached")
        page.get_by_role("button", name="Forget the API key").click()
        page.wait_for_selector("#key")
        assert page.evaluate("sessionStorage.length") == 0


@pytest.mark.usefixtures("nothing_left")
def test_the_list_cancels_and_deletes(service: Service, pictures: Path, example: str, tmp_path: Path) -> None:
    scan = phantom_file(tmp_path / "long.h5")
    job_id = service.accepted(scan, plan={"settings": LONG, "num_samples": 2, "check": False}, prior="tiny")
    with browsing(service, **DESKTOP) as page:
        page.get_by_role("link", name="Jobs", exact=True).click()
        row = page.locator(".joblist li").filter(has_text="long.h5")
        expect(row).to_contain_text(re.compile("waiting|running"))
        expect(page.locator(".joblist li").filter(has_text="phantom").filter(has_text="Annealed").first).to_be_visible()
        keep(page, pictures, "jobs")
        accessible(page)
        row.get_by_role("button", name="Cancel long.h5").click()
        expect(row).to_contain_text("cancelled", timeout=30_000)
        row.get_by_role("button", name="Delete long.h5").click()
        row.get_by_role("button", name="Really delete long.h5").click()
        expect(row).to_have_count(0)
        page.get_by_role("link", name="phantom").last.click()
        page.wait_for_selector("article.job")
    assert service.client.get(f"/v1/reconstructions/{job_id}").status_code == 404
    assert service.client.get(f"/v1/reconstructions/{example}").status_code == 200
