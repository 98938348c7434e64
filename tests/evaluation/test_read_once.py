"""A batch reads the k-space of each slice once: what results tell of a volume is put together of its slices."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from batch_helpers import MASK, make_inputs
from kdrift.data.centring import fft_centred, ifft_centred
from kdrift.data.formats import open_volume
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.phantom import phantom_volume
from kdrift.data.store import open_store
from kdrift.data.store_check import CheckedArray
from kdrift.data.store_write import write_volume
from kdrift.evaluation.batch import BatchConfig
from kdrift.evaluation.faults import Fault
from kdrift.evaluation.partial import save_failure, save_slice
from kdrift.evaluation.slice_worker import SliceWorker, finish_volume
from kdrift.evaluation.work import Unit, VolumeTask, volume_tasks
from kdrift.recon.acquisition import AcquisitionFacts, join_slices, load_acquisition, open_source, see_slice
from kdrift.recon.merge import merge_chunks
from kdrift.recon.plan import Plan
from kdrift.recon.request import AcquisitionRequest, MaskRequest

SLICES, SIDE = 4, 48
LINES = (np.arange(SIDE) % 3 == 0) | (np.abs(np.arange(SIDE) - SIDE // 2) < 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of volumes that differ in what was measured of them, and mask files."""
    where, scan = tmp_path_factory.mktemp("scans"), phantom_volume(SLICES, SIDE, SIDE, 3, seed=2)
    full, reference = scan.kspace, scan.reference
    padded, moved = full.copy(), full.copy()
    padded[..., :5] = padded[2] = 0
    for index in range(SLICES):
        moved[index][..., (np.arange(SIDE) + index) % 4 == 1] = 0
    coil_images = np.pad(ifft_centred(full, axes=(-2, -1)), [(0, 0), (0, 0), (SIDE // 2, SIDE // 2), (0, 0)])
    small = np.where(np.arange(SIDE) < 3, 1e-9 * full / np.abs(full).max(), full)
    volumes: dict[str, tuple[np.ndarray, Any]] = {
        "full": (full, reference), "bare": (full, None), "mirrored": (full, reference[..., ::-1].copy()),
        "under": (full * LINES, reference), "padded": (padded, reference), "moved": (moved, None),
        "wide": (fft_centred(coil_images, axes=(-2, -1)), reference), "residue": (small, None),
    }  # fmt: skip
    with open_store(where / "s.zarr", "a") as store:
        for name, (kspace, truth) in volumes.items():
            size = None if name != "wide" else (SIDE, SIDE)
            write_fastmri(where / f"{name}.h5", kspace.astype(np.complex64), reference=truth, recon_size=size)
            with open_volume(where / f"{name}.h5") as opened:
                write_volume(store, name, opened)
    np.save(where / "one.npy", LINES)
    np.save(where / "each.npy", np.stack([np.roll(LINES, i) | LINES for i in range(SLICES)])[:, None])
    np.save(where / "all.npy", np.ones(SIDE, dtype=bool))
    return where


@pytest.mark.parametrize("name", ["full", "bare", "mirrored", "under", "padded", "moved", "wide", "residue"])
@pytest.mark.parametrize("mask", ["", "drawn", "one.npy", "each.npy", "all.npy"])
def test_slices_tell_of_their_volume_what_it_tells_as_a_whole(name: str, mask: str, folder: Path) -> None:
    """Every field to the last bit, and errors."""
    chosen = None if mask != "one.npy" else (1, 3)
    asked = None if not mask else MASK if mask == "drawn" else MaskRequest(file=str(folder / mask))
    request = AcquisitionRequest(source=f"{folder}/s.zarr/{name}", mask=asked, slices=chosen)

    def joined() -> AcquisitionFacts:
        with open_source(request) as opened:
            seen = [see_slice(opened, request, index) for index in range(SLICES)[request.chosen]]
            return join_slices(opened, request, seen)

    if name in ("under", "moved") and mask == "drawn":
        for read in (joined, lambda: load_acquisition(request)):
            with pytest.raises(ValueError, match="was measured undersampled"):
                read()
        return
    expected = load_acquisition(request)
    found = joined()
    for each in fields(AcquisitionFacts):
        ours, theirs = getattr(found, each.name), getattr(expected, each.name)
        same = torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs
        assert same, (each.name, ours, theirs)


def test_what_is_wrong_with_the_strongest_slice_is_raised_for_the_volume(tmp_path: Path) -> None:
    """An image among k-space: alone it is refused; of the volume only where it is the strongest."""
    kspace = phantom_volume(2, SIDE, SIDE, 3, seed=2).kspace
    image = ifft_centred(kspace[0], axes=(-2, -1)).astype(np.complex64)
    for factor in (1e-3, 1e3):
        np.save(tmp_path / "k.npy", np.stack([kspace[0], image * factor * np.abs(kspace[0]).max()]))
        request = AcquisitionRequest(source=str(tmp_path / "k.npy"), axes="slice,coil,row,col")
        with open_source(request) as opened:
            seen = [see_slice(opened, request, index) for index in range(2)]
            if factor < 1:
                assert join_slices(opened, request, seen).notes == load_acquisition(request).notes
                continue
            with pytest.raises(ValueError, match="this is an image, no k-space"):
                join_slices(opened, request, seen)
            with pytest.raises(ValueError, match="this is an image, no k-space"):
                load_acquisition(request)


def work_through(worker: SliceWorker, tasks: list[VolumeTask]) -> None:
    """Do what a batch does with one actor, in this process."""
    units = [Unit(task, i, tuple(task.plan.split(task.num_coils))) for task in tasks for i in task.slices]
    for unit, ahead in zip(units, [*units[1:], None], strict=True):
        found = worker.run(unit, ahead)
        if isinstance(found, Fault):
            save_failure(unit.task, unit.index, found.reason, found.seen)
            continue
        facts, results, seen = found
        save_slice(unit.task, facts, merge_chunks(results), seen)
    for task in tasks:
        assert finish_volume(task, 1) is None


def test_kspace_of_a_slice_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted where the store reads files; one slice is empty, so that it fails after it was read."""
    inputs, out = make_inputs(tmp_path), tmp_path / "out"
    with open_store(inputs["store"], "a") as store:
        volume = store.read_volume("large")
        kspace = volume.read_kspace(0, 3)
        kspace[1] = 0
        write_volume(store, "large", replace(volume, load_kspace=lambda start, stop: kspace[start:stop]))
    config = BatchConfig(store=inputs["store"], out=str(out), mask=MASK)
    tasks = volume_tasks(config.store, config.volumes, config, Plan("cg_sense").resolve(None), out)
    read, rows = CheckedArray.read, Counter[tuple[str, str, int]]()

    def counted(self: CheckedArray, start: int, stop: int) -> tuple[np.ndarray, list[int]]:
        rows.update((self.name, self.volume.rpartition("/")[2], row) for row in range(start, stop))
        return read(self, start, stop)

    monkeypatch.setattr(CheckedArray, "read", counted)
    work_through(SliceWorker([], "cpu", 1), tasks)
    of_kspace = {name[1:]: count for name, count in rows.items() if name[0] == "kspace"}
    assert of_kspace == {(task.out.name, index): 1 for task in tasks for index in task.slices}
    with h5py.File(out / "large" / "reconstruction.h5") as file:
        assert list(file.attrs["failed_slices"]) == [1]
        assert file["reference"].shape == (3, 32, 32)


def test_the_next_slice_is_read_while_one_is_done(tmp_path: Path) -> None:
    """Its reading has begun when the unit before comes back; one that nobody asks for again is forgotten."""
    inputs = make_inputs(tmp_path)
    config = BatchConfig(store=inputs["store"], out=str(tmp_path / "out"), mask=MASK, volumes=["large"])
    (task,) = volume_tasks(config.store, config.volumes, config, Plan("zero_filled").resolve(None), tmp_path / "out")
    first, second, third = (Unit(task, index, tuple(task.plan.split(task.num_coils))) for index in range(3))
    worker = SliceWorker([], "cpu", 1)
    assert not isinstance(worker.run(first, second), Fault)
    ahead = worker._reading[second.slice_name]
    assert ahead.result(60)[0].index == 1
    assert not isinstance(worker.run(second, third), Fault)
    assert set(worker._reading) == {second.slice_name, third.slice_name}
    worker._reading[third.slice_name].result(60)
    lost = Unit(replace(task, request=replace(task.request, source=f"{inputs['store']}/absent")), 0, first.chunks)
    fault = worker.run(lost)  # a fault of reading is that of its unit, and is not kept
    assert isinstance(fault, Fault)
    assert "absent" in fault.reason
    assert fault.seen is None
    assert worker._reading == {}
