"""What contradicts centred k-space is found, and no real or odd scan is refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from kdrift.data.formats import open_volume
from kdrift.data.phantom import phantom_volume
from kdrift.mri.plausibility import check_kspace, looks_like_kspace


def scan(coils: int = 6, rows: int = 72, cols: int = 64) -> np.ndarray:
    return np.asarray(phantom_volume(1, rows, cols, coils, seed=2).kspace)


def refusal(kspace: np.ndarray, **stated: bool) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        check_kspace(kspace, **stated)
    return str(caught.value)


@pytest.mark.parametrize(("coils", "rows", "cols"), [(1, 40, 40), (2, 33, 47), (8, 64, 64), (32, 48, 40), (64, 64, 24)])
def test_good_scans_pass(coils: int, rows: int, cols: int) -> None:
    kspace = scan(coils, rows, cols)
    assert check_kspace(kspace) == ()
    mask = np.isin(np.arange(cols) % 4, (0,)) | (np.abs(np.arange(cols) - cols // 2) < 6)
    assert check_kspace(kspace * mask) == ()
    assert check_kspace(1e-25 * kspace.astype(np.complex128)) == ()
    assert check_kspace((1e30 * kspace.astype(np.complex128)).astype(np.complex64)) == ()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 64), (1, 64, 1), (4, 3, 5), (2, 16, 1), (8, 4, 4)])
def test_tiny_scans_are_not_judged(shape: tuple[int, int, int]) -> None:
    assert check_kspace(np.ones((1, *shape), np.complex64) * (1 + 1j)) == ()
    assert check_kspace(np.zeros((2, *shape), np.complex64)) == ()


@pytest.mark.parametrize(
    ("order", "likely"),
    [((1, 2, 0), "row,col,coil"), ((1, 0, 2), "row,coil,col")],
)
@pytest.mark.parametrize("coils", [2, 8, 20])
def test_coils_in_the_place_of_rows_or_columns(order: tuple[int, int, int], likely: str, coils: int) -> None:
    permuted = scan(coils)[0].transpose(order)[None]
    sentence = refusal(permuted)
    assert f"the axes are probably {likely} (say --axes {likely}" in sentence
    check_kspace(permuted, axes_stated=True, centring_stated=True)
    mask = np.arange(64) % 3 == 0
    assert "--axes" in refusal((scan(coils)[0] * mask).transpose(order)[None], centring_stated=True)


@pytest.mark.parametrize("axes", [(-2, -1), (-2,), (-1,)])
def test_zero_frequency_elsewhere(axes: tuple[int, ...]) -> None:
    shifted = np.fft.ifftshift(scan(), axes=axes)
    sentence = refusal(shifted)
    assert "zero frequency lies at the" in sentence
    assert ("--not-centred" in sentence) == (len(axes) == 2)
    (said,) = check_kspace(shifted, centring_stated=True)  # believed, but not in silence
    assert "elsewhere than --centred or --not-centred says" in said
    undersampled = np.fft.ifftshift(scan() * (np.arange(64) % 3 == 0), axes=axes)
    assert "zero frequency" in refusal(undersampled)


def test_an_echo_off_the_middle_is_a_note() -> None:
    (note,) = check_kspace(np.roll(scan(), (5, -9), axis=(-2, -1)))
    assert "by +5 rows and -9 columns" in note
    assert check_kspace(np.roll(scan(), 1, axis=-1)) == ()


@pytest.mark.parametrize("place", [(10, 12), (0, 0), (1, 62), (36, 0), (40, 50)])
@pytest.mark.parametrize("coils", [slice(None), slice(1, 2)])
def test_a_spike_is_named_and_is_no_echo(place: tuple[int, int], coils: slice) -> None:
    kspace = scan()
    mask = np.isin(np.arange(64) % 2, (0,)) | (np.abs(np.arange(64) - 32) < 6)
    for sampled in (np.ones(64, dtype=bool), mask | (np.arange(64) == place[1])):
        spiked = kspace * sampled
        spiked[0, coils, *place] = 3 * np.abs(kspace).max()
        (note,) = check_kspace(spiked)
        assert f"far above all around, at row {place[0]} and column {place[1]}: probably a spike" in note
    spiked[0, :, 60, 20] = 5 * np.abs(kspace).max()
    assert check_kspace(spiked)[0].startswith(
        "2 positions of k-space lie far above all around, the strongest at row 60"
    )


def test_images_are_no_kspace() -> None:
    images = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(scan(), axes=(-2, -1))), axes=(-2, -1))
    assert "this is an image" in refusal(images)
    assert "magnitude image" in refusal(np.abs(images).astype(np.complex64))
    phase = np.exp(1j * np.linspace(0, 9, 64))
    assert "image" in refusal(np.abs(images[:, :1]) * phase)
    noise = np.random.default_rng(0).standard_normal((1, 4, 64, 64, 2)) @ (1, 1j)
    assert "as that of noise does" in check_kspace(noise)[0]


def test_an_image_about_the_corner_is_a_note() -> None:
    rows, cols = np.ogrid[:72, :64]
    kspace = scan() * (-1.0) ** (rows + cols)
    assert "around the corner of its matrix" in check_kspace(kspace)[0]


def test_real_scans_pass(shared_data: Path) -> None:
    for path in sorted((shared_data / "kspace").glob("*.h5")) + sorted((shared_data / "other").glob("nih*.h5")):
        with h5py.File(path) as file:
            kspace = file["kspace"][:1]
        kspace = kspace if kspace.ndim == 4 else kspace[:, None]
        assert check_kspace(kspace) == (), path.name
    assert check_kspace(np.load(shared_data / "kspace" / "ucb_prospective_8ch.npy")[None]) == ()


@pytest.mark.parametrize("cols", [64, 65])
def test_half_a_spectrum_is_named(cols: int) -> None:
    image = np.abs(np.fft.ifft2(np.fft.ifftshift(scan(1, 72, cols), axes=(-2, -1))))
    half = np.fft.rfft2(image)
    assert "half a spectrum" in refusal(half)
    assert "half a spectrum" in refusal(np.fft.fftshift(half, axes=-2))
    assert "at the corner of k-space" in refusal(np.fft.fft2(image))


def test_magnitudes_of_kspace_are_no_images(shared_data: Path) -> None:
    kspace = scan(4)
    image = np.abs(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(-2, -1))))[0, 0]
    for each in (kspace[0, 0], np.fft.ifftshift(kspace[0, 1])):
        assert looks_like_kspace(np.abs(each))
    assert not looks_like_kspace(image)
    for file in sorted((shared_data / "brain_nifti").rglob("*.nii*")):
        with open_volume(file) as volume:
            middle = volume.info.num_slices // 2
            assert not looks_like_kspace(volume.read_image(middle, middle + 1)[0])
