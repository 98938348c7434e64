"""`kdrift reconstruct INPUT --out s3://...`: the same results as in a folder, nothing besides, nothing half."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from kdrift.cli import main
from kdrift.recon.report import MARK, RESULTS
from kdrift.runs.home import working_folder
from kdrift.runs.mirror import VOUCHERS
from s3_helpers import Server

COMMON = ["--method", "zero_filled", "--mask", "equispaced", "--acceleration", "2", "--acs-lines", "8", "--quiet"]


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("scan") / "scan.h5"
    assert main(["phantom", "--out", str(path), "--size", "32", "--coils", "4", "--slices", "2"]) == 0
    return str(path)


def test_marks_of_results_are_vouchers() -> None:
    assert {MARK, "metrics.json"} < set(VOUCHERS)


def test_the_url_gets_what_a_folder_gets(server: Server, url: str, scan: str, tmp_path: Path) -> None:
    assert main(["reconstruct", scan, "--out", str(tmp_path / "here"), *COMMON]) == 0
    assert main(["reconstruct", scan, "--out", url, *COMMON]) == 0
    assert server.shown(url) == sorted(RESULTS)
    (tmp_path / "far.h5").write_bytes(server.read(f"{url}/reconstruction.h5"))
    with h5py.File(tmp_path / "far.h5") as far, h5py.File(tmp_path / "here" / "reconstruction.h5") as here:
        np.testing.assert_array_equal(far["reconstruction"][:], here["reconstruction"][:])
    assert not (working_folder(url) / "files").exists()


def test_outputs_of_an_earlier_run_go(
    server: Server, url: str, scan: str, elsewhere: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    server.write(f"{url}/notes.txt", b"of somebody")
    assert main(["reconstruct", scan, "--out", url, *COMMON, "--output", "nifti,dicom"]) == 0
    assert any(name.endswith(".dcm") for name in server.shown(url))
    elsewhere()
    capsys.readouterr()
    assert main(["reconstruct", scan, "--out", url, *COMMON]) == 0
    assert "removed, since an earlier run wrote it" in capsys.readouterr().out
    assert server.shown(url) == sorted([*RESULTS, "notes.txt"])


def test_results_are_kept_while_the_server_is_away(
    server: Server, url: str, scan: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdrift.recon import reconstruct

    done = reconstruct.reconstruct_slices

    def outage(*words: object, **more: object) -> object:
        server.stop()
        return done(*words, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(reconstruct, "reconstruct_slices", outage)
        try:
            assert main(["reconstruct", scan, "--out", url, *COMMON]) == 1
        finally:
            server.start()
    assert f"kdrift send {url} sends them" in capsys.readouterr().err
    assert server.shown(url) == []
    assert main(["send", url]) == 0
    assert server.shown(url) == sorted(RESULTS)
    assert main(["send", url]) == 1
    assert "nothing is kept here" in capsys.readouterr().err


def test_input_is_not_written_over(server: Server, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    server.write(f"{url}/reconstruction.h5", b"the input")
    assert main(["reconstruct", f"{url}/reconstruction.h5", "--out", url, *COMMON]) == 1
    assert "name another place" in capsys.readouterr().err
    assert server.read(f"{url}/reconstruction.h5") == b"the input"
