"""The picture: that it is written whole, legible in size, with the right things in the right places."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kdrift.notice import RESEARCH_ONLY
from kdrift.recon.panel import detailed_region, error_factor, save_panel


def pixels(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def disc(rows: int = 64, cols: int = 60) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : cols * 1j]
    return (np.hypot(y, x) < 0.8) * (1.0 + 0.3 * np.sin(20 * x) * (np.hypot(y, x) < 0.4))


def test_all_parts(tmp_path: Path) -> None:
    image = disc()
    path = save_panel(
        tmp_path / "new" / "panel.png",
        zero_filled=torch.from_numpy(0.5 * image).to(torch.complex64),
        mean=torch.from_numpy(0.98 * image * np.exp(1j)).conj(),
        std=0.1 * image,
        reference=image.astype(np.float32),
        mask=torch.ones(64, 60, dtype=torch.bool),
        title="disc",
        captions={"std": "rank correlation 0.9"},
    )
    got = pixels(path)
    assert got.shape[1] == 1600
    assert got.shape[0] > 600
    assert (got[2, -3] < 25).all(), "dark background"
    grey = (np.ptp(got, axis=2) < 3) & (got.mean(2) > 40)
    columns = np.array_split(grey.mean(0), 5)
    shown = [column.mean() for column in columns]
    assert min(shown[0], shown[1], shown[4]) > 0.2, "zero-filled, mean and reference are grey"
    assert max(shown[2], shown[3]) < 0.1, "std and error are in colour"
    bright = [part.mean() for part in np.array_split(got.mean(2), 5, axis=1)]
    assert bright[0] < 0.75 * bright[4], "one grey scale for all"
    assert bright[1] == pytest.approx(bright[4], rel=0.1)
    assert list(path.parent.iterdir()) == [path], "no partial file is left"


def test_baselines_get_a_row_of_errors_and_more_width(tmp_path: Path) -> None:
    image = disc()
    baselines = dict.fromkeys(("CG-SENSE", "TV", "l1-wavelet"), 0.9 * image)
    shared = {"zero_filled": 0.5 * image, "mean": image, "std": 0.1 * image, "reference": image}
    plain = pixels(save_panel(tmp_path / "plain.png", **shared))
    compared = pixels(save_panel(tmp_path / "compared.png", **shared, baselines=baselines, mask=image > 0))
    assert compared.shape[1] > 1600
    assert compared.shape[0] / compared.shape[1] > plain.shape[0] / plain.shape[1]


@pytest.mark.parametrize("shape", [(9, 40), (40, 9), (7, 7)])
def test_without_reference_any_shape_and_constant_images(tmp_path: Path, shape: tuple[int, int]) -> None:
    zero = np.zeros(shape)
    got = pixels(save_panel(tmp_path / "p.png", zero_filled=zero, mean=zero, std=zero, mask=np.ones(shape)))
    assert got.shape[1] == 1600
    two = pixels(save_panel(tmp_path / "p.png", zero_filled=zero, mean=zero + 1, zoom=(0, 0, 3, 3)))
    assert two.shape[1] == 1080


def test_bad_input_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    image = disc()
    with pytest.raises(ValueError, match=r"std is \(64, 59\), mean is \(64, 60\)"):
        save_panel(tmp_path / "p.png", zero_filled=image, mean=image, std=image[:, :-1])
    with pytest.raises(ValueError, match=r"mean has shape \(1, 64, 60\), expected one slice"):
        save_panel(tmp_path / "p.png", zero_filled=image, mean=image[None])
    with pytest.raises(ValueError, match="reference holds values that are not finite"):
        save_panel(tmp_path / "p.png", zero_filled=image, mean=image, reference=image * np.nan)
    assert not list(tmp_path.iterdir())


def test_zoom_finds_detail_and_theerror_factor_is_round() -> None:
    image = np.zeros((90, 60))
    image[40:50, 35:45] = np.indices((10, 10)).sum(0) % 2
    top, left, rows, cols = detailed_region(image)
    assert (rows, cols) == (30, 20)
    assert top <= 40 <= 50 <= top + rows
    assert left <= 35 <= 45 <= left + cols
    assert error_factor(np.full((4, 4), 0.03)) == 20
    assert error_factor(np.full((4, 4), 3.0)) == 1


def test_pyplot_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from kdrift.recon.panel import save_panel\n"
        "assert 'matplotlib' not in sys.modules\n"
        f"save_panel({str(tmp_path / 'p.png')!r}, zero_filled=np.eye(8), mean=np.eye(8))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_every_panel_says_what_it_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = disc()
    said = pixels(save_panel(tmp_path / "said.png", zero_filled=image, mean=image))
    monkeypatch.setattr("kdrift.recon.panel.RESEARCH_ONLY", "")
    unsaid = pixels(save_panel(tmp_path / "unsaid.png", zero_filled=image, mean=image))
    rows, cols = np.nonzero((said != unsaid).any(2))
    assert rows.min() > len(said) - 24, "below all images"
    assert cols.min() > said.shape[1] - 300
    assert np.ptp(cols) > 100


def test_the_notice_fits_where_it_has_to() -> None:
    assert RESEARCH_ONLY.isascii()
    assert len(RESEARCH_ONLY) <= 64, "a DICOM long string"
