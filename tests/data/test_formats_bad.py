"""Bad files are named with their reason, whatever is wrong with them."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from formats_helpers import (
    VALID,
    random_kspace,
    read_all,
    xml,
)
from kdrift.data.array_file import read_array_file
from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.formats.bart import write_bart


def write_h5(path: Path, **datasets: object) -> Path:
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name] = value
    return path


class TestBadFiles:
    @pytest.mark.parametrize("name", VALID)
    def test_truncated(self, name: str, tmp_path: Path) -> None:
        path = VALID[name](tmp_path)
        path = path.with_suffix(".cfl") if name == "bart" else path
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 2 // 3])
        with pytest.raises(BadVolume, match=path.stem):
            read_all(path)
        path.write_bytes(b"")
        with pytest.raises(BadVolume, match=r"empty|declares"):
            open_volume(path)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(BadVolume, match="no such file"):
            open_volume(tmp_path / "nothing.h5")
        write_bart(tmp_path / "b", random_kspace((1, 1, 4, 4)))
        (tmp_path / "b.cfl").unlink()
        with pytest.raises(BadVolume, match=r"BART file b\.cfl is missing"):
            open_volume(tmp_path / "b.hdr")

    @pytest.mark.parametrize(
        ("datasets", "reason"),
        [
            ({"data": np.zeros(3)}, "found keys data, expected kspace"),
            ({"kspace": np.zeros((1, 2, 8, 6))}, "kspace is float64 .* expected complex"),
            ({"kspace": np.zeros((8, 6), complex)}, "expected complex"),
            ({"kspace": np.zeros((0, 2, 8, 6), np.complex64)}, "a dimension is 0"),
            ({"kspace": h5py.Empty("c8")}, "kspace is empty"),
            ({"kspace/inner": np.zeros(3)}, "kspace is a group, expected a dataset"),
            (
                {"kspace": random_kspace((2, 1, 8, 6)), "reconstruction_rss": np.ones((1, 8, 6))},
                "1 slices, kspace has 2",
            ),
            ({"kspace": random_kspace((2, 1, 8, 6)), "ismrmrd_header": 3.0}, "expected one text"),
            ({"reconstruction": np.ones((8, 6))}, "expected numbers"),
            ({"dataset/xml": "<a/>"}, "lacks data"),
            ({"dataset/xml": xml(8, 6), "dataset/data": np.zeros(3)}, "expected ISMRMRD acquisitions"),
        ],
    )
    def test_hdf5_content(self, datasets: dict[str, object], reason: str, tmp_path: Path) -> None:
        path = write_h5(tmp_path / "a.h5", **datasets)
        with pytest.raises(BadVolume, match=reason):
            open_volume(path)

    @pytest.mark.parametrize(
        ("mask", "reason"),
        [
            (np.zeros(6), "samples nothing"),
            (np.ones(5), r"mask has shape \(5,\), expected \(6,\)"),
            (np.full(6, np.nan), "not finite"),
        ],
    )
    def test_fastmri_masks(self, mask: np.ndarray, reason: str, tmp_path: Path) -> None:
        path = write_h5(tmp_path / "a.h5", kspace=random_kspace((2, 1, 8, 6)), mask=mask)
        with open_volume(path) as volume, pytest.raises(BadVolume, match=reason):
            volume.mask()

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (np.nan, "slice 2 holds NaN or infinite"),
            (np.inf, "slice 2 holds NaN or infinite"),
            (1e300, "slices 1:4: values are too large for single precision"),
        ],
    )
    def test_not_finite(self, value: float, reason: str, tmp_path: Path) -> None:
        kspace = random_kspace((4, 2, 8, 6)).astype(np.complex128)
        kspace[2, 1, 3, 3] = value
        np.save(tmp_path / "a.npy", kspace)
        write_h5(tmp_path / "a.h5", kspace=kspace)
        for name in ("a.npy", "a.h5"):
            with open_volume(tmp_path / name) as volume:
                volume.read_kspace(0, 2)
                with pytest.raises(BadVolume, match=reason):
                    volume.read_kspace(1, 4)

    def test_terabytes(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("kspace", (1 << 20, 16, 640, 640), np.complex64, chunks=(1, 1, 64, 64))
        with h5py.File(tmp_path / "b.h5", "w") as file:
            options = {"chunks": (1, 1, 64, 64), "compression": "gzip"}
            file.create_dataset("kspace", (1 << 20, 16, 640, 640), np.complex64, **options)
        (tmp_path / "c.hdr").write_text("# Dimensions\n100000 100000 1 32 1\n")
        (tmp_path / "c.cfl").write_bytes(b"\0" * 64)
        (tmp_path / "d.hdr").write_text("# Dimensions\n1000 1000 1 4 1\n")
        (tmp_path / "d.cfl").write_bytes(b"\0" * 64)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<c8", "fortran_order": False, "shape": (1 << 20, 16, 640, 640)}
        )
        (tmp_path / "e.npy").write_bytes(header.getvalue() + b"\0" * 64)
        with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
            archive.writestr("kspace.npy", header.getvalue() + b"\0" * 64)
        for name in ("a.h5", "b.h5", "c.hdr", "d.hdr", "e.npy", "f.npz"):
            with pytest.raises(BadVolume, match=r"declares|claims|greater than file size"):
                open_volume(tmp_path / name)

    def test_links_out_of_the_file(self, tmp_path: Path) -> None:
        write_h5(tmp_path / "other.h5", kspace=random_kspace((1, 1, 4, 4)))
        (tmp_path / "secret").write_bytes(bytes(1 * 1 * 4 * 4 * 8))
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["kspace"] = h5py.ExternalLink("other.h5", "kspace")
        with h5py.File(tmp_path / "b.h5", "w") as file:
            external = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset("kspace", (1, 1, 4, 4), np.complex64, external=external)
        with h5py.File(tmp_path / "c.h5", "w") as file:
            layout = h5py.VirtualLayout((1, 1, 4, 4), np.complex64)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "kspace", shape=(1, 1, 4, 4))
            file.create_virtual_dataset("kspace", layout)
        for name in ("a.h5", "b.h5", "c.h5"):
            with pytest.raises(BadVolume, match="expected the data itself"):
                open_volume(tmp_path / name)

    def test_pickles(self, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple:
                return os.mkdir, (str(tmp_path / "sprung"),)

        trap = np.array([Trap()], dtype=object)
        np.save(tmp_path / "a.npy", trap, allow_pickle=True)
        np.savez(tmp_path / "b.npz", allow_pickle=True, kspace=trap)
        (tmp_path / "c.npy").write_bytes(pickle.dumps(Trap()))
        for name in ("a.npy", "b.npz", "c.npy"):
            with pytest.raises(BadVolume):
                open_volume(tmp_path / name)
        assert not (tmp_path / "sprung").exists()

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros(4),
            np.zeros((1, 2, 3, 4)),
            np.zeros((4, 4), bool),
            np.zeros((0, 4)),
            np.array([["a", "b"]]),
        ],
    )
    def test_numpy_content(self, array: np.ndarray, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(BadVolume, match="expected"):
            open_volume(tmp_path / "a.npy")

    @pytest.mark.parametrize(
        ("arrays", "reason"),
        [
            ({"a": np.zeros(3), "b": np.zeros(3)}, "found arrays a, b, expected kspace"),
            ({"kspace": np.zeros((4, 4))}, "kspace is float64, expected complex"),
            (
                {"kspace": random_kspace((4, 4)), "mask": np.ones(3)},
                r"mask has shape \(3,\), expected \(4,\)",
            ),
            ({"kspace": random_kspace((4, 4)), "reference": np.ones((3, 4))}, r"expected real \(1, 4, 4\)"),
        ],
    )
    def test_npz_content(self, arrays: dict[str, np.ndarray], reason: str, tmp_path: Path) -> None:
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(BadVolume, match=reason), open_volume(tmp_path / "a.npz") as volume:
            volume.mask()

    @pytest.mark.parametrize(
        ("header", "reason"),
        [
            ("nothing", "no '# Dimensions' line"),
            ("# Dimensions\n4 -4 1\n", "expected 1 to 16 positive integers"),
            ("# Dimensions\n4 0 1\n", "number of columns is 0"),
            ("# Dimensions\n4 4 1 1 2\n", r"dimension 4 \(maps\) is 2, expected 1"),
            ("# Dimensions\n4 " + "9" * 30, "impossibly large"),
        ],
    )
    def test_bart_headers(self, header: str, reason: str, tmp_path: Path) -> None:
        (tmp_path / "a.hdr").write_text(header)
        (tmp_path / "a.cfl").write_bytes(b"\0" * 128)
        with pytest.raises(BadVolume, match=reason):
            open_volume(tmp_path / "a")

    def test_error_survives_pickling(self) -> None:
        error = pickle.loads(pickle.dumps(BadVolume("file", "reason")))
        assert str(error) == "file: reason"
        assert (error.path, error.reason) == ("file", "reason")


def test_bytes_behind_an_array_are_refused(tmp_path: Path) -> None:
    kspace = random_kspace((2, 3, 12, 9))
    np.save(tmp_path / "a.npy", kspace)
    write_bart(tmp_path / "b", kspace)
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("kspace.npy", (tmp_path / "a.npy").read_bytes() + bytes(80))
    for name in ("a.npy", "b.cfl"):
        with (tmp_path / name).open("ab") as file:
            file.write(bytes(800))
    for name, sentence in (
        ("a.npy", r"a\.npy declares 5184 bytes of data, and 800 bytes follow them"),
        ("b.cfl", r"header declares 5184 bytes of data, b\.cfl holds 5984"),
        ("c.npz", r"kspace\.npy declares 5184 bytes of data, and 80 bytes follow them"),
    ):
        with pytest.raises(BadVolume, match=sentence):
            open_volume(tmp_path / name)
    for name in ("a.npy", "b.cfl"):
        with pytest.raises(ValueError, match=r"cannot be read: .*bytes"):
            read_array_file(str(tmp_path / name), "smaps")
