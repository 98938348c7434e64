"""Files that claim, or unfold to, far more than they are: refused from their headers, in little memory."""

from __future__ import annotations

import gzip
import io
import resource
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pydicom
import pytest

from formats_helpers import FOV, VALID, cartesian_lines, random_kspace, write_dicom, write_ismrmrd
from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.formats.header import write_header
from kdrift.data.volume import check_expansion

MIB = 1 << 20


def _zeros(stream: object, size: int) -> None:
    block = bytes(8 * MIB)
    for _ in range(size // len(block)):
        stream.write(block)  # type: ignore[attr-defined]


def _npz(path: Path, shape: tuple[int, ...], fortran: bool = False, dtype: str = "<c8") -> Path:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": dtype, "fortran_order": fortran, "shape": shape})
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("kspace.npy", "w", force_zip64=True) as stream,
    ):
        stream.write(header.getvalue())
        _zeros(stream, int(np.prod(shape)) * np.dtype(dtype).itemsize)
    return path


def mask_beside_kspace(folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        file["kspace"] = random_kspace((1, 2, 24, 24))
        mask = file.create_dataset("mask", (MIB, 1024), np.uint8, chunks=(MIB // 16, 1024), compression="gzip")
        chunk = zlib.compress(bytes(64 * MIB), 9)
        for row in range(0, MIB, MIB // 16):
            mask.id.write_direct_chunk((row, 0), chunk)
    return folder / "a.h5"


def chunk_beyond_the_array(folder: Path) -> Path:
    with h5py.File(folder / "b.h5", "w") as file:
        options = {"chunks": (1, 512, 1024, 1024), "maxshape": (None,) * 4, "compression": "gzip"}
        kspace = file.create_dataset("kspace", (1, 1, 64, 64), np.complex64, **options)
        kspace.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(16 * MIB), 9))
    return folder / "b.h5"


def chunk_that_unfolds(folder: Path) -> Path:
    with h5py.File(folder / "j.h5", "w") as file:
        options = {"chunks": (1, 2, 24, 24), "compression": "gzip"}
        kspace = file.create_dataset("kspace", (1, 2, 24, 24), np.complex64, **options)
        kspace.id.write_direct_chunk((0, 0, 0, 0), zlib.compress(bytes(1000 * MIB), 9))
    return folder / "j.h5"


def _zeros_deflated(mebibytes: int) -> bytes:
    """A valid stream of so many MiB of zeros, made from one that is repeated."""
    packer = zlib.compressobj(9)
    head = packer.compress(b"\0") + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + again * mebibytes


def chunk_of_its_size_that_unfolds(folder: Path) -> Path:
    """9 MiB in the file, 9 MiB by its shape, and 8 GiB inflated."""
    with h5py.File(folder / "k.h5", "w") as file:
        options = {"chunks": (1, 1, 1024, 1152), "compression": "gzip"}
        kspace = file.create_dataset("kspace", (1, 1, 1024, 1152), np.complex64, **options)
        kspace.id.write_direct_chunk((0, 0, 0, 0), _zeros_deflated(8000))
    return folder / "k.h5"


def small_chunks_that_unfold(folder: Path) -> Path:
    """4096 chunks of 2 KiB, of which libhdf5 keeps those that its cache of 8 MiB holds by their shape: 8 GiB."""
    with h5py.File(folder / "l.h5", "w") as file:
        kspace = file.create_dataset(
            "kspace", (1, 1, 4096, 256), np.complex64, chunks=(1, 1, 1, 256), compression="gzip"
        )
        for row in range(4096):
            kspace.id.write_direct_chunk((0, 0, row, 0), _zeros_deflated(2))
    return folder / "l.h5"


def gzip_in_gzip(folder: Path) -> Path:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((1, 1, 64, 64))
    creation.set_deflate(1)
    creation.set_filter(h5py.h5z.FILTER_DEFLATE, 0, (1,))
    with h5py.File(folder / "m.h5", "w") as file:
        kind, space = h5py.h5t.py_create(np.dtype(np.complex64)), h5py.h5s.create_simple((1, 1, 64, 64))
        kspace = h5py.h5d.create(file.id, b"kspace", kind, space, creation)
        kspace.write_direct_chunk((0, 0, 0, 0), zlib.compress(_zeros_deflated(8000), 9))
    return folder / "m.h5"


def fortran_npz(folder: Path) -> Path:
    return _npz(folder / "c.npz", (50, 4, 512, 384), fortran=True)


def one_huge_slice(folder: Path) -> Path:
    return _npz(folder / "d.npz", (1, 450, 512, 512))


def gzip_nifti(folder: Path) -> Path:
    header = nibabel.Nifti1Header()
    header.set_data_shape((512, 512, 2000))
    header.set_data_dtype(np.int16)
    header["magic"], header["vox_offset"], header["pixdim"][1:4] = b"n+1", 352, 1
    with gzip.open(folder / "e.nii.gz", "wb", compresslevel=1) as stream:
        stream.write(header.binaryblock + bytes(4))
        _zeros(stream, 1000 * MIB)
    return folder / "e.nii.gz"


def dicom_frames(folder: Path) -> Path:
    write_dicom(folder / "f.dcm", np.zeros((2, 9, 10)), position=0, series="1.2", NumberOfFrames="2000000000")
    return folder / "f.dcm"


def compressed_dicom_frames(folder: Path) -> Path:
    write_dicom(folder / "g.dcm", np.zeros((2, 9, 10)), position=0, series="1.2")
    dataset = pydicom.dcmread(folder / "g.dcm")
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(600_000)] * 2)
    dataset["PixelData"].is_undefined_length = True
    dataset.Rows = dataset.Columns = 12000
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    dataset.save_as(folder / "g.dcm")
    return folder / "g.dcm"


