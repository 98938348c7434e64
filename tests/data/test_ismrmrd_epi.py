"""Reversed lines of ISMRMRD raw data, and the phase correction of EPI."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdrift.data.centring import fft_centred, ifft_centred
from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.formats.ismrmrd_epi import fit_ramp
from mrd_helpers import acquisition, encoding, header, lines, object_kspace, write

REVERSED, PHASE = 22, 24
ROWS, COLS = 32, 24


def late(kspace: np.ndarray, delay: float, phase: float) -> np.ndarray:
    """k-space `(coil, row, col)` whose samples come late by so many, and turned in phase."""
    rows = kspace.shape[1]
    x = np.arange(rows) - rows // 2
    ramp = np.exp(1j * (2 * np.pi * delay * x / rows + phase))[None, :, None]
    return fft_centred(ifft_centred(kspace, axes=(1,)) * ramp, axes=(1,)).astype(np.complex64)


def ghost(read: np.ndarray, truth: np.ndarray) -> float:
    """Error of images relative to the truth."""
    return float(np.linalg.norm(read - truth) / np.linalg.norm(truth))


def navigators(kspace: np.ndarray, delayed: np.ndarray, **more: int) -> list:
    centre = kspace.shape[2] // 2
    forward, reverse = kspace[:, :, centre], delayed[:, ::-1, centre]
    written = [(forward, (PHASE,)), (reverse, (PHASE, REVERSED)), (forward, (PHASE,))]
    return [acquisition(samples, 0, flags=flags, **more) for samples, flags in written]


def epi(kspace: np.ndarray, delayed: np.ndarray, **more: int) -> list:
    return [
        acquisition(delayed[:, ::-1, c], c, flags=(REVERSED,), segment=1, **more)
        if c % 2
        else acquisition(kspace[:, :, c], c, **more)
        for c in range(kspace.shape[2])
    ]


@pytest.mark.parametrize("rows", [31, 32])
def test_a_reversed_line_counts_its_centre_after_it_was_turned(rows: int, tmp_path: Path) -> None:
    kspace = object_kspace(2, rows, 6)
    write(tmp_path / "a.h5", epi(kspace, kspace), header(encoding((rows, 6, 1))))
    with open_volume(tmp_path / "a.h5") as volume:
        np.testing.assert_array_equal(volume.read_kspace(0, 1)[0], kspace)
        assert any("a ghost may be left" in note for note in volume.info.notes)


@pytest.mark.parametrize("mirrored", [False, True])
def test_partial_echo_of_reversed_lines(mirrored: bool, tmp_path: Path) -> None:
    """20 of 32 samples with the echo at sample 4, which is 15 where files count in the order of acquisition."""
    kspace = object_kspace(2, ROWS, 6)
    part, flags = kspace[:, 12:], (REVERSED,)
    written = lines(part, [0, 2, 4], centre=4)
    written += [acquisition(part[:, ::-1, c], c, flags=flags, centre=15 if mirrored else 4) for c in (1, 3, 5)]
    write(tmp_path / "a.h5", written, header(encoding((ROWS, 6, 1))))
    with open_volume(tmp_path / "a.h5") as volume:
        read = volume.read_kspace(0, 1)[0]
        assert any("order of acquisition" in note for note in volume.info.notes) == mirrored
    np.testing.assert_array_equal(read[:, 12:], part)
    assert not read[:, :12].any()


def test_all_lines_reversed_have_no_ghost(tmp_path: Path) -> None:
    """As in every second echo of a bipolar multi-echo scan."""
    kspace = object_kspace(2, ROWS, 6)
    write(tmp_path / "a.h5", lines(kspace[:, ::-1], flags=(REVERSED,)), header(encoding((ROWS, 6, 1))))
    with open_volume(tmp_path / "a.h5") as volume:
        np.testing.assert_array_equal(volume.read_kspace(0, 1)[0], kspace)
        assert volume.info.notes == ()


@pytest.mark.parametrize(("delay", "phase"), [(0.4, 0.0), (-2.3, 1.0), (0.0, -2.5), (5.2, 3.0)])
def test_phase_correction_removes_the_ghost(delay: float, phase: float, tmp_path: Path) -> None:
    kspace = object_kspace(4, ROWS, COLS)
    delayed = late(kspace, delay, phase)
    xml = header(encoding((ROWS, COLS, 1), trajectory="epi", parameters={"rampUpTime": 10, "acqDelayTime": 40}))
    write(tmp_path / "a.h5", [*navigators(kspace, delayed), *epi(kspace, delayed)], xml)
    with open_volume(tmp_path / "a.h5") as volume:
        assert ghost(volume.read_kspace(0, 1)[0], kspace) < 0.02
        assert volume.info.notes == ("the phase of reversed lines is corrected by 3 phase-correction lines",)
    write(tmp_path / "b.h5", epi(kspace, delayed), xml)
    with open_volume(tmp_path / "b.h5") as volume:
        assert ghost(volume.read_kspace(0, 1)[0], kspace) > 0.1
        assert any("a ghost may be left" in note for note in volume.info.notes)


def test_every_slice_and_contrast_has_its_own_phase(tmp_path: Path) -> None:
    truth = np.stack([object_kspace(3, ROWS, COLS, seed) for seed in range(2)])
    written = []
    for contrast, number in np.ndindex(2, 2):
        delayed = late(truth[number], 0.7 * (number + 1) - contrast, 0.5 * number)
        where = {"slice": number, "contrast": contrast}
        written += [*navigators(truth[number], delayed, **where), *epi(truth[number], delayed, **where)]
    write(tmp_path / "a.h5", written, header(encoding((ROWS, COLS, 1))))
    with open_volume(tmp_path / "a.h5") as volume:
        assert ghost(volume.read_kspace(0, 2), truth) < 0.02


def test_slices_without_navigators_are_named(tmp_path: Path) -> None:
    truth, written = object_kspace(3, ROWS, COLS), []
    for number in range(3):
        found = navigators(truth, truth, slice=number) if number == 1 else []
        written += [*found, *epi(truth, truth, slice=number)]
    write(tmp_path / "a.h5", written, header(encoding((ROWS, COLS, 1))))
    with open_volume(tmp_path / "a.h5") as volume:
        assert any("of both in slices 0, 2: a ghost may be left" in note for note in volume.info.notes)
        np.testing.assert_allclose(volume.read_kspace(0, 3), np.stack([truth] * 3), atol=0.02)


def test_short_lines_stay_where_they_were_measured(tmp_path: Path) -> None:
    kspace = object_kspace(3, ROWS, COLS)
    delayed = late(kspace, 1.2, 0.3)
    part, late_part = kspace[:, 8:], delayed[:, 8:]
    written = []
    for line in (*navigators(part, late_part), *epi(part, late_part)):
        line.center_sample = 8
        written.append(line)
    write(tmp_path / "a.h5", written, header(encoding((ROWS, COLS, 1))))
    with open_volume(tmp_path / "a.h5") as volume:
        read, mask = volume.read_kspace(0, 1)[0], volume.mask()
    assert mask is not None
    assert not mask[:8].any()
    assert mask[8:].all()
    assert not read[:, :8].any()
    assert ghost(read[:, 10:-2], kspace[:, 10:-2]) < 0.05


def test_samples_on_gradient_ramps_are_refused(tmp_path: Path) -> None:
    xml = header(encoding((ROWS, 6, 1), trajectory="epi", parameters={"rampUpTime": 120, "acqDelayTime": 40}))
    write(tmp_path / "a.h5", lines(object_kspace(2, ROWS, 6)), xml)
    with pytest.raises(BadVolume, match=r"sampled on gradient ramps .*regrid"):
        open_volume(tmp_path / "a.h5")
    write(tmp_path / "b.h5", lines(object_kspace(2, ROWS, 6)), header(encoding((ROWS, 6, 1), trajectory="epi")))
    with open_volume(tmp_path / "b.h5") as volume:
        assert any("taken as equidistant" in note for note in volume.info.notes)


@pytest.mark.parametrize("rows", [1, 2, 33, 256])
def test_a_line_is_fitted_to_phase(rows: int) -> None:
    rng = np.random.default_rng(0)
    x = np.arange(rows) - rows // 2
    for slope, offset in [(0.0, 0.0), (2.9, 1.0), (-0.01, -3.0)]:
        product = rng.uniform(0.5, 2, rows) * np.exp(1j * (slope * x + offset))
        np.testing.assert_allclose(fit_ramp(product), np.exp(-1j * (slope * x + offset)), atol=1e-4)
    np.testing.assert_array_equal(fit_ramp(np.zeros(rows, dtype=complex)), 1)
