"""`kdrift fetch-data` against a real HTTP server on this machine, and the list that it ships."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import yaml

from kdrift.cli import main
from kdrift.data.fetch import fetch, read_sources
from kdrift.data.formats import open_volume
from s3_helpers import Server

rng = np.random.default_rng(0)


class Served:
    """A folder that is served, and the paths that were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[str]()
        served = self

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                served.asked.append(self.path)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_port}/"

    def publish(self, path: str, content: bytes) -> str:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return hashlib.sha256(content).hexdigest()

    def source(self, files: dict[str, str], **fields: Any) -> dict[str, Any]:
        about = {"summary": "a test", "licence": "CC0-1.0", "citation": "Nobody: nothing. 2026", "folder": "kspace"}
        return {**about, "url": self.url, "files": files, **fields}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    here = Served(tmp_path / "served")
    thread = threading.Thread(target=here.server.serve_forever)
    thread.start()
    yield here
    here.server.shutdown()
    here.server.server_close()
    thread.join()


def sources(tmp_path: Path, **data: dict[str, Any]) -> Path:
    path = tmp_path / "sources.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def kdrift(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "kdrift", *map(str, words)], capture_output=True, text=True)


def test_the_command_fetches_names_terms_and_asks_once(served: Served, tmp_path: Path) -> None:
    files = {f"raw/{name}": served.publish(f"raw/{name}", name.encode()) for name in ("p1/a.nii.gz", "p2/b.nii.gz")}
    path = sources(tmp_path, heads=served.source(files, folder="brains", strip="raw/"))
    out = tmp_path / "data"
    done = kdrift("fetch-data", "heads", "--out", out, "--sources", path)
    assert done.returncode == 0, done.stderr
    assert "licence: CC0-1.0\ncite: Nobody: nothing. 2026" in done.stdout
    assert (out / "brains" / "p1" / "a.nii.gz").read_bytes() == b"p1/a.nii.gz"
    assert (out / "brains" / "p2" / "b.nii.gz").read_bytes() == b"p2/b.nii.gz"
    assert sorted(served.asked) == ["/raw/p1/a.nii.gz", "/raw/p2/b.nii.gz"]
    (out / "brains" / "p2" / "b.nii.gz").write_bytes(b"half")  # as an interrupted run of another program leaves it
    assert kdrift("fetch-data", "heads", "--out", out, "--sources", path).returncode == 0
    assert served.asked[2:] == ["/raw/p2/b.nii.gz"]
    assert (out / "brains" / "p2" / "b.nii.gz").read_bytes() == b"p2/b.nii.gz"


def test_another_content_is_refused_and_not_kept(served: Served, tmp_path: Path) -> None:
    served.publish("a.npy", b"not what was checked")
    path = sources(tmp_path, heads=served.source({"a.npy": "0" * 64}))
    done = kdrift("fetch-data", "heads", "--out", tmp_path / "data", "--sources", path)
    assert done.returncode == 1
    assert "has another SHA-256 than 000000000000" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "data").rglob("*.npy")) == []


def test_an_absent_file_and_an_absent_network_say_so(served: Served, tmp_path: Path) -> None:
    path = sources(tmp_path, heads=served.source({"gone.npy": "0" * 64}))
    with pytest.raises(ValueError, match="answered 404"):
        fetch("heads", read_sources(path)["heads"], tmp_path / "data")
    served.server.shutdown()
    served.server.server_close()
    with pytest.raises(ValueError, match=r"fetching data needs the network.*kdrift phantom"):
        fetch("heads", read_sources(path)["heads"], tmp_path / "data")


@pytest.mark.parametrize("conversion", ["coil_images", "kspace", "kspace_corner"])
def test_matlab_arrays_become_fastmri_files(served: Served, tmp_path: Path, conversion: str) -> None:
    shape = (12, 10, 3) if conversion == "coil_images" else (12, 10)
    array = rng.standard_normal(shape) + 1j * rng.standard_normal(shape)
    scipy.io.savemat(tmp_path / "scan.mat", {"data": array})
    checksum = served.publish("scan.mat", (tmp_path / "scan.mat").read_bytes())
    path = sources(tmp_path, scan=served.source({"scan.mat": checksum}, conversion=conversion, scale=2.0))
    (written,) = fetch("scan", read_sources(path)["scan"], tmp_path / "data")
    assert written == tmp_path / "data" / "kspace" / "scan.h5"
    with open_volume(str(written)) as volume:
        kspace, reference = volume.read_kspace(0, 1)[0], volume.read_image(0, 1)[0]
        assert volume.info.attrs["licence"] == "CC0-1.0"
    shifted = np.fft.ifftshift(kspace, axes=(-2, -1))
    images = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=(-2, -1))
    np.testing.assert_allclose(np.sqrt((np.abs(images) ** 2).sum(0)), reference, atol=1e-5)
    if conversion == "coil_images":
        np.testing.assert_allclose(images, 2 * np.moveaxis(array, -1, 0), atol=1e-5)
    elif conversion == "kspace":
        np.testing.assert_allclose(kspace[0], 2 * array, atol=1e-5)
    else:  # MATLAB's ifft2(ifftshift(kspace)), as the publisher shows it, is this image
        published = np.abs(np.fft.ifft2(np.fft.ifftshift(array), norm="ortho"))
        np.testing.assert_allclose(reference, 2 * published, atol=1e-5)