def deflated_dicom(folder: Path) -> Path:
    write_dicom(folder / "h.dcm", np.zeros((9, 10)), position=0, series="1.2")
    dataset = pydicom.dcmread(folder / "h.dcm")
    dataset.PixelData = bytes(400 * MIB)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(folder / "h.dcm")
    return folder / "h.dcm"


def one_line_of_a_huge_matrix(folder: Path) -> Path:
    header = write_header((4096, 4096), (4096, 4096), FOV, {})
    write_ismrmrd(folder / "i.h5", cartesian_lines(random_kspace((1, 4, 4096, 1))), header)
    return folder / "i.h5"


BOMBS = (
    mask_beside_kspace, chunk_beyond_the_array, chunk_that_unfolds,
    chunk_of_its_size_that_unfolds, small_chunks_that_unfold, gzip_in_gzip, fortran_npz, one_huge_slice, gzip_nifti,
    dicom_frames, compressed_dicom_frames, deflated_dicom, one_line_of_a_huge_matrix,
)  # fmt: skip
OPENED = """
import resource, sys
import pydicom, nibabel, pydicom.filereader  # what reading needs is no part of the bomb
from kdrift.data.formats import BadVolume, open_volume
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    with open_volume(sys.argv[1]) as volume:
        volume.mask(), volume.read_kspace(0, 1)
except BadVolume as error:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, error.reason)
"""


@pytest.mark.parametrize(
    "bomb",
    [pytest.param(each, marks=pytest.mark.slow if each is small_chunks_that_unfold else ()) for each in BOMBS],
    ids=lambda bomb: bomb.__name__,
)
def test_bombs_are_refused_from_their_headers(bomb: Callable[[Path], Path], tmp_path: Path) -> None:
    path = bomb(tmp_path)
    assert path.stat().st_size < 10 * MIB
    limit = lambda: resource.setrlimit(resource.RLIMIT_CPU, (60, 60))  # noqa: E731
    done = subprocess.run(
        [sys.executable, "-c", OPENED, str(path)], capture_output=True, text=True, check=True, preexec_fn=limit
    )
    grown, _, reason = done.stdout.partition(" ")
    assert reason, f"{path.name} was read"
    words = ("declares", "Fortran", "more than", "inflated", "claims", "outside", "has a chunk", "packed")
    assert any(word in reason for word in words), reason
    # what is inflated to be measured is held up to the limit; headers alone take nothing
    assert int(grown) < (600 if bomb is deflated_dicom else 100), f"{grown} MiB: {reason}"


def test_what_libhdf5_would_crash_on_is_refused_before(tmp_path: Path) -> None:
    """Found by `make fuzz`: an empty chunk with a checksum, flags of a sequence; and a sequence beyond its object."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        options = {"chunks": (1, 2, 4, 4), "compression": "gzip", "fletcher32": True}
        kspace = file.create_dataset("kspace", data=random_kspace((2, 2, 4, 4)), **options)
        kspace.id.write_direct_chunk((1, 0, 0, 0), b"abcd")
    with pytest.raises(BadVolume, match="kspace has a chunk of 4 bytes"):
        open_volume(tmp_path / "a.h5")
    path = VALID["ismrmrd"](tmp_path)
    content = path.read_bytes()
    flags = content.index(b"\x19\0\0\0\x10", content.index(b"traj")) + 1
    path.write_bytes(content[:flags] + b"\x08" + content[flags + 1 :])
    with pytest.raises(BadVolume, match="damaged type"):
        open_volume(path)
    first = struct.pack("<HHIQ", 1, 0, 0, 288)  # an object of 72 numbers, and then of 71
    path.write_bytes(content.replace(first, struct.pack("<HHIQ", 1, 0, 0, 284)))
    with open_volume(path) as volume, pytest.raises(BadVolume, match="claims 72 values, its heap holds fewer"):
        volume.read_kspace(0, 1)


def test_honest_files_are_read_however_well_they_compress(tmp_path: Path) -> None:
    """Zeros compress a thousandfold: below 256 MiB nothing is refused for that."""
    np.savez_compressed(tmp_path / "a.npz", kspace=random_kspace((2, 4, 64, 64)) * (np.arange(64) == 32))
    labels = np.zeros((256, 256, 300), np.uint8)
    labels[100:120, 100:120] = 1
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4)), tmp_path / "labels.nii.gz")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("kspace", data=np.zeros((3, 4, 640, 320), np.complex64), compression="gzip")
    for name in ("a.npz", "labels.nii.gz", "a.h5"):
        with open_volume(tmp_path / name) as volume:
            assert volume.info.num_slices >= 2
    np.savez(tmp_path / "f.npz", kspace=np.asfortranarray(random_kspace((3, 2, 8, 7))))
    with open_volume(tmp_path / "f.npz") as volume:
        expected = random_kspace((3, 2, 8, 7))[2:]
        np.testing.assert_array_equal(volume.read_kspace(2, 3), expected)
    check_expansion("x", 300 * MIB, 10 * MIB)
    with pytest.raises(BadVolume, match="at most 32 times"):
        check_expansion("x", 330 * MIB, 10 * MIB)
