"""What BART itself writes is read as BART means it, and what kdrift writes BART reads: by its own programs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from kdrift.data.formats import open_volume
from kdrift.data.formats.bart import read_bart_maps, write_bart

pytestmark = pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed (package bart of Debian)")


def bart(folder: Path, *command: str) -> None:
    subprocess.run(["bart", *command], cwd=folder, check=True, capture_output=True)


def test_a_phantom_of_bart_lies_where_bart_has_it(tmp_path: Path) -> None:
    bart(tmp_path, "phantom", "-x", "64", "-s", "4", "-k", "kspace")
    bart(tmp_path, "fft", "-i", "-u", "3", "kspace", "coils")
    bart(tmp_path, "rss", "8", "coils", "image")
    with open_volume(tmp_path / "kspace.cfl") as volume:
        kspace = volume.read_kspace(0, 1)[0]
    shifted = np.fft.ifftshift(kspace, axes=(-2, -1))
    images = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=(-2, -1))
    expected = np.fromfile(tmp_path / "image.cfl", np.complex64).reshape(64, 64).T  # column-major
    found = np.sqrt((np.abs(images) ** 2).sum(0))
    np.testing.assert_allclose(found, np.abs(expected), atol=1e-5 * np.abs(expected).max())


def test_k_space_goes_to_bart_and_back_bit_for_bit(tmp_path: Path) -> None:
    kspace = np.random.default_rng(0).standard_normal((3, 2, 12, 10, 2)).astype(np.float32).view(np.complex64)[..., 0]
    write_bart(tmp_path / "a", kspace)
    bart(tmp_path, "scale", "2", "a", "b")
    bart(tmp_path, "scale", "0.5", "b", "c")
    with open_volume(tmp_path / "c.hdr") as volume:
        assert (volume.read_kspace(0, 3) == kspace).all()


def test_maps_of_ecalib_are_those_of_its_k_space(tmp_path: Path) -> None:
    bart(tmp_path, "phantom", "-x", "48", "-s", "4", "-k", "kspace")
    bart(tmp_path, "ecalib", "-m", "1", "kspace", "maps")
    maps = read_bart_maps(str(tmp_path / "maps.cfl"))
    assert maps.shape[-3:] == (4, 48, 48)
    norm = np.sqrt((np.abs(maps) ** 2).sum(-3))
    assert np.isclose(norm[norm > 0.5], 1, atol=1e-3).all()
