"""Writers of valid small files of every format, and ways to read them, for the tests of the readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pydicom
import scipy.io
import scipy.sparse
from hypothesis import strategies as st
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from kdrift.data.formats import open_volume
from kdrift.data.formats.bart import write_bart
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.formats.header import write_header

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 32), st.integers(1, 17), st.integers(1, 17))
FOV = (200.0, 200.0, 5.0)

_INDEX = [(name, "<u2") for name in (
    "kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast", "phase", "repetition",
    "set", "segment",
)]  # fmt: skip
HEAD = np.dtype([
    ("version", "<u2"), ("flags", "<u8"), ("measurement_uid", "<u4"), ("scan_counter", "<u4"),
    ("acquisition_time_stamp", "<u4"), ("physiology_time_stamp", "<u4", (3,)), ("number_of_samples", "<u2"),
    ("available_channels", "<u2"), ("active_channels", "<u2"), ("channel_mask", "<u8", (16,)),
    ("discard_pre", "<u2"), ("discard_post", "<u2"), ("center_sample", "<u2"), ("encoding_space_ref", "<u2"),
    ("trajectory_dimensions", "<u2"), ("sample_time_us", "<f4"), ("position", "<f4", (3,)),
    ("read_dir", "<f4", (3,)), ("phase_dir", "<f4", (3,)), ("slice_dir", "<f4", (3,)),
    ("patient_table_position", "<f4", (3,)), ("idx", [*_INDEX, ("user", "<u2", (8,))]),
    ("user_int", "<i4", (8,)), ("user_float", "<f4", (8,)),
])  # fmt: skip


def random_kspace(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def bit(flag: int) -> int:
    return 1 << (flag - 1)


def line(samples: np.ndarray, *, flags: int = 0, centre: int | None = None, **index: int) -> tuple:
    """One acquisition: its head and its samples `(coil, sample)`. Keywords that are no index set the head."""
    head = np.zeros((), dtype=HEAD)
    head["version"], head["flags"] = 1, flags
    head["active_channels"] = head["available_channels"] = samples.shape[0]
    head["number_of_samples"] = samples.shape[1]
    head["center_sample"] = samples.shape[1] // 2 if centre is None else centre
    head["sample_time_us"] = 5.0
    for name, value in index.items():
        (head["idx"] if name in HEAD["idx"].names else head)[name] = value
    return head, samples


def cartesian_lines(kspace: np.ndarray, centre: int | None = None) -> list[tuple]:
    """All acquisitions of `(slice, coil, row, col)`."""
    num_slices, _, _, cols = kspace.shape
    offset = 0 if centre is None else centre - cols // 2
    return [
        line(kspace[s, :, :, c], slice=s, kspace_encode_step_1=c + offset)
        for s in range(num_slices)
        for c in range(cols)
    ]


def write_ismrmrd(path: Path, lines: list[tuple], xml: str) -> None:
    floats = h5py.vlen_dtype(np.dtype("<f4"))
    table = np.empty(len(lines), dtype=[("head", HEAD), ("traj", floats), ("data", floats)])
    for place, (head, samples) in enumerate(lines):
        table[place]["head"] = head
        table[place]["traj"] = np.zeros(0, dtype=np.float32)
        table[place]["data"] = np.ascontiguousarray(samples, dtype=np.complex64).view(np.float32).ravel()
    with h5py.File(path, "w") as file:
        file.create_dataset("dataset/data", data=table)
        file.create_dataset("dataset/xml", data=[xml], dtype=h5py.string_dtype())


def write_dicom(path: Path, pixels: np.ndarray, *, position: float, series: str, **tags: object) -> None:
    """One MR image; `pixels` uint16 `(row, col)`, or `(frame, row, col)`."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.SeriesInstanceUID, dataset.PatientID = "MR", series, "someone"
    dataset.SeriesDescription, dataset.MagneticFieldStrength = "t1_mprage", 3.0
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, position], [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [0.5, 0.75], 3
    for tag, value in tags.items():
        setattr(dataset, tag, value)
    dataset.PixelData = pixels.astype("<u2").tobytes()
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def _fastmri(folder: Path) -> Path:
    kspace, reference = random_kspace((3, 4, 12, 10)), np.ones((3, 8, 8), dtype=np.float32)
    write_fastmri(folder / "a.h5", kspace, reference=reference, mask=np.arange(10) % 2, attrs={"field_T": 3.0})
    return folder / "a.h5"


def _fastmri_compressed(folder: Path) -> Path:
    with h5py.File(folder / "z.h5", "w") as file:
        options = {"chunks": (1, 4, 12, 10), "compression": "gzip", "fletcher32": True, "shuffle": True}
        file.create_dataset("kspace", data=random_kspace((3, 4, 12, 10)), **options)
    return folder / "z.h5"


def _ismrmrd(folder: Path) -> Path:
    lines = cartesian_lines(random_kspace((2, 3, 12, 10)))
    lines.append(line(random_kspace((3, 64)), flags=bit(19)))
    lines += [line(random_kspace((3, 12)), flags=bit(20), slice=0, kspace_encode_step_1=step) for step in (4, 5)]
    lines[3] = line(random_kspace((3, 12)), flags=bit(22), slice=0, kspace_encode_step_1=3)
    lines += [line(random_kspace((3, 12)), flags=flags, slice=0) for flags in (bit(24), bit(24) + bit(22))]
    write_ismrmrd(folder / "raw.h5", lines, write_header((12, 10), (6, 10), (200.0, 200.0, 5.0), {}))
    return folder / "raw.h5"


def _bart(folder: Path) -> Path:
    write_bart(folder / "b", random_kspace((2, 3, 12, 10)))
    return folder / "b.hdr"


def _npy(folder: Path) -> Path:
    np.save(folder / "k.npy", random_kspace((2, 3, 12, 10)))
    return folder / "k.npy"


def _npz(folder: Path) -> Path:
    kspace = random_kspace((2, 3, 12, 10))
    np.savez_compressed(folder / "k.npz", kspace=kspace, mask=np.arange(10) % 2, reference=np.ones((2, 12, 10)))
    return folder / "k.npz"


def _nifti(suffix: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        data = np.arange(9 * 8 * 7, dtype=np.int16).reshape(9, 8, 7)
        path = folder / f"i{suffix}"
        kind = nibabel.Nifti1Pair if suffix == ".img" else nibabel.Nifti1Image
        nibabel.save(kind(data, np.diag([-1.0, -1.0, 3.0, 1.0])), path)
        return path

    return write


def _dicom(folder: Path) -> Path:
    write_dicom(folder / "d.dcm", np.arange(90).reshape(9, 10), position=1.0, series="1.2.3")
    return folder / "d.dcm"


def _mat(folder: Path) -> Path:
    scipy.io.savemat(folder / "m.mat", {"kspace_full": random_kspace((12, 10, 2, 3, 2)), "mask": np.ones((12, 10))})
    return folder / "m.mat"


def _mat_sparse(folder: Path) -> Path:
    mask = scipy.sparse.csc_matrix(np.arange(120).reshape(12, 10) % 3 == 0)
    kspace = random_kspace((12, 10, 2, 3)) * mask.toarray()[:, :, None, None]
    scipy.io.savemat(folder / "s.mat", {"kspace": kspace, "mask": mask}, do_compression=True)
    return folder / "s.mat"


def _mat_hdf5(folder: Path) -> Path:
    kspace = random_kspace((3, 2, 10, 12))
    records = np.empty(kspace.shape, [("real", "f4"), ("imag", "f4")])
    records["real"], records["imag"] = kspace.real, kspace.imag
    with h5py.File(folder / "v.mat", "w", userblock_size=512) as file:
        file.create_dataset("kspace_full", data=records, chunks=(1, 2, 10, 12), compression="gzip")
        file["mask"] = np.ones((10, 12), np.uint8)
    with (folder / "v.mat").open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file")
    return folder / "v.mat"


def _skm_tea(folder: Path) -> Path:
    with h5py.File(folder / "t.h5", "w") as file:
        file.create_dataset(
            "kspace", data=random_kspace((3, 12, 10, 2, 4)), chunks=(1, 12, 10, 2, 4), compression="lzf"
        )
        file["target"] = random_kspace((3, 12, 10, 2, 1))
    return folder / "t.h5"


def _calgary(folder: Path) -> Path:
    with h5py.File(folder / "c.h5", "w") as file:
        file["kspace"] = random_kspace((3, 12, 10, 2)).view(np.float32)
    return folder / "c.h5"


VALID: dict[str, Callable[[Path], Path]] = {
    "fastmri": _fastmri,
    "fastmri-compressed": _fastmri_compressed,
    "ismrmrd": _ismrmrd,
    "bart": _bart,
    "matlab": _mat,
    "matlab-sparse": _mat_sparse,
    "matlab-hdf5": _mat_hdf5,
    "skm-tea": _skm_tea,
    "calgary": _calgary,
    "npy": _npy,
    "npz": _npz,
    "nifti": _nifti(".nii"),
    "nifti-gz": _nifti(".nii.gz"),
    "nifti-pair": _nifti(".img"),
    "dicom": _dicom,
}
"""Write a valid file of a format into a folder and return its path."""


def xml(rows: int, cols: int, slices: int = 1) -> str:
    return write_header((rows, cols), (rows, cols), FOV, {}, slices)


def read(path: Path | str) -> np.ndarray:
    with open_volume(path) as volume:
        slices = [volume.read_kspace(i, i + 1) for i in range(volume.info.num_slices)]
        whole = volume.read_kspace(0, volume.info.num_slices)
    assert whole.dtype == np.complex64
    np.testing.assert_array_equal(np.concatenate(slices), whole)
    return whole


def read_all(path: Path) -> None:
    with open_volume(path) as volume:
        if volume.info.kind == "kspace":
            volume.read_kspace(0, volume.info.num_slices)
        volume.read_image(0, volume.info.num_slices)


def ifft(x: np.ndarray, axis: int) -> np.ndarray:
    return np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(x, axis), axis=axis, norm="ortho"), axis)
