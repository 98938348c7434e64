"""ISMRMRD scans that were cut short or lost data: notes say what the header states and is not there."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdrift.cli import main
from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.store_write import Store, write_volume
from kdrift.data.volume import ReadOptions
from kdrift.recon.acquisition import load_acquisition
from kdrift.recon.request import AcquisitionRequest
from mrd_helpers import encoding, header, lines, object_kspace, write

ROWS, COLS = 8, 12
SIZE = (ROWS, COLS, 1)


def slices(numbers: Any, steps: Any = None, **index: int) -> list[Any]:
    """The lines of some slices, each the same object times its number plus 1."""
    place = [((0, 0, 5 * number), (1, 0, 0), (0, 1, 0), (0, 0, 1)) for number in range(20)]
    return [
        line
        for number in numbers
        for line in lines(
            (number + 1) * object_kspace(2, ROWS, COLS), steps, slice=number, place=place[number], **index
        )
    ]


def opened(path: Path, **select: str) -> tuple[np.ndarray, list[str]]:
    with open_volume(path, ReadOptions(select)) as volume:
        return volume.read_kspace(0, volume.info.num_slices), list(volume.info.notes)


def notes_of(written: list[Any], tmp_path: Path, **more: Any) -> list[str]:
    size = more.pop("size", SIZE)
    return opened(write(tmp_path / f"{len(list(tmp_path.iterdir()))}.h5", written, header(encoding(size, **more))))[1]


class TestSlices:
    def test_missing_at_the_end(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.h5", slices(range(3)), header(encoding(SIZE, last={"slice": 9})))
        kspace, notes = opened(path)
        assert notes == [
            "slices 3-9 of 10 (0-9) have no acquisitions and are left out: the scan was cut short, or lost data"
        ]
        np.testing.assert_array_equal(kspace, [n * object_kspace(2, ROWS, COLS) for n in (1, 2, 3)])
        assert notes_of(slices(range(3)), tmp_path, last={"slice": 2}) == []

    def test_missing_in_the_middle(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.h5", slices([0, 1, 3, 4]), header(encoding(SIZE, last={"slice": 4})))
        kspace, notes = opened(path)
        assert notes[0] == (
            "slice 2 of 5 (0-4) has no acquisitions and is left out: the scan was cut short, or lost data; slices 0-3"
            " here are 0-1, 3-4 of the scan"
        )
        assert "slices are not evenly spaced in the headers: their places are not written" in notes
        np.testing.assert_array_equal(kspace, [n * object_kspace(2, ROWS, COLS) for n in (1, 2, 4, 5)])
        every_second = notes_of(slices([1, 3]), tmp_path, last={"slice": 4})  # interleaved, the second half is missing
        assert "slices 0, 2, 4 of 5 (0-4) have no acquisitions" in every_second[0]
        assert "slices 0-1 here are 1, 3 of the scan" in every_second[0]

    def test_numbers_that_nothing_states_are_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "a.h5", slices([0, 3]), header(encoding(SIZE)))
        with pytest.raises(BadVolume, match="slice 1 of 4 has no acquisitions, and the header does not state it"):
            open_volume(tmp_path / "a.h5")

    def test_of_one_repetition(self, tmp_path: Path) -> None:
        written = slices(range(4)) + slices([0, 2], repetition=1)
        write(tmp_path / "a.h5", written, header(encoding(SIZE)))
        kspace, notes = opened(tmp_path / "a.h5", repetition="1")
        assert len(kspace) == 2
        assert any("slices 1, 3 of 4 (0-3) have no acquisitions" in note for note in notes)

    def test_numbered_from_one(self, tmp_path: Path) -> None:
        xml = re.sub(rb"(<slice>\s*<minimum>)0", rb"\g<1>1", header(encoding(SIZE, last={"slice": 3})))
        path = write(tmp_path / "a.h5", slices([1, 2]), xml)
        kspace, notes = opened(path)
        np.testing.assert_array_equal(kspace, [n * object_kspace(2, ROWS, COLS) for n in (2, 3)])
        assert "slice 3 of 3 (1-3) has no acquisitions" in notes[0]

    def test_acquired_in_part(self, tmp_path: Path) -> None:
        notes = notes_of(slices(range(3)) + slices([3], range(6)), tmp_path, last={"slice": 3})
        assert notes[0] == (
            "slice 3 has fewer lines (at least 6) than others (12): acquired in part, unless they are meant to differ"
        )
        assert "slices are sampled at different positions: there is one mask a slice" in notes

    def test_calibration_goes_with_its_slice(self, tmp_path: Path) -> None:
        """Numbers move up where a slice is missing, and calibration lines with them; those without image are said."""
        calibration = slices(range(4), [5, 6, 7], flags=(20,))
        xml = header(encoding(SIZE, last={"slice": 3}, mode="separate"))
        path = write(tmp_path / "a.h5", slices([0, 1, 3], range(0, 12, 2)) + calibration, xml)
        with open_volume(path) as volume:
            read = volume.read_calibration(0, 3)
            notes = volume.info.notes
        assert read is not None
        kept = np.isin(np.arange(COLS), [5, 6, 7])
        np.testing.assert_array_equal(read, [n * object_kspace(2, ROWS, COLS) * kept for n in (1, 2, 4)])
        assert "3 of 12 calibration lines are of slices without image, and are not used" in notes


class TestLines:
    def test_cut_short(self, tmp_path: Path) -> None:
        (note,) = notes_of(slices(range(2), range(7)), tmp_path, last={"slice": 1})
        assert note.startswith(
            "5 of the 12 steps of phase encoding that the header states (0-11) were not acquired: 7-11; "
        )

    def test_lost_between_others(self, tmp_path: Path) -> None:
        notes = notes_of(slices([0], [0, 1, 2, 4, 5, 6, 7, 9, 10, 11]), tmp_path)
        assert "2 of the 12 steps of phase encoding that the header states (0-11) were not acquired: 3, 8;" in notes[0]

    def test_what_the_header_states_is_not_missing(self, tmp_path: Path) -> None:
        """Steps that the stated acceleration leaves out, and those beyond the limits, are as they should be."""
        assert notes_of(slices([0], range(0, 12, 3)), tmp_path, mode="separate", acceleration=(3, 1)) == []
        cut = notes_of(slices([0], range(0, 6, 3)), tmp_path, mode="separate", acceleration=(3, 1))
        assert "states (0-11), 3 times accelerated, were not acquired: 4-11" in cut[0]

    def test_partitions(self, tmp_path: Path) -> None:
        written = [line for z in range(2, 6) for line in lines(object_kspace(2, ROWS, COLS, z), kspace_encode_step_2=z)]
        (note,) = notes_of(written, tmp_path, size=(ROWS, COLS, 8))
        assert (
            "4 of the 8 steps of second phase encoding that the header states (0-7) were not acquired: 0-1, 6-7" in note
        )
        one = notes_of(lines(object_kspace(2, ROWS, COLS), kspace_encode_step_2=4), tmp_path, size=(ROWS, COLS, 8))
        assert "7 of the 8 steps of second phase encoding" in one[0]

    def test_a_partition_in_part_is_refused_by_its_number(self, tmp_path: Path) -> None:
        written = [
            line
            for z in range(6)
            for line in lines(object_kspace(2, ROWS, COLS, z), range(COLS if z < 5 else 5), kspace_encode_step_2=z)
        ]
        write(tmp_path / "a.h5", written, header(encoding((ROWS, COLS, 8))))
        with pytest.raises(BadVolume, match=r"cut short.*1 partitions, of 8 first 5, lack positions"):
            open_volume(tmp_path / "a.h5")


class TestRepetitions:
    @pytest.mark.parametrize("name", ["repetition", "contrast", "phase", "set", "average"])
    def test_stated_and_not_there(self, name: str, tmp_path: Path) -> None:
        written = slices([0]) + slices([0], range(4), **{name: 1})
        notes = notes_of(written, tmp_path, last={name: 5})
        assert f"{name} 2-5 of the 0-5 that the header states have no lines" in notes
        assert f"{name} 1 has fewer lines (at least 4) than others (12)" in notes

    def test_complete(self, tmp_path: Path) -> None:
        notes = notes_of(slices([0]) + slices([0], repetition=1), tmp_path, last={"repetition": 1})
        assert not any("header states" in note or "fewer" in note for note in notes)


@pytest.mark.parametrize("limit", ["-1", "70000", ""])
def test_limits_that_cannot_be_are_none(limit: str, tmp_path: Path) -> None:
    xml = header(encoding(SIZE, last={"slice": 77})).replace(b">77<", f">{limit}<".encode())
    kspace, notes = opened(write(tmp_path / "a.h5", slices(range(2)), xml))
    assert (len(kspace), notes) == (2, [])


def test_every_entrance_says_it(tmp_path: Path) -> None:
    """`info`, `reconstruct`, and a store that `convert` makes have the note."""
    path = write(tmp_path / "a.h5", slices(range(2)), header(encoding(SIZE, last={"slice": 3})))
    note = "slices 2-3 of 4 (0-3) have no acquisitions"
    said = io.StringIO()
    with redirect_stdout(said):
        assert main(["info", str(path)]) == 0
    assert note in said.getvalue()
    assert any(note in each for each in load_acquisition(AcquisitionRequest(source=str(path))).notes)
    with open_volume(path) as volume, Store(str(tmp_path / "s.zarr"), "a") as store:
        write_volume(store, "a", volume)
    assert any(note in each for each in load_acquisition(AcquisitionRequest(source=str(tmp_path / "s.zarr"))).notes)
