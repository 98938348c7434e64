"""ISMRMRD raw data as the `ismrmrd` package writes them: roles of lines, groups, dimensions, noise, calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.store import open_stored_volume
from kdrift.data.store_write import Store, write_volume
from kdrift.data.volume import ReadOptions, VolumeInfo
from mrd_helpers import acquisition, encoding, header, lines, object_kspace, write

NOISE, CALIBRATION, BOTH, REVERSED, NAVIGATION, PHASE = 19, 20, 21, 22, 23, 24


def noise(coils: int, samples: int = 400, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(coils, samples)) + 1j * rng.normal(size=(coils, samples))).astype(np.complex64)


def opened(path: Path, **select: Any) -> tuple[np.ndarray, VolumeInfo, np.ndarray | None]:
    """k-space of all slices, what is known of it, and its mask."""
    with open_volume(path, ReadOptions({name: str(value) for name, value in select.items()})) as volume:
        return volume.read_kspace(0, volume.info.num_slices), volume.info, volume.mask()


def said(info: VolumeInfo, *words: str) -> bool:
    return all(any(word in note for note in info.notes) for word in words)


class TestRoundTrip:
    @pytest.mark.parametrize(("slices", "coils", "rows", "cols"), [(1, 1, 1, 1), (3, 32, 11, 6), (2, 5, 16, 13)])
    def test_bit_for_bit(self, slices: int, coils: int, rows: int, cols: int, tmp_path: Path) -> None:
        kspace = np.stack([object_kspace(coils, rows, cols, seed) for seed in range(slices)])
        written = [line for number in range(slices) for line in lines(kspace[number], slice=number)]
        order = np.random.default_rng(0).permutation(len(written))
        write(tmp_path / "a.h5", [written[i] for i in order], header(encoding((rows, cols, 1))))
        read, info, mask = opened(tmp_path / "a.h5")
        np.testing.assert_array_equal(read, kspace)
        assert mask is None
        assert not info.has_mask

    def test_first_and_last_flags_and_user_flags_mean_nothing(self, tmp_path: Path) -> None:
        kspace, flags = object_kspace(2, 8, 6), (*range(1, 19), 25, 57, 64)
        write(tmp_path / "a.h5", lines(kspace, flags=flags), header(encoding((8, 6, 1))))
        read, info, _ = opened(tmp_path / "a.h5")
        np.testing.assert_array_equal(read[0], kspace)
        assert info.notes == ()

    def test_lines_of_several_lengths_and_discarded_samples(self, tmp_path: Path) -> None:
        kspace = object_kspace(2, 12, 6)
        written = lines(kspace, [0, 1, 2])
        written += [acquisition(kspace[:, 3:, 3], 3, centre=3), acquisition(kspace[:, :10, 4], 4, centre=6)]
        padded = np.pad(kspace[:, :, 5], ((0, 0), (2, 1)), constant_values=99)
        written += [acquisition(padded, 5, centre=8, discard=(2, 1))]
        write(tmp_path / "a.h5", written, header(encoding((12, 6, 1))))
        read, _, mask = opened(tmp_path / "a.h5")
        kspace[:, :3, 3] = kspace[:, 10:, 4] = 0
        np.testing.assert_array_equal(read[0], kspace)
        np.testing.assert_array_equal(mask, kspace[0] != 0)

    def test_slices_with_lines_of_their_own_have_a_mask_each(self, tmp_path: Path) -> None:
        kspace = np.stack([object_kspace(2, 8, 10, seed) for seed in range(3)])
        steps = [[0, 3, 5, 6], [1, 4, 5, 6, 9], [0, 3, 5, 6]]
        written = [line for n in range(3) for line in lines(kspace[n], steps[n], slice=n)]
        write(tmp_path / "a.h5", written, header(encoding((8, 10, 1))))
        read, info, mask = opened(tmp_path / "a.h5")
        expected = np.stack([np.isin(np.arange(10), steps[n]) for n in range(3)])
        assert mask is not None
        np.testing.assert_array_equal(mask, np.broadcast_to(expected[:, None], (3, 8, 10)))
        np.testing.assert_array_equal(read, kspace * expected[:, None, None])
        assert said(info, "one mask a slice")

    def test_a_line_that_reaches_a_little_over_the_matrix_is_cut_and_said(self, tmp_path: Path) -> None:
        kspace = object_kspace(2, 16, 4)
        write(tmp_path / "a.h5", lines(kspace, centre=9), header(encoding((16, 4, 1))))
        read, info, _ = opened(tmp_path / "a.h5")
        np.testing.assert_array_equal(read[0, :, :15], kspace[:, 1:])
        assert said(info, "up to 1 samples of 4 lines reach over")

    def test_matrix_of_slices_without_second_encoding_is_2d(self, tmp_path: Path) -> None:
        kspace = np.stack([object_kspace(2, 8, 6, seed) for seed in range(3)])
        written = [line for n in range(3) for line in lines(kspace[n], slice=n)]
        write(tmp_path / "a.h5", written, header(encoding((8, 6, 3), fov=(200, 160, 15), centre=(3, 0))))
        read, info, _ = opened(tmp_path / "a.h5")
        np.testing.assert_array_equal(read, kspace)
        assert info.geometry is not None
        assert info.geometry.voxel_mm[2] == 5

    def test_steps_that_the_header_does_not_know_are_refused(self, tmp_path: Path) -> None:
        kspace = object_kspace(2, 8, 6)
        written = [line for z in range(3) for line in lines(kspace, kspace_encode_step_2=z)]
        write(tmp_path / "a.h5", written, header(encoding((8, 6, 1))))
        with pytest.raises(BadVolume, match="kspace_encode_step_2 0-2, the encoded matrix has z = 1"):
            open_volume(tmp_path / "a.h5")


class TestCalibration:
    @pytest.mark.parametrize("mode", ["embedded", "interleaved", "other", None])
    def test_lines_in_the_gaps_are_part_of_the_image(self, mode: str | None, tmp_path: Path) -> None:
        kspace = object_kspace(3, 12, 20)
        written = lines(kspace, range(0, 20, 4)) + lines(kspace, [9, 10, 11], flags=(CALIBRATION,))
        written += lines(kspace, [13], flags=(BOTH,))
        write(tmp_path / "a.h5", written, header(encoding((12, 20, 1), mode=mode)))
        read, info, mask = opened(tmp_path / "a.h5")
        sampled = np.isin(np.arange(20), [0, 4, 8, 9, 10, 11, 12, 13, 16])
        np.testing.assert_array_equal(mask, sampled)
        np.testing.assert_array_equal(read[0], kspace * sampled)
        assert said(info, "3 calibration lines are part of the image")
        assert said(info, "guessed") == (mode != "embedded")
        with open_volume(tmp_path / "a.h5") as volume:
            assert volume.read_calibration(0, 1) is None

    @pytest.mark.parametrize("mode", ["separate", "external", None])
    def test_a_scan_of_its_own_is_for_the_maps(self, mode: str | None, tmp_path: Path) -> None:
        kspace, other = object_kspace(3, 12, 20), 0.3 * object_kspace(3, 12, 20, 5)
        written = lines(other, range(7, 14), flags=(CALIBRATION,)) + lines(kspace, range(0, 20, 3))
        write(tmp_path / "a.h5", written, header(encoding((12, 20, 1), mode=mode)))
        read, info, mask = opened(tmp_path / "a.h5")
        np.testing.assert_array_equal(read[0], kspace * (np.arange(20) % 3 == 0))
        np.testing.assert_array_equal(mask, np.arange(20) % 3 == 0)
        assert said(info, "7 calibration lines are used for the coil maps alone")
        with open_volume(tmp_path / "a.h5") as volume:
            calibration = volume.read_calibration(0, 1)
        assert calibration is not None
        np.testing.assert_array_equal(calibration[0], other * np.isin(np.arange(20), range(7, 14)))

    def test_what_the_file_says_can_be_overruled(self, tmp_path: Path) -> None:
        kspace = object_kspace(3, 12, 8)
        written = lines(kspace, [3, 4, 5], flags=(CALIBRATION,)) + lines(kspace, [0, 2, 6])
        write(tmp_path / "a.h5", written, header(encoding((12, 8, 1), mode="embedded")))
        _, _, mask = opened(tmp_path / "a.h5", calibration="separate")
        np.testing.assert_array_equal(np.flatnonzero(mask), [0, 2, 6])
        with pytest.raises(BadVolume, match="expected embedded or separate"):
            opened(tmp_path / "a.h5", calibration="maybe")

    def test_another_encoding_space_of_the_same_field(self, tmp_path: Path) -> None:
        """A coarser calibration scan, numbered for itself, lands around the centre of the image's k-space."""
        kspace, coarse = object_kspace(2, 16, 24), object_kspace(2, 8, 6, 3)
        fov = (256.0, 192.0, 4.0)
        spaces = [encoding((16, 24, 1), fov=fov, mode="separate"), encoding((8, 6, 1), fov=fov)]
        written = lines(coarse, flags=(CALIBRATION,), space=1) + lines(kspace, range(0, 24, 2))
        write(tmp_path / "a.h5", written, header(*spaces))
        with open_volume(tmp_path / "a.h5") as volume:
            calibration = volume.read_calibration(0, 1)
        assert calibration is not None
        np.testing.assert_array_equal(calibration[0, :, 4:12, 9:15], coarse)
        assert np.count_nonzero(calibration) == coarse.size
        spaces[1] = encoding((8, 6, 1), fov=(300.0, 192.0, 4.0))
        write(tmp_path / "b.h5", written, header(*spaces))
        with open_volume(tmp_path / "b.h5") as volume:
            assert volume.load_calibration is None
            assert said(volume.info, "fields of view differ", "not used: 6 calibration lines")

    def test_of_another_repetition_and_in_three_dimensions(self, tmp_path: Path) -> None:
        volume3d = np.stack([object_kspace(2, 8, 6, seed) for seed in range(4)])
        images = [line for z in range(4) for line in lines(volume3d[z], kspace_encode_step_2=z, repetition=1)]
        centre = [
            line
            for z in (1, 2, 3)
            for line in lines(9 * volume3d[z], [2, 3], kspace_encode_step_2=z, flags=(CALIBRATION,))
        ]
        write(tmp_path / "a.h5", images + centre, header(encoding((8, 6, 4), mode="separate")))
        with open_volume(tmp_path / "a.h5") as volume:
            calibration = volume.read_calibration(0, 4)
        assert calibration is not None
        kept = np.zeros_like(volume3d)
        kept[1:, :, :, 2:4] = 9 * volume3d[1:, :, :, 2:4]
        expected = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(kept, 0), axis=0, norm="ortho"), 0)
        np.testing.assert_allclose(calibration, expected, atol=1e-5)

    def test_slices_without_it_are_named(self, tmp_path: Path) -> None:
        kspace = object_kspace(2, 8, 10)
        written = [line for n in range(3) for line in lines(kspace, slice=n)]
        written += lines(kspace, [4, 5, 6], flags=(CALIBRATION,), slice=1)
        write(tmp_path / "a.h5", written, header(encoding((8, 10, 1), mode="separate")))
        with open_volume(tmp_path / "a.h5") as volume:
            calibration = volume.read_calibration(0, 3)
            assert said(volume.info, "slices 0, 2 have no calibration lines")
        assert calibration is not None
        assert [bool(each.any()) for each in calibration] == [False, True, False]

    def test_a_store_keeps_it(self, tmp_path: Path) -> None:
        kspace = object_kspace(2, 8, 10)
        written = lines(2 * kspace, [4, 5, 6], flags=(CALIBRATION,)) + lines(kspace)
        write(tmp_path / "a.h5", written, header(encoding((8, 10, 1), mode="external")))
        with open_volume(tmp_path / "a.h5") as volume, Store(str(tmp_path / "s.zarr"), "a") as store:
            write_volume(store, "a", volume)
            expected = volume.read_calibration(0, 1)
        assert expected is not None
        with open_stored_volume(str(tmp_path / "s.zarr" / "a")) as stored:
            np.testing.assert_array_equal(stored.read_calibration(0, 1), expected)
            assert said(stored.info, "maps alone")


