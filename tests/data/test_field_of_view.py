"""Image size, voxels and place of raw data by fields of view and acquisition headers, in mm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from kdrift.data.formats import open_volume
from kdrift.data.formats.field_of_view import image_field
from kdrift.data.formats.header import Encoding, write_header
from kdrift.data.volume import VolumeInfo
from mrd_helpers import acquisition, encoding, header, lines, object_kspace, write

READ, PHASE, SLICE = (np.array(v) for v in ((0.0, 0.6, 0.8), (1.0, 0.0, 0.0), (0.0, 0.8, -0.6)))


def info_of(path: Path) -> VolumeInfo:
    with open_volume(path) as volume:
        return volume.info


@pytest.mark.parametrize(
    ("encoded", "recon", "fov", "recon_fov", "size", "voxel"),
    [
        ((192, 80), (192, 160), (480, 200), (240, 200), (96, 80), (2.5, 2.5)),  # interpolated
        ((640, 372), (320, 320), (280, 162.818), (140, 140), (320, 320), (0.4375, 162.818 / 372)),  # fastMRI knee
        ((256, 100), (128, 80), (512, 250), (256, 200), (128, 80), (2.0, 2.5)),  # phase oversampling too
        ((128, 128), (64, 64), (256, 256), (256, 256), (128, 128), (2.0, 2.0)),  # a smaller matrix of the same field
        ((101, 60), (50, 60), (300, 180), (149, 180), (50, 60), (300 / 101, 3.0)),  # odd, and rounded fields
    ],
)
def test_fields_of_view_decide(
    encoded: Any, recon: Any, fov: Any, recon_fov: Any, size: Any, voxel: Any, tmp_path: Path
) -> None:
    made = encoding((*encoded, 1), (*recon, 1), (*fov, 5.0), (*recon_fov, 5.0))
    write(tmp_path / "a.h5", lines(object_kspace(1, *encoded)[:, :, :2]), header(made))
    info = info_of(tmp_path / "a.h5")
    assert (info.recon_rows, info.recon_cols) == size
    assert info.geometry is not None
    assert info.geometry.voxel_mm == pytest.approx((*voxel, 5.0))
    assert any("interpolation" in note for note in info.notes) == (size != recon)


@pytest.mark.parametrize(
    ("fov", "recon_fov"),
    [((0, 0, 0), (0, 0, 0)), ((-1, 200, 5), (240, 200, 5)), ((240, 200, 5), (480, 400, 5)), (None, (240, 200, 5))],
)
def test_senseless_fields_of_view_leave_it_to_the_matrices(fov: Any, recon_fov: Any) -> None:
    field = image_field(Encoding((192, 80, 1), (96, 80, 1), fov, recon_fov), 192, 80)
    assert (field.rows, field.cols) == (96, 80)
    assert any("the image is cut by matrix sizes" in note for note in field.notes)


def test_without_any_field_of_view_nothing_is_known_of_voxels() -> None:
    field = image_field(Encoding((192, 80, 1), (96, 80, 1)), 192, 80)
    assert field.voxel_mm is None
    assert len(field.notes) == 1
    thick = image_field(Encoding((8, 8, 1), (8, 8, 1), (80, 80, float("nan")), (80, 80, 0)), 8, 8)
    assert thick.voxel_mm == (10, 10, 1)
    assert any("slice thickness" in note for note in thick.notes)


def test_slices_of_3d_are_kept_by_field_of_view(tmp_path: Path) -> None:
    made = encoding((8, 6, 10), (8, 6, 16), (80, 60, 50), (80, 60, 40))
    kspace = object_kspace(1, 8, 6)
    written = [
        line for z in range(10) for line in lines(kspace, kspace_encode_step_2=z, place=((5, 6, 7), READ, PHASE, SLICE))
    ]
    write(tmp_path / "a.h5", written, header(made))
    info = info_of(tmp_path / "a.h5")
    assert info.num_slices == 8
    geometry = info.geometry
    assert geometry is not None
    assert geometry.voxel_mm == pytest.approx((10, 10, 5))
    assert geometry.stated
    # slice 4 of 8 is the middle of the slab, where the position is
    np.testing.assert_allclose(geometry.affine_lps(8, 6) @ (4, 3, 4, 1), (5, 6, 7, 1), atol=1e-5)


def test_a_marker_lies_where_the_directions_say(tmp_path: Path) -> None:
    """A point at a known place of the patient is found there, in an oblique scan of several slices."""
    rows, cols, centre = 16, 12, np.array([12.0, -7.0, 30.0])
    spot = np.zeros((rows, cols))
    spot[11, 2] = 1
    shifted = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(spot), norm="ortho"))[None]
    written = []
    for number in range(3):
        place = (centre + 6 * number * SLICE, READ, PHASE, SLICE)
        written += lines(shifted.astype(np.complex64), slice=number, place=place)
    made = encoding((rows, cols, 1), fov=(32, 36, 5))
    write(tmp_path / "a.h5", written, header(made))
    geometry = info_of(tmp_path / "a.h5").geometry
    assert geometry is not None
    assert geometry.stated
    assert geometry.voxel_mm == pytest.approx((2, 3, 6))  # 5 mm thick, 6 mm apart
    expected = centre + 2 * (11 - 8) * READ + 3 * (2 - 6) * PHASE + 2 * 6 * SLICE
    np.testing.assert_allclose((geometry.affine_lps(rows, cols) @ (11, 2, 2, 1))[:3], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("places", "word"),
    [
        ([(np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3))] * 2, "zero"),
        ([(np.zeros(3), READ, READ, SLICE)] * 2, "not orthonormal"),
        ([(np.zeros(3), 2 * READ, PHASE, SLICE)] * 2, "not orthonormal"),
        ([(np.zeros(3), READ, PHASE, SLICE)] * 2, "same position"),
        ([(n * SLICE, READ, PHASE, SLICE) for n in (0, 5, 11)], "not evenly spaced"),
        ([(n * SLICE, READ, PHASE, SLICE) for n in (0, 10, 5, 16)], "not evenly spaced"),
        ([(np.zeros(3), READ, PHASE, SLICE), (SLICE, PHASE, READ, SLICE)], "different directions"),
        ([(np.full(3, np.nan), READ, PHASE, SLICE)], "not finite"),
    ],
)
def test_doubtful_places_are_said(places: list[Any], word: str, tmp_path: Path) -> None:
    kspace = object_kspace(1, 8, 6)
    written = [
        acquisition(kspace[:, :, c], c, slice=n, place=place) for n, place in enumerate(places) for c in range(6)
    ]
    write(tmp_path / "a.h5", written, header(encoding((8, 6, 1), fov=(80, 60, 4))))
    info = info_of(tmp_path / "a.h5")
    assert info.geometry is not None
    assert not info.geometry.stated
    assert info.geometry.voxel_mm[:2] == (10, 10)
    assert any(word in note for note in info.notes)


def test_fastmri_files_use_the_same_rule(tmp_path: Path) -> None:
    kspace = object_kspace(2, 64, 46)[None]
    xml = write_header((64, 46), (32, 40), (140.0, 140.0, 3.0), {}).replace("<x>32</x><y>40</y>", "<x>64</x><y>80</y>")
    for name, reference in (("a.h5", None), ("b.h5", np.ones((1, 30, 40), np.float32))):
        with h5py.File(tmp_path / name, "w") as file:
            file["kspace"], file["ismrmrd_header"] = kspace, xml
            if reference is not None:
                file["reconstruction_rss"] = reference
    info = info_of(tmp_path / "a.h5")
    assert (info.recon_rows, info.recon_cols) == (32, 40)
    assert info.geometry is not None
    assert info.geometry.voxel_mm == pytest.approx((4.375, 3.5, 3.0))
    assert not info.geometry.stated
    assert any("interpolation" in note for note in info.notes)
    info = info_of(tmp_path / "b.h5")  # the reference decides
    assert (info.recon_rows, info.recon_cols) == (30, 40)
    assert info.geometry is not None
    assert info.geometry.voxel_mm == pytest.approx((4.375, 3.5, 3.0))


def test_kspace_that_the_header_does_not_describe(tmp_path: Path) -> None:
    """Readout oversampling was removed, the header still has it."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = object_kspace(2, 32, 40)[None]
        file["ismrmrd_header"] = write_header((64, 40), (32, 40), (160.0, 200.0, 3.0), {})
    info = info_of(tmp_path / "a.h5")
    assert (info.recon_rows, info.recon_cols) == (32, 40)
    assert info.geometry is not None
    assert info.geometry.voxel_mm == pytest.approx((5, 5, 3))
    assert any("do not fit the 32 x 40 k-space along rows" in note for note in info.notes)
