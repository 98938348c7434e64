"""Conversion on a real local Ray cluster: idempotent, resumable, safe to kill, on disk and on S3."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray

from kdrift.cli import main
from kdrift.data.convert import ConvertConfig, convert, rss_target
from kdrift.data.convert_sources import assign_names, find_all, is_same
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.simulate import simulate_volume
from kdrift.data.store import open_store
from kdrift.mri.birdcage import birdcage_maps
from s3_helpers import Server


@pytest.fixture(scope="module")
def cluster(server: Server) -> Iterator[None]:
    """A local Ray cluster whose workers know the server that speaks S3, and run as we do: Ray's default is nice 15."""
    del server
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        ray.shutdown()
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
        yield
        ray.shutdown()


def make_scan(path: Path, seed: int = 0, slices: int = 2, coils: int = 4, size: int = 48, full: bool = True) -> None:
    rng = np.random.default_rng(seed)
    images = rng.random((slices, size, size), dtype=np.float32)
    kspace, reference = simulate_volume(images, birdcage_maps(coils, size, size), seed=seed)
    mask = None
    if not full:
        mask = np.arange(size) % 2 == 0
        mask[size // 2 - 12 : size // 2 + 12] = True
        kspace = kspace * mask
    path.parent.mkdir(parents=True, exist_ok=True)
    write_fastmri(path, kspace, reference=reference if full else None, mask=mask)


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_folder_with_bad_files_then_nothing_to_do(tmp_path: Path) -> None:
    scans, store = tmp_path / "scans", str(tmp_path / "x.zarr")
    for i in range(3):
        make_scan(scans / "brain" / f"file{i}.h5", seed=i)
    np.save(scans / "images.npy", np.ones((3, 9, 8), np.float32))
    (scans / "text.h5").write_text("not a file of HDF5")
    shutil.copy(scans / "brain" / "file0.h5", scans / "short.h5")
    os.truncate(scans / "short.h5", 5000)
    np.save(scans / "nan.npy", np.full((2, 8, 8), np.nan, np.float32))
    report = convert(ConvertConfig([str(scans)], store))
    good = ("brain_file0", "brain_file1", "brain_file2", "images")
    assert report.converted == good
    assert sorted(Path(path).name for path in report.failed) == ["nan.npy", "short.h5", "text.h5"]
    assert "NaN" in report.failed[str(scans / "nan.npy")]
    assert not any(str(scans) in reason for reason in report.failed.values())
    opened = open_store(store)
    assert tuple(opened.list_volumes()) == good
    assert opened.verify() == []
    assert sorted(path.name for path in Path(store).iterdir()) == [*good, "zarr.json"]

    before = (Path(store) / "images" / "zarr.json").stat().st_mtime_ns
    again = convert(ConvertConfig([str(scans)], store))
    assert again.converted == ()
    assert again.skipped == good
    assert len(again.failed) == 3
    assert (Path(store) / "images" / "zarr.json").stat().st_mtime_ns == before

    np.save(scans / "images.npy", np.zeros((4, 9, 8), np.float32))
    os.utime(scans / "brain" / "file1.h5")  # touched, not changed
    changed = convert(ConvertConfig([str(scans)], store))
    assert changed.converted == ("images",)
    assert open_store(store).read_volume("images").info.num_slices == 4
    assert convert(ConvertConfig([str(scans / "brain")], store, overwrite=True)).converted == good[:3]


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_maps_and_targets_on_request(tmp_path: Path) -> None:
    store = str(tmp_path / "x.zarr")
    make_scan(tmp_path / "full.h5")
    make_scan(tmp_path / "half.h5", full=False)
    full = np.load(_save_kspace(tmp_path / "bare.npy"))
    sources = [str(tmp_path / name) for name in ("full.h5", "half.h5", "bare.npy")]
    assert len(convert(ConvertConfig(sources, store)).converted) == 3
    report = convert(ConvertConfig(sources, store, smaps=True, target=True))
    assert len(report.converted) == 3  # what was stored lacks the arrays now asked for
    assert len(convert(ConvertConfig(sources, store, target=True)).skipped) == 3
    opened = open_store(store)
    assert opened.read_volume("full").array_names == ["kspace", "target", "smaps"]
    half = opened.read_volume("half")
    assert half.array_names == ["kspace", "smaps", "mask"]  # an undersampled scan has no target
    maps = half.read_smaps(0, 2)
    assert maps.shape == (2, 4, 48, 48)
    energy = (np.abs(maps) ** 2).sum(1)
    assert np.all((np.abs(energy - 1) < 1e-3) | (energy == 0))
    bare = opened.read_volume("bare")
    assert bare.info.has_reference
    np.testing.assert_array_equal(bare.read_image(0, len(full)), rss_target(full, 48, 48))
    assert opened.attributes("bare")["derived"] == ["smaps", "target"]
    assert opened.attributes("full")["derived"] == ["smaps"]  # its target is the reference of the source
    assert [opened.read_volume(name).is_truth_stored for name in ("bare", "full")] == [False, True]
    assert opened.verify() == []


def _save_kspace(path: Path) -> Path:
    images = np.random.default_rng(7).random((2, 48, 48), dtype=np.float32)
    np.save(path, simulate_volume(images, birdcage_maps(4, 48, 48))[0])
    return path


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_s3_store_and_sources(tmp_path: Path) -> None:
    import s3fs

    filesystem = s3fs.S3FileSystem()
    filesystem.mkdir("scans")
    filesystem.mkdir("stores")
    make_scan(tmp_path / "a.h5", size=32)
    np.save(tmp_path / "b.npy", np.ones((3, 9, 8), np.float32))
    for name in ("a.h5", "b.npy"):
        filesystem.put(str(tmp_path / name), f"scans/day1/{name}")
    filesystem.pipe_file("scans/day1/c.h5", b"broken")
    store = "s3://stores/x.zarr"
    report = convert(ConvertConfig(["s3://scans/day1"], store))
    assert report.converted == ("a", "b")
    assert list(report.failed) == ["s3://scans/day1/c.h5"]
    opened = open_store(store)
    assert opened.list_volumes() == ["a", "b"]
    assert opened.verify() == []
    local = convert(ConvertConfig([str(tmp_path / "a.h5")], str(tmp_path / "local.zarr")))
    assert local.converted == ("a",)
    expected = open_store(tmp_path / "local.zarr").read_volume("a").read_kspace(0, 2)
    np.testing.assert_array_equal(opened.read_volume("a").read_kspace(0, 2), expected)
    again = convert(ConvertConfig(["s3://scans/day1/*.npy", "s3://scans/day1/a.h5"], store))
    assert (again.converted, again.skipped) == ((), ("a", "b"))
    filesystem.pipe_file("scans/day1/b.npy", (tmp_path / "b.npy").read_bytes()[:-4] + b"\0\0\0\0")
    assert convert(ConvertConfig(["s3://scans/day1/b.npy"], store)).converted == ("b",)
    # a writer killed in mid-volume has not yet written the group's metadata
    filesystem.rm("stores/x.zarr/a/zarr.json")
    assert open_store(store).list_volumes() == ["b"]
    assert convert(ConvertConfig(["s3://scans/day1/a.h5"], store)).converted == ("a",)


SLOW_DRIVER = """
import sys
from kdrift.data import convert

def slow_task(path, name, store, *asked, task=convert._convert_task):
    import time
    from kdrift.data import store_write
    store_write.BLOCK_BYTES, store_write.SHARD_SLICE_BYTES = 1, 0  # a file a slice, written one by one
    checksums = store_write.checksums
    store_write.checksums = lambda block: (time.sleep(0.1 * len(block)), checksums(block))[1]
    return task(path, name, store, *asked)

convert._convert_task = slow_task
convert.convert(convert.ConvertConfig([sys.argv[1]], sys.argv[2], workers=1), address=sys.argv[3])
"""


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_killed_conversion_resumes(tmp_path: Path) -> None:
    """Kill -9 the driver and the Ray worker that writes, in mid-volume, then run it again."""
    scans, store = tmp_path / "scans", tmp_path / "x.zarr"
    scans.mkdir()
    for i in range(4):
        values = np.random.default_rng(i).standard_normal((12, 2, 16, 16))
        np.save(scans / f"scan{i}.npy", values.astype(np.complex64))
    others = {process.pid for process in _writers()}
    address = ray.get_runtime_context().gcs_address
    arguments = [sys.executable, "-c", SLOW_DRIVER, str(scans), str(store), address]
    driver = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 240
        while not (list(store.glob("scan*")) and list(store.glob(".tmp-*/kspace/c/3"))):  # 1 is whole
            assert time.monotonic() < deadline
            assert driver.poll() is None
            time.sleep(0.01)
    finally:
        driver.kill()
    writers = [process for process in _writers() if process.pid not in others]
    for process in writers:
        process.kill()
    assert driver.wait(30) == -signal.SIGKILL
    assert len(writers) == 1
    while any(_is_running(process) for process in writers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    opened = open_store(store)
    whole = opened.list_volumes()
    assert 1 <= len(whole) < 4
    assert opened.verify() == []
    assert list(store.glob(".tmp-*"))
    report = convert(ConvertConfig([str(scans)], str(store)))
    assert report.skipped == tuple(whole)
    assert len(report.converted) == 4 - len(whole)
    assert sorted(path.name for path in store.iterdir()) == [*(f"scan{i}" for i in range(4)), "zarr.json"]
    assert opened.verify() == []


def _writers() -> list[psutil.Process]:
    """Ray workers of this cluster that are converting."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any("slow_task" in part or "_convert_task" in part for part in process.cmdline()):
                found.append(process)
    return found


def _is_running(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_command_names_failures_and_gives_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 8, 8), np.float32))
    (tmp_path / "b.h5").write_bytes(b"")
    store = str(tmp_path / "x.zarr")
    assert main(["convert", str(tmp_path / "a.npy"), "--store", store, "--workers", "1"]) == 0
    assert "1 converted, 0 unchanged, 0 failed" in capsys.readouterr().out
    status = main(["convert", str(tmp_path), "--store", store, "--quiet"])
    captured = capsys.readouterr()
    assert status == 1
    assert "0 converted, 1 unchanged, 1 failed" in captured.out
    assert f"failed: {tmp_path}/b.h5: file is empty" in captured.err


def test_errors_before_any_work(tmp_path: Path) -> None:
    import fcntl

    store = str(tmp_path / "x.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no file of a known format"):
        convert(ConvertConfig([str(tmp_path / "empty")], store))
    with pytest.raises(ValueError, match="workers is 0"):
        convert(ConvertConfig([str(tmp_path)], store, workers=0))
    np.save(tmp_path / "a.npy", np.ones((2, 8, 8), np.float32))
    open_store(store, "a")
    handle = os.open(store, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match="another conversion is writing"):
        convert(ConvertConfig([str(tmp_path / "a.npy")], store))
    os.close(handle)


def test_names_are_safe_unique_and_kept(tmp_path: Path) -> None:
    for name in ("p1/T1.npy", "p2/T1.npy", "p2/T2 (new).npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, np.ones((1, 4, 4)))
    found = find_all([str(tmp_path)])
    names = assign_names(found, {})
    assert sorted(names.values()) == ["p1_T1", "p2_T1", "p2_T2_new_"]
    single = find_all([str(tmp_path / "p1" / "T1.npy"), str(tmp_path / "*" / "T1.npy")])
    assert sorted(assign_names(single, {}).values()) == ["p1_T1", "p2_T1"]
    (one,) = find_all([str(tmp_path / "p1" / "T1.npy")])
    assert assign_names([one], {}) == {one.path: "T1"}
    assert assign_names([one], {"old": {"path": one.path}}) == {one.path: "old"}
    assert assign_names([one], {"T1": {"path": "/elsewhere/T1.npy", "bytes": 1}})[one.path].endswith("p1_T1")
    assert not is_same({"bytes": 1}, "/absent")