class TestNoiseAndOthers:
    def test_everything_else_is_left_out_counted_and_named(self, tmp_path: Path) -> None:
        kspace, junk = object_kspace(2, 8, 6), noise(2, 8)
        written = lines(kspace)
        for flag in (NAVIGATION, 26, 27, 28, 29, 30, 31, PHASE):
            written += [acquisition(junk, 3, flags=(flag,))] * 2
        write(tmp_path / "a.h5", written, header(encoding((8, 6, 1))))
        read, info, _ = opened(tmp_path / "a.h5")
        np.testing.assert_array_equal(read[0], kspace)
        names = ("navigation", "HP feedback", "dummy", "real-time feedback", "surface coil correction")
        assert said(info, "not used: ", "4 phase stabilisation", *(f"2 {name} lines" for name in names))
        assert said(info, "2 phase correction lines")

    @pytest.mark.parametrize("where", ["same", "before", "after"])
    def test_noise_of_the_file(self, where: str, tmp_path: Path) -> None:
        kspace, measured = object_kspace(3, 8, 6), noise(3)
        scan = acquisition(measured, flags=(NOISE,))
        scan.sample_time_us = 10.0
        groups = {"dataset": lines(kspace)}
        groups[{"same": "dataset", "before": "adjust", "after": "z"}[where]] = [scan]
        if where == "same":
            groups["dataset"] = [scan, *lines(kspace)]
        for name, written in groups.items():
            write(tmp_path / "a.h5", written, header(encoding((8, 6, 1))), name)
        with open_volume(tmp_path / "a.h5") as volume:
            expected = 2 * measured.astype(complex) @ measured.conj().T / 400  # twice the dwell time of the image
            np.testing.assert_allclose(volume.noise_cov(), expected, rtol=1e-5)
            np.testing.assert_array_equal(volume.read_kspace(0, 1)[0], kspace)
            assert said(volume.info, "noise is measured in group") == (where != "same")

    def test_noise_of_other_coils_is_not_used(self, tmp_path: Path) -> None:
        write(tmp_path / "a.h5", [acquisition(noise(2), flags=(NOISE,))], header(encoding((8, 6, 1))), "a")
        write(tmp_path / "a.h5", lines(object_kspace(3, 8, 6)), header(encoding((8, 6, 1))), "b")
        with open_volume(tmp_path / "a.h5") as volume:
            assert volume.noise_cov() is None
            assert said(volume.info, "(others: a (1 noise line))")

    def test_lines_of_fewer_channels_are_left_out(self, tmp_path: Path) -> None:
        kspace = object_kspace(4, 8, 6)
        written = [*lines(kspace[:1], [2, 3]), *lines(kspace)]
        write(tmp_path / "a.h5", written, header(encoding((8, 6, 1))))
        read, info, _ = opened(tmp_path / "a.h5")
        np.testing.assert_array_equal(read[0], kspace)
        assert said(info, "channels 4 of 1, 4", "not used: 2 image lines")
        read, _, mask = opened(tmp_path / "a.h5", channels=1)
        np.testing.assert_array_equal(read[0, :, :, 2:4], kspace[:1, :, 2:4])
        np.testing.assert_array_equal(np.flatnonzero(mask), [2, 3])


