"""A device that raises errors, a moment's trouble and a slow actor cost a batch nothing: on a real Ray cluster."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch

import kdrift.evaluation.hand_out
import kdrift.evaluation.slice_worker
from batch_helpers import PLAN, batch_values, check_against_reconstruct, make_inputs
from kdrift.evaluation.batch import BatchConfig, reconstruct_batch
from kdrift.evaluation.faults import Fault
from kdrift.evaluation.slice_worker import SliceWorker
from kdrift.evaluation.work import Unit
from kdrift.runs.config import parse, to_dict

ONE_BY_ONE = replace(PLAN, batch_samples=1)  # rounding depends on what runs together


class _Marked(SliceWorker):
    """The first of its kind that asks in a folder is the faulty one."""

    folder = ""

    def _is_faulty(self) -> bool:
        if not hasattr(self, "_faulty"):
            try:
                (Path(self.folder) / "taken").touch(exist_ok=False)
                self._faulty, self._units = True, 0
            except FileExistsError:
                self._faulty, self._units = False, 0
        self._units += 1
        return self._faulty


class BrokenDevice(_Marked):
    """Raises what CUDA does from its second unit on, whatever it is asked."""

    first = 2

    def _prepare(self, unit, raw, began):  # type: ignore[no-untyped-def]
        if self._is_faulty() and self._units >= self.first:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return super()._prepare(unit, raw, began)


class BrokenLater(BrokenDevice):
    """From its third unit on."""

    first = 3


class AllBroken(SliceWorker):
    """Every device is broken."""

    def _prepare(self, unit, raw, began):  # type: ignore[no-untyped-def]
        raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")


class OneComesUp(_Marked):
    """All but the first die as they start, as on a device that is gone."""

    def __init__(self, *given) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*given)
        if not self._is_faulty():
            raise RuntimeError("CUDA error: device unavailable")


class SlowToRead(_Marked):
    """Loses its connection once, and then waits for its storage for minutes."""

    def run(self, unit: Unit, ahead: Unit | None = None):  # type: ignore[no-untyped-def]
        if self._is_faulty():
            if self._units == 1:
                return Fault.of(ConnectionError("the storage hung up"))
            time.sleep(600)
        return super().run(unit, ahead)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def as_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[object]:
    """Let actors be of another class, which goes to them by value."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

    def use(kind: type[SliceWorker]) -> None:
        monkeypatch.setattr(_Marked, "folder", str(tmp_path))
        monkeypatch.setattr(kdrift.evaluation.slice_worker, "SliceWorker", kind)

    yield use
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def _batch(inputs: dict[str, str], out: Path) -> tuple[object, list[str]]:
    lines: list[str] = []
    config = parse(BatchConfig, batch_values(inputs, out, plan=to_dict(ONE_BY_ONE)))
    return reconstruct_batch(config, echo=lines.append), lines


@pytest.mark.slow
@pytest.mark.ray
def test_a_broken_device_is_put_aside(cluster, inputs, as_worker, tmp_path) -> None:  # type: ignore[no-untyped-def]
    as_worker(BrokenDevice)
    report, lines = _batch(inputs, tmp_path / "out")
    assert (report.volumes, report.slices, report.failed) == (2, 5, {})
    aside = [line for line in lines if "is put aside, with the device that it holds: AcceleratorError" in line]
    assert len(aside) == 1, lines
    assert sum("had its device fail: another one does it again" in line for line in lines) == 1
    assert sum("is up: process" in line for line in lines) <= 2, "another actor took the broken device"
    check_against_reconstruct(inputs, tmp_path / "out", ONE_BY_ONE)


@pytest.mark.ray
@pytest.mark.slow
def test_twenty_volumes_with_a_broken_device(cluster, as_worker, tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The actor breaks at its third unit; all 20 volumes are done, each as by itself."""
    names = [f"v{number:02d}" for number in range(20)]
    inputs = make_inputs(tmp_path / "inputs", dict.fromkeys(names, 1))
    as_worker(BrokenLater)
    report, lines = _batch(inputs, tmp_path / "out")
    assert (report.volumes, report.slices, report.failed) == (20, 20, {})
    assert sum("is put aside, with the device that it holds: AcceleratorError" in line for line in lines) == 1, lines
    assert sum("had its device fail: another one does it again" in line for line in lines) == 1
    assert sorted(path.parent.name for path in (tmp_path / "out").glob("*/metrics.json")) == names
    check_against_reconstruct(inputs, tmp_path / "out", ONE_BY_ONE, names)
    print(*lines, sep="\n")


@pytest.mark.ray
def test_without_a_device_the_batch_says_so(cluster, inputs, as_worker, tmp_path) -> None:  # type: ignore[no-untyped-def]
    as_worker(AllBroken)
    with pytest.raises(OSError, match=r"no actor is left to work: actor .*CUDNN_STATUS_EXECUTION_FAILED"):
        _batch(inputs, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.ray
def test_actors_that_do_not_start_are_done_without(cluster, inputs, as_worker, tmp_path) -> None:  # type: ignore[no-untyped-def]
    as_worker(OneComesUp)
    report, lines = _batch(inputs, tmp_path / "out")
    assert (report.volumes, report.slices, report.failed) == (2, 5, {})
    assert sum("does not start" in line for line in lines) <= 1
    (tmp_path / "taken").touch()  # now none comes up
    with pytest.raises(OSError, match=r"no actor is left to work: actor .* does not start: .*device unavailable"):
        _batch(inputs, tmp_path / "again")


@pytest.mark.slow
@pytest.mark.ray
def test_slow_and_disconnected_actors(cluster, inputs, as_worker, monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(kdrift.evaluation.hand_out, "SLOW_SECONDS", 3.0)
    as_worker(SlowToRead)
    began = time.monotonic()
    report, lines = _batch(inputs, tmp_path / "out")
    assert time.monotonic() - began < 300
    assert (report.volumes, report.slices, report.failed) == (2, 5, {})
    assert sum("failed for a moment: another one does it again" in line for line in lines) == 1, lines
    assert sum("done twice" in line for line in lines) == 1, lines
    check_against_reconstruct(inputs, tmp_path / "out", ONE_BY_ONE)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("no ACS"), "data"), (KeyError("x"), "data"), (FileNotFoundError("gone"), "data"),
        (torch.OutOfMemoryError("CUDA out of memory"), "data"), (RuntimeError("size mismatch"), "data"),
        (torch.AcceleratorError("CUDA error: device-side assert"), "device"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), "device"),
        (ConnectionResetError("reset"), "passing"), (TimeoutError("slow"), "passing"),
    ],
)  # fmt: skip
def test_errors_are_told_apart(error: Exception, kind: str) -> None:
    fault = Fault.of(error)
    assert fault.kind == kind
    assert str(error).strip("'") in fault.reason
