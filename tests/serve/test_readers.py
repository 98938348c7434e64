"""Strangers' files are read in a process of their own: what they cost, and what is left when they break it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
import torch

from kdrift.recon.acquisition import load_acquisition
from kdrift.recon.request import AcquisitionRequest, MaskRequest
from kdrift.runs.config import to_dict
from kdrift_serve.job_request import JobRequest
from kdrift_serve.readers import Found, Readers, Unreadable
from kdrift_serve.reading import Reading
from kdrift_serve.spool import HEADER, OtherFormat, read_facts, read_slice, slice_file, write_spool
from serve_helpers import MASK, phantom_file


def asked(source: Path | None, out: Path, *, seconds: float = 60.0, **values: Any) -> Reading:
    out.mkdir(exist_ok=True)
    request = to_dict(JobRequest(**values))
    return Reading(request, str(source) if source else None, "scan", [], 64, seconds, str(out))


def reading(work: Callable[[Readers], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        readers = Readers()
        try:
            return await work(readers)
        finally:
            await readers.stop()

    return asyncio.run(run())


def test_what_is_read_is_what_the_library_reads(tmp_path: Path) -> None:
    scan, out = phantom_file(tmp_path / "scan.h5", 3), tmp_path / "out"
    found: Found = reading(lambda readers: readers.read(asked(scan, out, mask=MaskRequest(**MASK), slices="1:3")))
    expected = load_acquisition(AcquisitionRequest(source=str(scan), mask=MaskRequest(**MASK), slices="1:3"))
    assert (found.slices, found.coils, found.shape) == ([1, 2], 4, [32, 32])
    assert (found.sampling, found.notes) == (expected.sampling, list(expected.notes))
    assert sorted(os.listdir(out)) == ["00000.npz", "00001.npz", HEADER]
    back = read_facts(out / HEADER)
    for name, value in vars(expected).items():
        if name in ("kspace", "smaps", "calibration", "coils"):  # those are in the files of slices
            continue
        other = getattr(back, name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other)
        else:
            assert value == other, name
    for position in range(2):
        raw, same = expected.raw(position), read_slice(out / slice_file(position))
        assert torch.equal(raw.kspace, same.kspace)
        assert torch.equal(raw.mask, same.mask)
        assert (raw.index, raw.smaps, raw.coils) == (same.index, same.smaps, same.coils)


def test_files_of_another_version_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_spool(tmp_path, load_acquisition(AcquisitionRequest(source=str(phantom_file(tmp_path / "scan.h5")))))
    monkeypatch.setattr("kdrift_serve.spool.FORMAT", 2)
    with pytest.raises(OtherFormat, match="send it again"):
        read_facts(tmp_path / HEADER)
    with pytest.raises(OtherFormat, match="send it again"):
        read_slice(tmp_path / slice_file(0))


def test_the_example_is_made_there(tmp_path: Path) -> None:
    found: Found = reading(lambda readers: readers.read(asked(None, tmp_path / "out", example="phantom")))
    assert (found.coils, found.shape) == (8, [192, 192])
    assert sorted(os.listdir(tmp_path / "out")) == ["00000.npz", HEADER]


def test_more_memory_than_k_space_explains_is_refused(tmp_path: Path) -> None:
    """A reference of 3 GiB beside k-space of 32 kB, of chunks that are never written."""
    scan = phantom_file(tmp_path / "scan.h5")
    with h5py.File(scan, "a") as file:
        del file["reconstruction_rss"]
        shape = (1, 28_000, 28_000)
        file.create_dataset("reconstruction_rss", shape, "f4", chunks=(1, 1000, 1000), compression="gzip", fillvalue=1)

    async def run(readers: Readers) -> tuple[str, int]:
        with pytest.raises(Unreadable) as error:
            await readers.read(asked(scan, tmp_path / "out"))
        assert readers._process is not None
        return str(error.value), psutil.Process(readers._process.pid).memory_info().rss

    sentence, size = reading(run)
    assert "scan" in sentence
    assert size < 1 << 30


SLOW: dict[str, Any] = {"mask": MaskRequest(kind="poisson", acceleration=4), "centred": True}
"""A mask that is drawn point by point."""


def large_file(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("kspace", data=np.random.default_rng(0).normal(size=(1, 1, 1600, 1600)).astype("c8"))
    return path


def test_who_takes_too_long_or_leaves_is_ended(tmp_path: Path) -> None:
    scan = large_file(tmp_path / "scan.h5")

    async def run(readers: Readers) -> None:
        await readers.read(asked(None, tmp_path / "warm", example="phantom"))
        assert readers._process is not None
        parent, began = psutil.Process(readers._process.pid), time.monotonic()
        with pytest.raises(Unreadable, match="reading it took longer than 2 s"):
            await readers.read(asked(scan, tmp_path / "slow", seconds=2.0, **SLOW))
        assert time.monotonic() - began < 8
        leaving = asyncio.create_task(readers.read(asked(scan, tmp_path / "left", **SLOW)))
        while not parent.children():
            await asyncio.sleep(0.05)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        limit = time.monotonic() + 5
        while parent.children() and time.monotonic() < limit:
            await asyncio.sleep(0.05)
        assert not parent.children()
        assert await readers.read(asked(None, tmp_path / "after", example="phantom"))

    reading(run)


def test_what_breaks_down_is_told_or_replaced(tmp_path: Path) -> None:
    async def run(readers: Readers) -> None:
        await readers.read(asked(None, tmp_path / "warm", example="phantom"))
        assert readers._process is not None
        waiting = asyncio.create_task(readers.read(asked(large_file(tmp_path / "scan.h5"), tmp_path / "one", **SLOW)))
        parent = psutil.Process(readers._process.pid)
        while not parent.children():
            await asyncio.sleep(0.01)
        for child in parent.children():
            child.kill()
        with pytest.raises(Unreadable, match="its parser broke down"):
            await waiting
        waiting = asyncio.create_task(readers.read(asked(None, tmp_path / "three", example="phantom")))
        await asyncio.sleep(0.05)
        parent.kill()
        assert await waiting, "it was not the request's fault"
        assert await readers.read(asked(None, tmp_path / "two", example="phantom"))

    reading(run)
