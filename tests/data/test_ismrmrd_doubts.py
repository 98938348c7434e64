"""ISMRMRD acquisitions that contradict their header, or each other: read as they are, refused, or told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
import pytest

from kdrift.data.centring import ifft_centred
from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.formats.bart import write_bart
from kdrift.data.formats.ismrmrd_table import read_noise
from kdrift.data.volume import ReadOptions, VolumeInfo
from mrd_helpers import acquisition, encoding, header, lines, object_kspace, write

NOISE, REVERSE = 19, 22
ROWS, COLS = 16, 12
PLACE = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))


def opened(path: Path, **select: str) -> tuple[np.ndarray, VolumeInfo, np.ndarray | None]:
    with open_volume(path, ReadOptions(select)) as volume:
        return volume.read_kspace(0, volume.info.num_slices), volume.info, volume.mask()


class TestReadout:
    @pytest.mark.parametrize("centre", [ROWS // 2, ROWS])
    @pytest.mark.parametrize("factor", [2, 1.5])
    def test_oversampling_removed_before(self, centre: int, factor: float, tmp_path: Path) -> None:
        kspace = object_kspace(2, ROWS, COLS)
        size = (int(factor * ROWS), COLS, 1)
        xml = header(encoding(size, (ROWS, COLS, 1), (factor * 200.0, 160.0, 5.0), (200.0, 160.0, 5.0)))
        read, info, mask = opened(write(tmp_path / "a.h5", lines(kspace, centre=centre), xml))
        np.testing.assert_array_equal(read[0], kspace)
        assert mask is None
        assert (info.recon_rows, info.recon_cols) == (ROWS, COLS)
        assert info.geometry is not None
        assert info.geometry.voxel_mm == pytest.approx((200 / ROWS, 160 / COLS, 5))
        assert any(f"lines have {ROWS} samples with the echo in the middle" in note for note in info.notes)

    def test_what_is_short_for_another_reason_stays(self, tmp_path: Path) -> None:
        """A partial echo, and a matrix that is interpolated in the same field of view."""
        kspace = object_kspace(2, ROWS, COLS)
        double = ((2 * ROWS, COLS, 1), (ROWS, COLS, 1))
        wide = encoding(*double, (400.0, 160.0, 5.0), (200.0, 160.0, 5.0))
        _, info, _ = opened(write(tmp_path / "a.h5", lines(kspace, centre=3), header(wide)))
        assert info.rows == 2 * ROWS
        same = encoding(*double, (200.0, 160.0, 5.0), (200.0, 160.0, 5.0))
        _, info, _ = opened(write(tmp_path / "b.h5", lines(kspace), header(same)))
        assert info.rows == 2 * ROWS


def with_trajectory(kspace: np.ndarray, points: Any) -> list[Any]:
    """All lines of `(coil, row, col)`; `points(step)` is the trajectory `(sample, dimension)` of one."""
    made = []
    for step, line in enumerate(lines(kspace)):
        points_of = np.asarray(points(step), dtype=np.float32)
        line.resize(number_of_samples=ROWS, active_channels=len(kspace), trajectory_dimensions=points_of.shape[1])
        line.data[:] = kspace[:, :, step]
        line.traj[:] = points_of
        made.append(line)
    return made


RADII = np.linspace(-0.5, 0.5, ROWS)


class TestTrajectory:
    @pytest.mark.parametrize(
        ("points", "what"),
        [
            (lambda step: np.outer(RADII, [np.cos(0.3 * step), np.sin(0.3 * step)]), "different directions"),
            (
                lambda step: np.stack([RADII * np.cos(9 * RADII), RADII * np.sin(9 * RADII), 0 * RADII], axis=1),
                "not evenly",
            ),
            (lambda step: np.sign(RADII[:, None]) * RADII[:, None] ** 2, "not evenly spaced"),
            (lambda step: np.stack([RADII, np.full(ROWS, np.sin(step * 2.4))], axis=1), "off the places"),
            (lambda step: np.full((ROWS, 2), np.nan), "NaN"),
        ],
    )
    def test_off_the_grid_is_refused(self, points: Any, what: str, tmp_path: Path) -> None:
        write(
            tmp_path / "a.h5", with_trajectory(object_kspace(2, ROWS, COLS), points), header(encoding((ROWS, COLS, 1)))
        )
        with pytest.raises(BadVolume, match=what):
            open_volume(tmp_path / "a.h5")

    @pytest.mark.parametrize(
        "points",
        [
            lambda step: np.stack([RADII, np.full(ROWS, 0.1 * step - 0.6)], axis=1),
            lambda step: 1e3 * np.stack([RADII, np.full(ROWS, 0.1 * step), np.ones(ROWS)], axis=1),
            lambda step: np.zeros((ROWS, 2)),
            lambda step: RADII[:, None],
        ],
    )
    def test_on_the_grid_is_read(self, points: Any, tmp_path: Path) -> None:
        kspace = object_kspace(2, ROWS, COLS)
        read, info, _ = opened(
            write(tmp_path / "a.h5", with_trajectory(kspace, points), header(encoding((ROWS, COLS, 1))))
        )
        np.testing.assert_array_equal(read[0], kspace)
        assert info.notes == ()


class TestNoise:
    def scan(self, samples: np.ndarray, dwell: float = 5.0, discard: tuple[int, int] = (0, 0)) -> Any:
        made = acquisition(samples, flags=(NOISE,), discard=discard)
        made.sample_time_us = dwell
        return made

    def test_discarded_samples_and_dwell_times_of_each_line(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        noise = (rng.normal(size=(2, 2, 500)) + 1j * rng.normal(size=(2, 2, 500))).astype(np.complex64)
        spoilt = np.concatenate([np.full((2, 7), 1e4), noise[0], np.full((2, 3), 1e4)], axis=1)
        scans = [self.scan(spoilt, discard=(7, 3)), self.scan(noise[1] * np.float32(2), 1.25)]
        path = write(
            tmp_path / "a.h5", [*scans, *lines(object_kspace(2, ROWS, COLS))], header(encoding((ROWS, COLS, 1)))
        )
        both = np.concatenate([noise[0], noise[1]], axis=1).astype(complex)
        with open_volume(path) as volume:
            np.testing.assert_allclose(volume.noise_cov(), both @ both.conj().T / 1000, rtol=1e-5)
            (note,) = volume.info.notes
        assert (
            note == "noise was sampled every 1.25 and 5 us, the image every 5 us: it is scaled to the image's bandwidth"
        )
        found = read_noise(str(path))
        assert found is not None
        np.testing.assert_allclose(found, both, rtol=1e-5)

    def test_dwell_times_that_nothing_states(self, tmp_path: Path) -> None:
        scan = self.scan(np.ones((2, 9)), 0.0)
        _, info, _ = opened(
            write(tmp_path / "a.h5", [scan, *lines(object_kspace(2, ROWS, COLS))], header(encoding((ROWS, COLS, 1))))
        )
        assert info.notes == ("dwell times are 0 us of noise and 5 us of the image: its noise is not scaled",)


class TestPartitions:
    def test_ends_beyond_the_limits(self, tmp_path: Path) -> None:
        made = encoding((ROWS, COLS, 8), centre=(COLS // 2, 1))
        made.encodingLimits.kspace_encoding_step_2.maximum = 4
        kspace = object_kspace(2, ROWS, COLS)
        written = [line for z in range(5) for line in lines(kspace, kspace_encode_step_2=z)]
        _, info, mask = opened(write(tmp_path / "a.h5", written, header(made)))
        assert mask is None
        assert any("3 of 8 partitions, at the ends of the second phase encoding" in note for note in info.notes)

    def test_corners_and_bart(self, tmp_path: Path) -> None:
        kspace = np.stack([object_kspace(2, ROWS, COLS, z) for z in range(8)])
        z, y = np.mgrid[-4:4, -6:6]
        inside = (z / 4) ** 2 + (y / 6) ** 2 <= 1
        written = [
            line for z in range(8) for line in lines(kspace[z], np.flatnonzero(inside[z]), kspace_encode_step_2=z)
        ]
        _, info, _ = opened(write(tmp_path / "a.h5", written, header(encoding((ROWS, COLS, 8)))))
        assert any("lines of the partitions that were measured lie in the corners" in note for note in info.notes)
        kspace[:3] = 0
        write_bart(tmp_path / "b", kspace)
        stored = kspace.transpose(1, 0, 3, 2)
        (tmp_path / "b.hdr").write_text(f"# Dimensions\n{ROWS} {COLS} 8 2\n")
        stored.tofile(tmp_path / "b.cfl")
        _, info, _ = opened(tmp_path / "b.cfl")
        assert any("3 of 8 partitions, at the ends of the second phase encoding" in note for note in info.notes)


class TestSlices:
    def scan(self, places: list[float], **more: Any) -> list[Any]:
        """Slices in the order of time, each at its place; an object times its place and 1."""
        return [
            line
            for number, z in enumerate(places)
            for line in lines(
                (z + 1) * object_kspace(2, ROWS, COLS), slice=number, place=((0, 0, z), *PLACE[1:]), **more
            )
        ]

    def test_interleaved_are_sorted_by_position(self, tmp_path: Path) -> None:
        places = [0, 10, 20, 5, 15]
        read, info, _ = opened(write(tmp_path / "a.h5", self.scan(places), header(encoding((ROWS, COLS, 1)))))
        np.testing.assert_allclose(read, [(z + 1) * object_kspace(2, ROWS, COLS) for z in sorted(places)])
        assert info.geometry is not None
        assert info.geometry.stated
        assert info.geometry.centre_mm == (0, 0, 0)
        assert info.geometry.voxel_mm[2] == pytest.approx(5)
        (note,) = info.notes
        assert note.endswith("they are sorted by position, slices 0-4 here are 0, 3, 1, 4, 2 of the scan")

    def test_calibration_goes_with_its_slice(self, tmp_path: Path) -> None:
        written = self.scan([0, 10, 5])
        calibration = [line for line in self.scan([0, 10, 5], flags=(20,)) if line.idx.kspace_encode_step_1 in (5, 6)]
        path = write(tmp_path / "a.h5", written + calibration, header(encoding((ROWS, COLS, 1), mode="separate")))
        with open_volume(path) as volume:
            read, known = volume.read_calibration(0, 3), volume.read_kspace(0, 3)
        assert read is not None
        np.testing.assert_array_equal(read[..., 5:7], known[..., 5:7])

    @pytest.mark.parametrize("places", [[20, 15, 10, 5, 0], [0, 5, 5, 10, 0], [0, 5, np.nan, 15, 20]])
    def test_descending_and_doubtful_places_stay(self, places: list[float], tmp_path: Path) -> None:
        written = self.scan([1, 2, 3, 4, 5])
        for line in written:
            line.position[2] = places[line.idx.slice]
        read, _, _ = opened(write(tmp_path / "a.h5", written, header(encoding((ROWS, COLS, 1)))))
        np.testing.assert_allclose(read, [(z + 1) * object_kspace(2, ROWS, COLS) for z in (1, 2, 3, 4, 5)])


class TestRepeats:
    @pytest.mark.parametrize(("factor", "told"), [(-1, "by 180 degrees"), (1j, "by 90 degrees"), (1, None)])
    def test_averages_that_cancel(self, factor: complex, told: str | None, tmp_path: Path) -> None:
        kspace = object_kspace(2, ROWS, COLS)
        written = lines(kspace) + lines(factor * kspace, average=1)
        _, info, _ = opened(write(tmp_path / "a.h5", written, header(encoding((ROWS, COLS, 1)))))
        found = [note for note in info.notes if "their mean loses signal" in note]
        assert len(found) == (told is not None)
        if told is not None:
            assert told in found[0]
            assert "--select average=N takes one" in found[0]
            read, _, _ = opened(tmp_path / "a.h5", average="1")
            np.testing.assert_allclose(read[0], factor * kspace)


class TestSentences:
    def test_lines_without_samples_are_left_out(self, tmp_path: Path) -> None:
        kspace = object_kspace(2, ROWS, COLS)
        written = [*lines(kspace), acquisition(np.zeros((2, 0)), 3)]
        read, info, _ = opened(write(tmp_path / "a.h5", written, header(encoding((ROWS, COLS, 1)))))
        np.testing.assert_array_equal(read[0], kspace)
        assert info.notes == ("not used: 1 empty line",)

    def test_a_centre_that_places_lines_outside_is_named(self, tmp_path: Path) -> None:
        made = encoding((ROWS, COLS, 1))
        made.encodingLimits.kspace_encoding_step_1.center = 0
        write(tmp_path / "a.h5", lines(object_kspace(2, ROWS, COLS)), header(made))
        with pytest.raises(
            BadVolume, match=r"limits, 0 of kspace_encoding_step_1 .* which are 6 and 0 where all steps"
        ):
            open_volume(tmp_path / "a.h5")

    def test_images_alone_and_beside(self, tmp_path: Path) -> None:
        with ismrmrd.Dataset(str(tmp_path / "a.h5"), "dataset") as dataset:
            dataset.append_image("image_0", ismrmrd.Image.from_array(np.ones((1, 8, 6), np.float32)))
        with pytest.raises(BadVolume, match=r"group dataset holds images \(image_0\), no raw data"):
            open_volume(tmp_path / "a.h5")
        write(tmp_path / "a.h5", lines(object_kspace(2, ROWS, COLS)), header(encoding((ROWS, COLS, 1))))
        _, info, _ = opened(tmp_path / "a.h5")
        assert info.notes == ("images in the group (image_0) are not used",)

    def test_a_group_without_header(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.h5", lines(object_kspace(2, ROWS, COLS)), header(encoding((ROWS, COLS, 1))))
        with h5py.File(path, "a") as file:
            del file["dataset/xml"]
        with pytest.raises(BadVolume, match="group dataset lacks xml, its header"):
            open_volume(path)


def test_reversed_repeats_of_different_lengths_are_not_compared(tmp_path: Path) -> None:
    kspace = object_kspace(2, ROWS, COLS)
    written = [*lines(kspace), acquisition(-kspace[:, ::-1, 6], 6, flags=(REVERSE,), centre=ROWS - 1 - ROWS // 2)]
    read, info, _ = opened(write(tmp_path / "a.h5", written, header(encoding((ROWS, COLS, 1)))))
    assert not any("loses signal" in note for note in info.notes)
    assert np.abs(ifft_centred(read)).max() > 0
