"""Files at URLs, of verbs without a run of their own: read and written, whole or as they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from kdrift.cli import main
from kdrift.data.store import open_store
from kdrift.runs import home
from kdrift.runs.files import write_text
from kdrift.runs.remote import Remote, copied
from s3_helpers import Server

SMALL = ["--size", "16", "--coils", "2", "--slices", "1"]
Told = pytest.CaptureFixture[str]


def test_a_phantom(server: Server, url: str, tmp_path: Path, capsys: Told) -> None:
    assert main(["phantom", "--out", str(tmp_path / "x.h5"), *SMALL]) == 0
    capsys.readouterr()
    assert main(["phantom", "--out", f"{url}/x.h5", *SMALL]) == 0
    assert capsys.readouterr().out.startswith(f"{url}/x.h5: simulated")
    assert server.names(url) == ["x.h5"], "no lease, no probe, nothing else"
    assert server.read(f"{url}/x.h5") == (tmp_path / "x.h5").read_bytes()
    assert main(["phantom", "--out", f"{url}/", *SMALL]) == 1
    assert "names no file" in capsys.readouterr().err
    assert main(["phantom", "--out", "s3://no-such-bucket/x.h5", *SMALL]) == 1
    assert "make it first" in capsys.readouterr().err


def test_a_file_is_as_it_was_where_its_writer_fails_or_the_server_is_away(
    server: Server, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.write(f"{url}/x", b"before")

    def failing(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("it fails")

    def outage(path: Path) -> None:
        path.write_bytes(b"after")
        server.stop()

    def write_by(work: Callable[[Path], None]) -> None:
        with home.file_at(f"{url}/x", what="file") as path:
            work(path)

    with pytest.raises(ValueError, match="it fails"):
        write_by(failing)
    assert server.read(f"{url}/x") == b"before"
    monkeypatch.setattr(home, "PATIENCE_S", 0.3)
    monkeypatch.setattr(home, "PAUSES_S", (0.1,))
    try:
        with pytest.raises(OSError, match=r"could not be written .* give the same command again"):
            write_by(outage)
    finally:
        server.start()
    assert server.names(url) == ["x"]
    assert server.read(f"{url}/x") == b"before"
    done, tries = Remote.send, iter([True, False])

    def unsure(self: Remote, path: Path, name: str) -> None:
        if next(tries):
            raise ConnectionError("reset")
        done(self, path, name)

    monkeypatch.setattr(Remote, "send", unsure)
    write_by(lambda path: write_text(path, "after"))
    assert server.read(f"{url}/x") == b"after"


def test_simulated_files_and_stores(server: Server, url: str, tmp_path: Path, capsys: Told) -> None:
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(1).random((2, 16, 16), dtype=np.float32))
    np.save(tmp_path / "maps.npy", np.ones((3, 8, 8), np.complex64))
    server.write(f"{url}/maps.npy", (tmp_path / "maps.npy").read_bytes())
    words = ["simulate", str(tmp_path / "a.npy"), str(tmp_path / "b.npy")]
    given = ["--maps", str(tmp_path / "maps.npy")]
    assert main([*words, "--out", str(tmp_path / "here"), *given]) == 0
    assert main([*words, "--out", f"{url}/far/", "--maps", f"{url}/maps.npy"]) == 0
    assert server.names(f"{url}/far") == ["a_sim.h5", "b_sim.h5"]
    for name in server.names(f"{url}/far"):
        (tmp_path / name).write_bytes(server.read(f"{url}/far/{name}"))
        with h5py.File(tmp_path / name) as far, h5py.File(tmp_path / "here" / name) as here:
            np.testing.assert_array_equal(far["kspace"][:], here["kspace"][:])
            assert dict(far.attrs) == dict(here.attrs)
    assert main([*words[:2], "--out", f"{url}/one.h5"]) == 0
    assert main([*words, "--store", f"{url}/x.zarr"]) == 0
    assert open_store(f"{url}/x.zarr").list_volumes() == ["a_sim", "b_sim"]
    assert open_store(f"{url}/x.zarr").verify() == []
    capsys.readouterr()
    assert main([*words, "--out", f"{url}/y", "--maps", f"{url}/none.npy"]) == 1
    assert f"there is nothing at {url}/none.npy" in capsys.readouterr().err


def test_what_is_read_is_copied_by_name(server: Server, url: str, tmp_path: Path) -> None:
    server.write(f"{url}/a/b/x", b"1")
    server.write(f"{url}/a/.hidden", b"2")
    server.write(f"{url}/a/y", b"3")
    with copied(f"{url}/a/", lambda name: name.endswith("x")) as folder:
        assert [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()] == ["b/x"]
        assert folder.name == "a"
    assert not folder.exists()
    with copied(f"{url}/a/y") as file:
        assert (file.name, file.read_bytes()) == ("y", b"3")
    with copied(tmp_path) as path:
        assert path == tmp_path
    with pytest.raises(ValueError, match=f"^{url}/a/y is empty"), copied(f"{url}/a/y") as file:
        raise ValueError(f"{file} is empty")
