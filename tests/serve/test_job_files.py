"""Files of jobs in a folder and at a URL; full disks; what the sweep takes away."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kdrift_serve import job_files
from kdrift_serve.job_files import JobFiles
from kdrift_serve.job_table import DiskFull, JobTable, StateLost
from kdrift_serve.serve_config import Limits
from kdrift_serve.sweep import sweep
from s3_helpers import Server
from test_job_table import ME, queued

ID = "a" * 32


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "folder":
        return str(tmp_path / "store")
    found: Server = request.getfixturevalue("server")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return f"s3://{found.bucket()}/serve"


def test_files_of_a_job(storage: str) -> None:
    files = JobFiles(storage)
    with files.filling(ID, "result") as folder:
        (folder / "dicom").mkdir()
        (folder / "dicom" / "1.dcm").write_bytes(b"one")
        (folder / "mean.png").write_bytes(b"two")
        assert JobFiles(storage).get(ID, "result/mean.png") is None, "not before all is written"
    assert not list(files.incoming.iterdir())
    path = JobFiles(storage).get(ID, "result/dicom/1.dcm")
    assert path is not None
    assert path.read_bytes() == b"one"
    assert files.jobs() == {ID}
    assert files.names(ID, "result") >= {"mean.png"}
    with pytest.raises(TypeError), files.filling(ID, "slices") as folder:
        (folder / "0").write_bytes("no bytes")  # type: ignore[arg-type]
    assert files.names(ID, "slices") == set()
    assert not list(files.incoming.iterdir())
    for name in ("../../etc", "A" * 32, "a" * 31, f"{ID}/../{ID}"):
        assert files.get(name, "result/mean.png") is None
    files.remove(ID, "result")
    files.remove(ID)
    files.remove(ID)
    assert JobFiles(storage).get(ID, "result/mean.png") is None
    assert files.jobs() == set()


def test_a_file_that_is_replaced_is_read_as_it_is_now(storage: str, tmp_path: Path) -> None:
    files, other = JobFiles(storage), JobFiles(storage)
    assert other.read(ID, "preview/preview.json") is None
    for content in (b"1", b"22"):
        with files.filling(ID, "preview") as folder:
            (folder / "preview.json").write_bytes(content)
        assert other.read(ID, "preview/preview.json") == content


def test_copies_of_what_is_elsewhere_do_not_stay(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files, other = JobFiles(f"s3://{server.bucket()}/serve"), "b" * 32
    for job_id in (ID, other):
        with files.filling(job_id, "result") as folder:
            (folder / "mean.png").write_bytes(b"two")
        assert files.get(job_id, "result/mean.png") is not None
    os.utime(files.incoming.parent / ID, (0, 0))
    copy = files.get(other, "result/mean.png")
    assert copy is not None
    assert copy.is_file()
    assert not (files.incoming.parent / ID).exists()
    assert files.get(ID, "result/mean.png") is not None, "it is where it was"


def test_storage_is_private(tmp_path: Path) -> None:
    files = JobFiles(str(tmp_path / "store"))
    with files.filling(ID, "result") as folder:
        (folder / "mean.png").write_bytes(b"two")
    for path in (tmp_path / "store").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_storage_that_is_gone_is_told(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = JobFiles(f"s3://{server.bucket()}/serve")
    server.stop()
    try:
        with pytest.raises(StateLost, match="the storage of the service cannot be used"):
            files.get(ID, "result/mean.png")
        with pytest.raises(StateLost), files.filling(ID, "result") as folder:
            (folder / "mean.png").write_bytes(b"two")
    finally:
        server.start()
    assert files.get(ID, "result/mean.png") is None


def many(table: JobTable) -> None:
    for number in range(2, 200):
        queued(table, number, notes=["x" * 10_000])


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """A disk of 2 MiB, which is full for a job's files and for the table."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here: that needs root")
    try:
        files, table = JobFiles(str(small)), JobTable(f"sqlite:///{small / 'jobs.sqlite'}")
        one = queued(table, 1)
        with pytest.raises(DiskFull, match="the disk of the service is full"), files.filling(ID, "result") as folder:
            (folder / "large").write_bytes(bytes(4 << 20))
        assert not list(files.incoming.iterdir())
        assert files.jobs() == set()
        with (small / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        with pytest.raises(DiskFull, match="the disk of the table of jobs is full"):
            many(table)
        found = table.get(one.id)
        assert found is not None, "what was there can be read"
        (small / "filler").unlink()
        queued(table, 999)
        table.close()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_old_jobs_go_and_so_does_what_a_dead_process_left(tmp_path: Path) -> None:
    files, table = JobFiles(str(tmp_path)), JobTable(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    table.live(ME, "1")
    for number in range(1, 6):
        each = queued(table, number)
        with files.filling(each.id, "result") as folder:
            (folder / "mean.png").write_bytes(b"x")
        if number < 5:
            assert table.write(replace(each, state="done", size=1 << 20))
            time.sleep(0.01)
    (tmp_path / ("c" * 32)).mkdir()
    theirs, mine = files.temporary("d" * 32), files.temporary(ME)
    sweep(table, files, Limits(kept_jobs=3))
    assert files.jobs() == table.ids() == {f"{number:032x}" for number in (2, 3, 4, 5)}
    assert (theirs.exists(), mine.exists()) == (False, True)
    sweep(table, files, Limits(kept_mb=2))
    assert files.jobs() == {f"{number:032x}" for number in (3, 4, 5)}
    sweep(table, files, Limits(kept_days=1e-9))
    assert files.jobs() == {f"{5:032x}"}, "what waits or runs stays"
    assert sorted(os.listdir(tmp_path))[:1] == [f"{5:032x}"]
    assert job_files.INCOMING in os.listdir(tmp_path)
    table.close()
