"""What a researcher sees in MLflow's own pages, in headless Chromium: runs, curves, a search, data, a model version."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from batch_helpers import PLAN, batch_values, make_inputs
from kdrift.cli import main
from kdrift.evaluation.evaluate import evaluate
from kdrift.evaluation.evaluate_config import EvaluateConfig
from kdrift.runs import tracking
from kdrift.runs.config import parse, to_dict
from kdrift.training.trainer import train
from kdrift.tuning.search import tune
from mlflow_helpers import Server
from training_helpers import tiny_config, write_images
from tuning_helpers import tiny_search, write_inputs

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'kdrift[browser]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WITHOUT_ASSISTANT = {"x": 0, "y": 0, "width": 1035, "height": 1000}
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium, such as the package chromium of Debian"),
]


@dataclass(frozen=True)
class Filled:
    """A server and what is on it."""

    uri: str
    experiment: str
    training: str
    search: str
    evaluation: str


@pytest.fixture(scope="module")
def filled(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """A server with a training, its registered prior, a search and an evaluation, all of phantoms and small."""
    folder = tmp_path_factory.mktemp("mlflow")
    server = Server(folder)
    server.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KDRIFT_PRESETS", str(folder / "presets"))
            patch.setenv("MLFLOW_TRACKING_URI", server.uri)
            config = tiny_config(
                write_images(folder / "images.npz"), total_images=480, name="phantom-prior",
                monitoring={"log_every_images": 40, "validate_every_images": 120, "validation_images": 4,
                            "num_samples": 4, "sample_steps": 4, "validation_sigmas": [0.1, 1.0]},
                checkpoint={"every_images": 480, "keep": 1},
            )  # fmt: skip
            trained = train(config, folder / "train", tracking_uri=server.uri, quiet=True, echo=print)
            assert main(["promote", "phantom-prior", "--tracking-uri", server.uri]) == 0
            search = tiny_search(*write_inputs(folder), name="phantom-search")
            tuned = tune(search, folder / "tune", tracking_uri=server.uri, quiet=True, echo=print)
            inputs = make_inputs(folder / "inputs")
            batch = batch_values(inputs, folder / "x")
            values = {
                "name": "phantom-evaluation", "store": inputs["store"], "prior": inputs["prior"],
                "out": str(folder / "evaluate"), "masks": {"eq2": batch["mask"]}, "tracking_uri": server.uri,
                "methods": {"zero_filled": {"method": "zero_filled"}, "cg_sense": {"method": "cg_sense"},
                            "annealed": {key: to_dict(PLAN)[key] for key in ("settings", "num_samples", "seed")}},
            }  # fmt: skip
            evaluate(parse(EvaluateConfig, values), echo=print, quiet=True)
        mlflow = tracking.client(server.uri)
        experiment = mlflow.get_experiment_by_name(tracking.EXPERIMENT)
        (evaluation,) = mlflow.search_runs([experiment.experiment_id], "attributes.run_name = 'phantom-evaluation'")
        yield Filled(server.uri, experiment.experiment_id, trained.run_id, tuned.run_id, evaluation.info.run_id)
    finally:
        server.stop()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the screenshots, to be looked at (KDRIFT_SCREENSHOTS)."""
    return Path(os.environ.get("KDRIFT_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))


@pytest.fixture
def page() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1400, "height": 1000})
        browser.close()


def shot(page: Any, filled: Filled, path: str, picture: Path, *words: str, charts: int = 0) -> str:
    """Open a page of MLflow, wait for words and charts on it, take a picture, return its text."""
    page.goto(f"{filled.uri}/#/{path}?workflowType=machine_learning")
    for word in words:
        page.get_by_text(word).first.wait_for(timeout=120_000)
    if charts:
        page.wait_for_function(f"document.querySelectorAll('.js-plotly-plot .xtick').length >= {charts}")
    page.wait_for_timeout(1000)
    page.screenshot(path=str(picture), clip=WITHOUT_ASSISTANT)
    text: str = page.inner_text("body")
    return text


def test_pages(page: Any, filled: Filled, pictures: Path) -> None:
    """A researcher finds what was run, on which data, how it went, and what to use."""
    page.goto(filled.uri)
    page.get_by_text("Model training").first.click(timeout=120_000)
    runs = f"experiments/{filled.experiment}/runs"
    text = shot(page, filled, runs, pictures / "runs.png", "phantom-prior", "phantom-search")
    assert all(word in text for word in ("phantom-evaluation", "store.zarr", "phantom.h5", "images.npz"))
    text = shot(page, filled, f"{runs}/{filled.training}", pictures / "training.png", "A score prior")
    assert re.search(r"kind\s*:\s*training", text)
    assert "images.npz" in text
    shot(page, filled, f"{runs}/{filled.training}/model-metrics", pictures / "training_metrics.png", "loss", charts=4)
    text = shot(page, filled, f"{runs}/{filled.search}", pictures / "search.png", "best: trial")
    assert "phantom-search-006" in text
    assert "phantom.h5" in text
    shot(page, filled, f"{runs}/{filled.search}/model-metrics", pictures / "search_metrics.png", "best_psnr", charts=1)
    evaluation = f"{runs}/{filled.evaluation}"
    text = shot(page, filled, evaluation, pictures / "evaluation.png", "psnr/eq2 annealed simulated")
    assert "store.zarr" in text
    shot(page, filled, f"{evaluation}/model-metrics", pictures / "evaluation_metrics.png", "psnr", charts=3)
    shot(page, filled, f"{evaluation}/artifacts", pictures / "evaluation_files.png", "report.html")
    page.get_by_text("report.html").first.click()
    page.wait_for_timeout(3000)
    page.screenshot(path=str(pictures / "evaluation_report.png"), clip=WITHOUT_ASSISTANT)
    text = shot(page, filled, "models/phantom-prior", pictures / "model.png", "A score prior")
    assert re.search(r"@\s*champion", text)
    text = shot(page, filled, "models/phantom-prior/versions/1", pictures / "version.png", "A score prior")
    assert "champion" in text
