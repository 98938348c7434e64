"""A node is lost in the middle of a batch, a search and a conversion: they end, with nothing lost and nothing twice."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from batch_helpers import PLAN, batch_values, check_against_reconstruct, make_inputs
from kdrift.cli import main
from kdrift.data.convert import ConvertConfig, convert
from kdrift.data.store import open_store
from kdrift.evaluation.batch import BatchConfig, reconstruct_batch
from kdrift.runs.config import parse, to_dict
from kdrift.tuning.search import tune
from node_helpers import two_nodes
from tuning_helpers import tiny_search, write_inputs

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
T = TypeVar("T")


def while_a_node_is_lost(work: Callable[[], T], has_begun: Callable[[], bool]) -> tuple[T, bool]:
    """Do the work on two nodes, and take one away once it has begun; return its result and whether that happened."""
    over, gone = threading.Event(), list[bool]()
    with two_nodes() as (nodes, second):

        def disturb() -> None:
            while not over.wait(0.05):
                if has_begun():
                    nodes.remove(second)
                    gone.append(not over.is_set())
                    return

        disturber = threading.Thread(target=disturb)
        disturber.start()
        try:
            result = work()
        finally:
            over.set()
            disturber.join()
    return result, gone == [True]


def test_a_batch(tmp_path: Path) -> None:
    inputs, lines = make_inputs(tmp_path), list[str]()
    plan = replace(PLAN, settings={"num_steps": 60}, batch_samples=1)
    config = parse(BatchConfig, batch_values(inputs, tmp_path / "out", plan=to_dict(plan)))
    report, lost = while_a_node_is_lost(
        lambda: reconstruct_batch(config, echo=lines.append),
        lambda: sum("is up: process" in line for line in lines) == 2,
    )
    assert lost, "the batch was over before its cluster had lost a node"
    assert (report.volumes, report.slices, report.failed) == (2, 5, {})
    check_against_reconstruct(inputs, tmp_path / "out", plan)


def test_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDRIFT_PRESETS", str(tmp_path / "presets"))
    settings = {"num_steps": 120, "spread": 0.0}
    config = tiny_search(*write_inputs(tmp_path), num_trials=8, settings=settings, max_failures=3)
    journal = tmp_path / "out" / "trials.jsonl"
    result, lost = while_a_node_is_lost(
        lambda: tune(config, tmp_path / "out", echo=lambda line: None),
        lambda: journal.is_file() and journal.read_text().count('"report"') >= 3,
    )
    assert lost, "the search was over before its cluster had lost a node"
    assert Counter(trial.is_done for trial in result.trials) == {True: 8}
    assert len({tuple(trial.settings.values()) for trial in result.trials}) == 8
    for trial in result.trials:
        assert [row["slices"] for row in trial.rows] == list(range(1, len(trial.rows) + 1))


def test_a_conversion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scans = tmp_path / "scans"
    for number in range(6):
        out = scans / f"scan{number}.h5"
        size = ["--slices", "6", "--size", "96", "--coils", "6", "--seed", str(number)]
        assert main(["phantom", "--out", str(out), *size]) == 0

    def config(store: str) -> ConvertConfig:
        return parse(ConvertConfig, {"sources": [str(scans)], "store": str(tmp_path / store), "complex_images": True})

    before = convert(config("whole.zarr"), address="local", echo=lambda line: None)
    store = tmp_path / "lost.zarr"
    report, lost = while_a_node_is_lost(
        lambda: convert(config("lost.zarr"), echo=lambda line: None), lambda: any(store.glob("*scan*/zarr.json"))
    )
    assert lost, "the conversion was over before its cluster had lost a node"
    assert (len(report.converted), report.failed) == (6, {}), report
    assert len(before.converted) == 6
    assert main(["info", str(store), "--verify"]) == 0
    whole, again = open_store(tmp_path / "whole.zarr"), open_store(store)
    assert whole.list_volumes() == again.list_volumes()
    for name in whole.list_volumes():
        expected: Any = whole.read_volume(name)
        assert np.array_equal(expected.read_complex_image(0, 6), again.read_volume(name).read_complex_image(0, 6))
    assert not list(store.glob(".tmp-*"))
