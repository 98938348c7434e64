"""Which positions of k-space were measured: masks, padding, exact zeros; mask files; what a store keeps of it."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.fft
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from formats_helpers import random_kspace
from kdrift.data.array_file import read_array_file
from kdrift.data.formats import open_volume
from kdrift.data.formats.bart import write_bart
from kdrift.data.measured import as_mask, centred_box, find_sampling, has_gaps, magnitudes
from kdrift.data.phantom import phantom_volume
from kdrift.data.store import open_store
from kdrift.data.store_write import write_volume

ROWS, COLS = 12, 10
FULL = np.ones((1, ROWS, COLS), dtype=bool)
LINES = np.isin(np.arange(COLS), (0, 3, 4, 5, 6, 9))


def test_padding_is_not_measured_and_not_counted() -> None:
    found = find_sampling(FULL, attrs={"padding_left": 2, "padding_right": 9})
    assert found.measured[0].any(0).tolist() == [False] * 2 + [True] * 7 + [False]
    assert (found.positions, found.has_gaps) == (ROWS * 7, False)
    assert "values in 3 columns that its header calls padding" in found.notes[0]
    stated = find_sampling(FULL & LINES, LINES, {"padding_left": 2, "padding_right": 9})
    assert stated.net_acceleration == 7 / 4
    for senseless in ({"padding_left": 9, "padding_right": 2}, {"padding_left": "x"}):
        found = find_sampling(FULL, attrs=senseless)
        assert found.measured.all()
        assert "padding_left" in found.notes[0]


def test_partial_fourier_elliptical_corners_and_zero_padding_are_no_gaps() -> None:
    rows, cols = np.ogrid[-6:6, -5:5]
    ellipse = (rows / 6) ** 2 + (cols / 5) ** 2 < 1
    partial = np.arange(COLS) >= 3
    padded = (np.abs(cols) < 4) & (np.abs(rows) < 5)
    for pattern in (ellipse, np.broadcast_to(partial, (ROWS, COLS)), padded, ellipse & partial):
        found = find_sampling(pattern[None])
        assert not found.has_gaps
        assert not found.is_complete
        np.testing.assert_array_equal(found.measured[0], pattern)
    for pattern in (LINES & FULL[0], (rows + cols) % 2 == 0, np.eye(ROWS, COLS, dtype=bool)):
        assert find_sampling(pattern[None]).has_gaps


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 100))
def test_the_box_is_centred_and_the_smallest(rows: int, cols: int, seed: int) -> None:
    pattern = np.random.default_rng(seed).random((rows, cols)) < 0.3
    pattern[rows // 2, cols // 2] = True
    box = centred_box(pattern)
    for each, size, lines in zip(box, pattern.shape, (pattern.any(1), pattern.any(0)), strict=True):
        width = each.stop - each.start
        assert each.start + width // 2 == size // 2
        assert 0 <= each.start < each.stop <= size
        assert lines[each].sum() == lines.sum()
        smaller = slice(size // 2 - (width - 1) // 2, size // 2 - (width - 1) // 2 + width - 1)
        assert width == 1 or lines[smaller].sum() < lines.sum() or lines[0] or lines[-1]


def test_scattered_zeros_are_measured_whole_lines_are_not() -> None:
    scattered = np.ones((2, 64, 48), dtype=bool)
    scattered[0, 3, 5] = scattered[0, 40, 7] = False
    assert find_sampling(scattered).is_complete
    lines = scattered & (np.arange(48) % 3 == 0)
    found = find_sampling(lines)
    np.testing.assert_array_equal(found.measured[0], found.measured[1])
    scattered[0, :, 5] = False
    assert not find_sampling(scattered).measured[0, :, 5].any()


def test_slices_may_differ_and_an_empty_one_says_nothing() -> None:
    nonzero = np.stack([FULL[0] & LINES, FULL[0] & ~LINES, np.zeros_like(FULL[0])])
    found = find_sampling(nonzero)
    np.testing.assert_array_equal(found.measured, nonzero)
    assert found.net_acceleration == pytest.approx(COLS / 5)
    assert find_sampling(np.stack([FULL[0], np.zeros_like(FULL[0])])).is_complete


def test_a_mask_that_disagrees_with_the_data_is_said() -> None:
    more = LINES | (np.arange(COLS) == 1)
    found = find_sampling(FULL & LINES, more)
    np.testing.assert_array_equal(found.measured[0, 0], LINES)
    assert f"marks {ROWS} positions where k-space is zero" in found.notes[0]
    assert (
        f"values at {6 * ROWS - 4 * ROWS} positions that the mask does not mark"
        in find_sampling(FULL & LINES, np.isin(np.arange(COLS), (3, 4, 5, 6))).notes[0]
    )


@pytest.mark.parametrize(
    "shape",
    [(COLS,), (1, COLS), (1, 1, COLS, 1), (1, COLS, 1), (ROWS, 1), (ROWS, COLS), (1, ROWS, COLS), (1, ROWS, COLS, 1)],
)
def test_shapes_of_one_mask(shape: tuple[int, ...]) -> None:
    values = (np.random.default_rng(0).random(shape) < 0.5).astype(np.float32)
    values.reshape(-1)[0] = 1
    expected = np.broadcast_to(values if shape == (ROWS, 1) else values.squeeze(), (ROWS, COLS))
    found = as_mask(values, 3, ROWS, COLS)
    np.testing.assert_array_equal(np.broadcast_to(found, (ROWS, COLS)), expected != 0)


@pytest.mark.parametrize(
    "shape", [(3, COLS), (3, 1, COLS), (3, 1, COLS, 1), (3, ROWS, 1), (3, ROWS, COLS), (3, 1, ROWS, COLS)]
)
def test_shapes_of_a_mask_a_slice(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).random(shape) < 0.5
    core = [3, 1 if ROWS not in shape else ROWS, 1 if COLS not in shape else COLS]
    found = as_mask(values, 3, ROWS, COLS)
    np.testing.assert_array_equal(found, np.broadcast_to(values.reshape(core), (3, ROWS, COLS)))
    alike = np.broadcast_to(values[:1], shape)
    assert as_mask(alike, 3, ROWS, COLS).ndim < 3


def test_other_masks_get_a_sentence() -> None:
    for wrong, sentence in (
        (np.ones(7), r"mask has shape \(7,\), expected \(10,\), \(12, 1\) or \(12, 10\); or one a slice, 3"),
        (np.linspace(0, 1, COLS), "other values than 0 and 1"),
        (np.zeros(COLS), "samples nothing"),
        (np.full(COLS, np.nan), "not finite"),
        (np.array(["x"] * COLS), "expected 0 and 1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            as_mask(wrong, 3, ROWS, COLS)
    assert as_mask(255 * LINES.astype(np.uint8), 3, ROWS, COLS).tolist() == LINES.tolist()


@pytest.mark.parametrize("shape", [(1, COLS), (COLS, 1), (ROWS, 1), (1, ROWS)])
@pytest.mark.parametrize("name", ["m.mat", "m73.mat"])
def test_vectors_of_matlab(name: str, shape: tuple[int, int], tmp_path: Path) -> None:
    mask = np.arange(max(shape)) % 2 == 0
    if name == "m.mat":
        scipy.io.savemat(tmp_path / name, {"mask": mask.reshape(shape).astype(np.uint8)})
    else:
        with h5py.File(tmp_path / name, "w") as file:
            file["mask"] = mask.reshape(shape).T
    found = as_mask(read_array_file(str(tmp_path / name), "mask"), 1, ROWS, COLS)
    along_columns = np.broadcast_to(mask if COLS in shape else mask[:, None], (ROWS, COLS))
    np.testing.assert_array_equal(np.broadcast_to(found, (ROWS, COLS)), along_columns)


@pytest.mark.parametrize("name", ["m.npy", "m.npz", "m.h5", "m.mat", "m73.mat", "m.cfl"])
def test_mask_files(name: str, tmp_path: Path) -> None:
    mask, path = np.random.default_rng(3).random((2, ROWS, COLS)) < 0.4, tmp_path / name
    if name.endswith(".npy"):
        np.save(path, mask)
    elif name.endswith(".npz"):
        np.savez_compressed(path, mask=mask, other=np.zeros(3))
    elif name.endswith(".cfl"):
        write_bart(tmp_path / "m", mask[:, None].astype(np.complex64))
    elif name == "m.mat":
        scipy.io.savemat(path, {"mask": mask.astype(np.uint8), "info": "text"})
    else:
        with h5py.File(path, "w") as file:
            file["mask"] = mask.T if name.endswith(".mat") else mask
    np.testing.assert_array_equal(as_mask(read_array_file(str(path), "mask"), 2, ROWS, COLS), mask)


def test_bad_mask_files_get_a_sentence(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=np.ones(3), b=np.ones(3))
    (tmp_path / "junk.npy").write_bytes(b"junk")
    (tmp_path / "junk.mat").write_bytes(b"junk")
    scipy.io.savemat(tmp_path / "two.mat", {"a": np.ones(3), "b": np.ones(3)})
    np.save(tmp_path / "pickled.npy", np.array([None]), allow_pickle=True)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["mask"] = h5py.ExternalLink("junk.npy", "mask")
    for name, sentence in (
        ("absent.npy", "no mask file"), ("two.npz", "it has a, b, expected an array mask"),
        ("junk.npy", "cannot be read"),
        ("pickled.npy", "cannot be read"), ("link.h5", "expected the data itself"),
        ("two.mat", "cannot be read: it has a, b, expected an array mask"), ("junk.mat", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            read_array_file(str(tmp_path / name), "mask")
    np.save(tmp_path / "large.npy", np.ones(9))
    np.savez(tmp_path / "large.npz", np.ones(9))
    scipy.io.savemat(tmp_path / "large.mat", {"mask": np.ones(9)})
    for name in ("large.npy", "large.npz", "large.mat"):
        with pytest.raises(ValueError, match="values are too many for a mask"):
            read_array_file(str(tmp_path / name), "mask", most=8)


def test_the_store_holds_what_was_measured(tmp_path: Path) -> None:
    kspace = random_kspace((2, 3, ROWS, COLS))
    kspace[0] *= LINES
    kspace[1] *= np.roll(LINES, 1)
    np.save(tmp_path / "differ.npy", kspace)
    np.save(tmp_path / "alike.npy", random_kspace((2, 3, ROWS, COLS)) * LINES)
    np.save(tmp_path / "full.npy", random_kspace((2, 3, ROWS, COLS)))
    masks = {}
    with open_store(tmp_path / "x.zarr", "a") as store:
        for name in ("differ", "alike", "full"):
            with open_volume(tmp_path / f"{name}.npy") as volume:
                write_volume(store, name, volume)
            stored = store.read_volume(name)
            masks[name] = stored.mask()
            assert stored.info.has_mask == (masks[name] is not None)
            assert len(stored.info.notes) == (1 if name == "full" else 2)  # one of its axes
    assert masks["full"] is None
    np.testing.assert_array_equal(masks["alike"], LINES)
    np.testing.assert_array_equal(masks["differ"], np.stack([FULL[0] & LINES, FULL[0] & np.roll(LINES, 1)]))


def test_gaps_are_runs_of_rows_and_columns() -> None:
    assert not has_gaps(FULL[0])
    assert not has_gaps(np.zeros((3, 4), dtype=bool))
    assert has_gaps(np.array([[True, False, True]]))
    assert has_gaps(np.array([[True], [False], [True]]))


def scan(coils: int = 4) -> np.ndarray:
    return np.asarray(phantom_volume(1, 48, 40, coils, seed=4).kspace)


def round_trip(kspace: np.ndarray) -> np.ndarray:
    """Transform forth and back in single precision, which leaves rounding in the place of zeros."""
    return np.asarray(scipy.fft.fft2(scipy.fft.ifft2(kspace)))


PATTERNS = {
    "columns": np.broadcast_to((np.arange(40) % 3 == 0) | (np.abs(np.arange(40) - 20) < 5), (48, 40)),
    "rows": np.broadcast_to((np.arange(48) % 2 == 0)[:, None], (48, 40)),
    "points": np.random.default_rng(2).random((48, 40)) < 0.4,
    "padding": np.pad(np.ones((36, 30), dtype=bool), ((6, 6), (5, 5))),
    "partial Fourier": np.broadcast_to(np.arange(40) > 11, (48, 40)),
}


@pytest.mark.parametrize("coils", [1, 4])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_rounding_leaves_of_zeros_was_not_measured(pattern: str, coils: int, tmp_path: Path) -> None:
    expected = PATTERNS[pattern]
    np.save(tmp_path / "a.npy", round_trip(scan(coils) * expected))
    with open_volume(tmp_path / "a.npy") as volume:
        assert (volume.read_kspace(0, 1) != 0).mean() > 0.99  # rounding hits a few zeros
        found = volume.sampling(volume.read_kspace(0, 1), 0)
    np.testing.assert_array_equal(found.measured[0], expected)
    unit = pattern if pattern in ("columns", "rows") else "positions" if pattern != "partial Fourier" else "columns"
    assert f" {unit} hold next to nothing" in found.notes[0]
    assert found.has_gaps == (pattern in ("columns", "rows", "points"))


def test_smooth_decay_and_noise_are_measured() -> None:
    x, y = np.meshgrid(np.arange(40) - 20, np.arange(48) - 24)
    for width in (1, 2, 4, 8, 16):
        blob = np.exp(-(x**2 + y**2) / (2.0 * width**2))
        for precision in (np.complex64, np.complex128):
            kspace = np.fft.fftshift(scipy.fft.fft2(blob.astype(precision)))[None, None].astype(np.complex64)
            found = find_sampling(magnitudes(kspace))
            assert not any("next to nothing" in note for note in found.notes)
    assert find_sampling(magnitudes(random_kspace((3, 1, 48, 40)))).is_complete
    assert find_sampling(magnitudes(scan(1))).is_complete


def test_real_scans_hold_no_residue(shared_data: Path) -> None:
    for file in sorted((shared_data / "kspace").glob("*")) + sorted((shared_data / "other").glob("*.h5")):
        with open_volume(file) as volume:
            kspace = volume.read_kspace(0, volume.info.num_slices)
            assert not any("next to nothing" in note for note in volume.sampling(kspace, 0).notes)