def test_coil_maps_become_numpy(served: Served, tmp_path: Path) -> None:
    maps = rng.standard_normal((12, 10, 1, 3)) + 1j * rng.standard_normal((12, 10, 1, 3))
    scipy.io.savemat(tmp_path / "maps.mat", {"S": maps, "other": np.ones(3)})
    files = {"maps.mat": served.publish("maps.mat", (tmp_path / "maps.mat").read_bytes())}
    fields = {"conversion": "coil_maps", "folder": "coils"}
    path = sources(tmp_path, head=served.source(files, array="S", **fields), bare=served.source(files, **fields))
    (written,) = fetch("head", read_sources(path)["head"], tmp_path / "data")
    assert written == tmp_path / "data" / "coils" / "head.npy"
    np.testing.assert_allclose(np.load(written), np.moveaxis(maps[:, :, 0], -1, 0), rtol=1e-6)
    with pytest.raises(ValueError, match=r"expected array \(one alone\) with 3 axes, got S \(12, 10, 3\), other"):
        fetch("bare", read_sources(path)["bare"], tmp_path / "data")


def test_the_shipped_list_is_complete_and_pinned() -> None:
    for name, data in read_sources().items():
        assert data.url.startswith("https://raw.githubusercontent.com/"), name
        assert len(data.url.rstrip("/").rsplit("/", 1)[1]) == 40, f"{name} is not pinned to a commit"
        assert all(len(value) == 64 for value in data.files.values())
        assert data.licence in ("MIT", "BSD-3-Clause", "CC-BY", "PDDL-1.0")
        assert data.citation
        targets = {path.removeprefix(data.strip) for path in data.files}
        assert len(targets) == len(data.files)


def test_what_the_list_says_is_what_the_real_files_are(shared_data: Path) -> None:
    for name in ("ms_brain", "datalad_t1"):
        data = read_sources()[name]
        for path, checksum in data.files.items():
            file = shared_data / data.folder / path.removeprefix(data.strip)
            assert hashlib.sha256(file.read_bytes()).hexdigest() == checksum, path


def test_a_wrong_list_and_a_wrong_name_are_sentences(tmp_path: Path) -> None:
    path = sources(tmp_path, heads={"summary": "x", "urll": "y"})
    with pytest.raises(ValueError, match="urll"):
        read_sources(path)
    done = kdrift("fetch-data", "nothing")
    assert done.returncode == 1
    assert "no data set 'nothing', expected one of graz_t2_4ch" in done.stderr
    listed = kdrift("fetch-data")
    assert [line.partition(":")[0] for line in listed.stdout.splitlines()] == list(read_sources())


def test_paths_stay_below_the_folder(served: Served, tmp_path: Path) -> None:
    path = sources(tmp_path, heads=served.source({"../a": "0" * 64}))
    with pytest.raises(ValueError, match="relative paths"):
        read_sources(path)


def test_data_at_a_url(
    served: Served, server: Server, url: str, tmp_path: Path, elsewhere: Callable[[], None], capsys: Any
) -> None:
    files = {name: served.publish(name, name.encode()) for name in ("a.nii.gz", "b.nii.gz")}
    words = ["fetch-data", "heads", "--out", url, "--sources", str(sources(tmp_path, heads=served.source(files)))]
    server.write(f"{url}/kspace/mine.txt", b"of somebody")
    server.write(f"{url}/large", b"not looked at")
    assert main(words) == 0
    assert f"heads: 2 files in {url}/kspace, checksums verified" in capsys.readouterr().out
    names = ["kspace/a.nii.gz", "kspace/b.nii.gz", "kspace/mine.txt", "large"]
    assert server.shown(url) == names
    assert server.read(f"{url}/kspace/a.nii.gz") == b"a.nii.gz"
    server.write(f"{url}/kspace/b.nii.gz", b"damaged")
    asked = len(served.asked)
    elsewhere()
    assert main(words) == 0
    assert served.asked[asked:] == ["/b.nii.gz"], "the other one is there"
    assert server.read(f"{url}/kspace/b.nii.gz") == b"b.nii.gz"
    assert server.shown(url) == names