class TestChoice:
    def test_every_dimension(self, tmp_path: Path) -> None:
        kspace = object_kspace(2, 8, 6)
        names, factor = ("contrast", "phase", "repetition", "set"), 1
        written = []
        for values in np.ndindex(3, 2, 2, 2):
            written += lines(factor * kspace, **dict(zip(names, values, strict=True)))
            factor += 1
        write(tmp_path / "a.h5", written, header(encoding((8, 6, 1))))
        read, info, _ = opened(tmp_path / "a.h5")
        np.testing.assert_array_equal(read[0], kspace)
        assert said(
            info,
            *(
                f"{name} 0 of {there} was taken; --select {name}=N takes another"
                for name, there in zip(names, ("0-2", "0-1", "0-1", "0-1"), strict=True)
            ),
        )
        assert said(info, f"not used: {23 * 6} image lines")
        assert [info.attrs[f"{name}_values"] for name in names] == ["0-2", "0-1", "0-1", "0-1"]
        read, info, _ = opened(tmp_path / "a.h5", set=1, contrast=2)
        np.testing.assert_array_equal(read[0], 18 * kspace)
        assert said(info, "contrast 2 of 0-2", "set 1 of 0-1", "phase 0 of 0-1")
        with pytest.raises(BadVolume, match="contrast 3 is not there: image lines have contrast 0-2"):
            opened(tmp_path / "a.h5", contrast=3)
        with pytest.raises(BadVolume, match="cannot select echo here, expected one of group, calibration"):
            opened(tmp_path / "a.h5", echo=1)

    def test_what_one_repetition_has_of_another_dimension(self, tmp_path: Path) -> None:
        kspace = object_kspace(2, 8, 6)
        written = lines(kspace, contrast=1) + lines(2 * kspace, contrast=4, repetition=7)
        write(tmp_path / "a.h5", written, header(encoding((8, 6, 1))))
        read, info, _ = opened(tmp_path / "a.h5", repetition=7)
        np.testing.assert_array_equal(read[0], 2 * kspace)
        assert said(info, "repetition 7 of 0, 7", "contrast 4 of 1, 4")

    def test_averages(self, tmp_path: Path) -> None:
        kspace = object_kspace(2, 8, 6)
        written = lines(kspace) + lines(3 * kspace, average=1) + lines(5 * kspace, [3], average=2)
        write(tmp_path / "a.h5", written, header(encoding((8, 6, 1))))
        read, info, _ = opened(tmp_path / "a.h5")
        expected = 2 * kspace
        expected[:, :, 3] = 3 * kspace[:, :, 3]
        np.testing.assert_allclose(read[0], expected, rtol=1e-6)
        assert said(info, "6 of 6 lines were measured up to 3 times and are averaged")
        read, info, _ = opened(tmp_path / "a.h5", average=1)
        np.testing.assert_array_equal(read[0], 3 * kspace)
        assert said(info, "average 1 of 0-2")

    def test_groups(self, tmp_path: Path) -> None:
        kspace = object_kspace(2, 8, 6)
        write(tmp_path / "a.h5", [acquisition(noise(2), flags=(NOISE,))], header(encoding((8, 6, 1))), "first")
        write(tmp_path / "a.h5", lines(kspace), header(encoding((8, 6, 1))), "second")
        write(tmp_path / "a.h5", lines(2 * kspace), header(encoding((8, 6, 1))), "third")
        with h5py.File(tmp_path / "a.h5", "a") as file:
            file["broken/xml"] = "<a/>"
            file["elsewhere"] = h5py.ExternalLink("no such file", "/dataset")
        read, info, _ = opened(tmp_path / "a.h5")
        np.testing.assert_array_equal(read[0], kspace)
        assert info.attrs["groups"] == "first: 1 noise line; second: 6 image lines; third: 6 image lines"
        assert said(
            info,
            "group second of 3 was taken"
            if False
            else "group second of 3 (others: first (1 noise line), third (6 image lines)) was taken",
            "group broken cannot be read",
        )
        read, _, _ = opened(tmp_path / "a.h5", group="third")
        np.testing.assert_array_equal(read[0], 2 * kspace)
        with pytest.raises(BadVolume, match="no image lines in group first: group first holds 1 noise line"):
            opened(tmp_path / "a.h5", group="first")
        with pytest.raises(BadVolume, match="group last is not there: the file has broken, first, second, third"):
            opened(tmp_path / "a.h5", group="last")

    def test_encoding_spaces(self, tmp_path: Path) -> None:
        one, two = object_kspace(2, 8, 6), object_kspace(2, 12, 10)
        spaces = header(encoding((8, 6, 1)), encoding((12, 10, 1), fov=(300, 300, 3)))
        write(tmp_path / "a.h5", lines(one) + lines(two, space=1), spaces)
        read, info, _ = opened(tmp_path / "a.h5")
        np.testing.assert_array_equal(read[0], one)
        assert said(info, "encoding 0 of 0-1", "not used: 10 image lines")
        read, info, _ = opened(tmp_path / "a.h5", encoding=1)
        np.testing.assert_array_equal(read[0], two)
        assert info.geometry is not None
        assert info.geometry.voxel_mm == (25, 30, 3)
        write(tmp_path / "b.h5", lines(one, space=3), header(encoding((8, 6, 1))))
        with pytest.raises(BadVolume, match="refer to encoding 3, the header has 1"):
            open_volume(tmp_path / "b.h5")

    def test_other_trajectories_and_options_of_arrays(self, tmp_path: Path) -> None:
        write(tmp_path / "a.h5", lines(object_kspace(2, 8, 6)), header(encoding((8, 6, 1), trajectory="spiral")))
        with pytest.raises(BadVolume, match="trajectory is 'spiral', expected cartesian"):
            open_volume(tmp_path / "a.h5")
        write(tmp_path / "b.h5", lines(object_kspace(2, 8, 6)), header(encoding((8, 6, 1))))
        with pytest.raises(BadVolume, match="leave out axes and centred"):
            open_volume(tmp_path / "b.h5", ReadOptions(axes=("row", "col")))
        write(tmp_path / "c.h5", lines(object_kspace(2, 8, 6), flags=(NAVIGATION,)), header(encoding((8, 6, 1))))
        with pytest.raises(BadVolume, match="no image lines: group dataset holds 6 navigation lines"):
            open_volume(tmp_path / "c.h5")
