"""Batches and evaluations whose output is at a URL: resumed elsewhere, through an outage, from nodes apart."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from botocore.exceptions import BotoCoreError

from batch_helpers import PLAN, batch_values, check_against_reconstruct, make_inputs, write_config
from kdrift.evaluation.batch import BatchConfig, reconstruct_batch
from kdrift.evaluation.evaluate import evaluate
from kdrift.evaluation.evaluate_config import EvaluateConfig
from kdrift.runs.config import parse, to_dict
from kdrift.runs.home import Home, working_folder
from node_helpers import node_apart, switch_off
from s3_helpers import Server

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def batch_at(inputs: dict[str, str], url: str, **changes: object) -> BatchConfig:
    return parse(BatchConfig, {**batch_values(inputs, Path("x"), pool={"actors": 1}), "out": url, **changes})


@contextlib.contextmanager
def listed(server: Server, url: str) -> Iterator[list[str]]:
    """List the bucket again and again during the block; yield every listing in which a result was not whole."""
    over, wrong = threading.Event(), list[str]()

    def look() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError, BotoCoreError):  # it may be away
                names = server.names(url)
                marked = [name.rpartition("/")[0] for name in names if name.endswith(("metrics.json", "batch.json"))]
                wrong.extend(str(names) for folder in marked if f"{folder}/reconstruction.h5" not in names)
            time.sleep(0.05)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield wrong
    finally:
        over.set()
        thread.join()


def downloaded(server: Server, url: str, folder: Path) -> Path:
    for name in server.shown(url):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(server.read(f"{url}/{name}"))
    return folder


def test_a_batch(cluster: None, server: Server, url: str, inputs: dict[str, str], tmp_path: Path) -> None:
    lines: list[str] = []
    with listed(server, url) as wrong:
        report = reconstruct_batch(batch_at(inputs, url), echo=lines.append, quiet=True)
    assert (report.volumes, report.slices, report.failed, wrong) == (2, 5, {}, [])
    assert f"written: {url}/small/reconstruction.h5 metrics.json panel.png" in lines
    assert not [name for name in server.shown(url) if name.startswith(".partial")]
    check_against_reconstruct(inputs, downloaded(server, url, tmp_path / "far"))
    again = reconstruct_batch(batch_at(inputs, url), echo=lines.append, quiet=True)
    assert (again.volumes, again.slices_before) == (0, 5)
    with pytest.raises(ValueError, match=rf"cannot resume in {url}: .*seed was 5 and is now 6"):
        reconstruct_batch(batch_at(inputs, url, plan={**to_dict(PLAN), "seed": 6}), echo=lines.append)


@pytest.mark.slow
def test_a_batch_whose_driver_was_killed_goes_on_on_another_machine(
    server: Server, url: str, inputs: dict[str, str], tmp_path: Path, elsewhere: Callable[[], None]
) -> None:
    """Slices that were done are fetched and not done again; the lease that was left is taken over."""
    plan = to_dict(replace(PLAN, settings={"num_steps": 60}, num_samples=8))
    values = {**batch_values(inputs, tmp_path, pool={"actors": 1}), "out": url, "plan": plan}
    command = [sys.executable, "-m", "kdrift", "reconstruct", "--quiet"]
    config = write_config(tmp_path / "batch.yaml", values)
    driver = subprocess.Popen([*command, "--config", str(config)], start_new_session=True, stdout=subprocess.DEVNULL)
    with listed(server, url) as wrong:
        while not (kept := [name for name in server.names(url) if name.startswith(".partial/")]):
            assert driver.poll() is None, "the batch was over before it could be killed"
            time.sleep(0.2)
        switch_off(driver)
        elsewhere()
        lines: list[str] = []
        report = reconstruct_batch(parse(BatchConfig, values), echo=lines.append, quiet=True)
    assert report.slices_before >= len(kept)
    assert (report.slices + report.slices_before, wrong) == (5, [])
    assert any("has not been heard of" in line for line in lines)
    assert not [name for name in server.shown(url) if name.startswith(".partial")]


@pytest.mark.slow
def test_a_batch_through_an_outage(cluster: None, server: Server, url: str, inputs: dict[str, str]) -> None:
    lines: list[str] = []

    def echo(line: str) -> None:
        lines.append(line)
        if "is up: process" in line:
            server.stop()
        elif line.startswith("written:") and sum(each.startswith("written:") for each in lines) == 2:
            server.start()

    with listed(server, url) as wrong:
        report = reconstruct_batch(batch_at(inputs, url), echo=echo, quiet=True)
    assert (report.volumes, report.failed, wrong) == (2, {}, [])
    assert any("does not take what is written" in line for line in lines)
    assert {"small/metrics.json", "large/metrics.json", "large/batch.json"} < set(server.shown(url))


@pytest.mark.slow
def test_an_evaluation_is_added_to_on_another_machine(
    cluster: None, server: Server, url: str, inputs: dict[str, str], elsewhere: Callable[[], None]
) -> None:
    mask = batch_values(inputs, Path("x"))["mask"]
    values = {"name": "far", "store": inputs["store"], "out": url, "masks": {"eq2": mask}, "pool": {"actors": 1}}
    methods = {"zero": {"method": "zero_filled"}, "cg": {"method": "cg_sense"}}
    first = parse(EvaluateConfig, {**values, "methods": {"zero": methods["zero"]}})
    evaluate(first, echo=lambda line: None, quiet=True)
    run = server.read_json(f"{url}/run.json")["run_id"]
    elsewhere()
    result = evaluate(parse(EvaluateConfig, {**values, "methods": methods}), echo=lambda line: None, quiet=True)
    assert (result.batch.volumes, result.batch.slices_before) == (2, 5)
    assert server.read_json(f"{url}/run.json")["run_id"] == run, "the same MLflow run"
    names = server.shown(url)
    assert {"report.html", "table.md", "mlflow.db", "cells/eq2/zero/small/metrics.json"} < set(names)
    assert b"cg" in server.read(f"{url}/table.csv")
    from mlflow import MlflowClient

    assert str(working_folder(url)) in result.tracking_uri
    found = MlflowClient(result.tracking_uri).get_run(run)
    assert found.info.status == "FINISHED"
    assert str(working_folder(url)) in str(found.info.artifact_uri)
    assert any("/table.csv" in name for name in names if name.startswith("artifacts/"))


@pytest.mark.slow
def test_a_batch_on_a_node_that_does_not_see_the_working_folder(
    server: Server, url: str, inputs: dict[str, str], tmp_path: Path
) -> None:
    with node_apart(tmp_path / "cache"), listed(server, url) as wrong:
        report = reconstruct_batch(batch_at(inputs, url), echo=lambda line: None, quiet=True)
    assert (report.volumes, report.slices, report.failed, wrong) == (2, 5, {}, [])
    check_against_reconstruct(inputs, downloaded(server, url, tmp_path / "far"))


@pytest.mark.slow
def test_a_folder_that_a_node_does_not_see_is_refused_before_any_work(inputs: dict[str, str], tmp_path: Path) -> None:
    config = parse(BatchConfig, batch_values(inputs, tmp_path / "mine" / "out", pool={"actors": 1}))
    with (
        node_apart(tmp_path / "mine"),
        pytest.raises(ValueError, match=r"node .* cannot write into .*/mine/out: what was written there by the driver"),
    ):
        reconstruct_batch(config, echo=lambda line: None, quiet=True)
    assert not list((tmp_path / "mine" / "out").glob(".probe*"))
    assert Home(tmp_path).url is None
