"""`kdrift.reconstruct` on arrays that people have: what is taken, and a sentence for what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kdrift
from kdrift.data.phantom import phantom_volume
from kdrift.mri.masks import make_mask
from kdrift.notice import RESEARCH_ONLY
from kdrift.recon.acquisition import load_acquisition
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct_slices
from kdrift.recon.request import AcquisitionRequest

ROWS, COLS, COILS = 40, 44, 3
FAST: dict[str, Any] = {"method": "cg_sense"}


@pytest.fixture(scope="module")
def full() -> np.ndarray:
    return np.asarray(phantom_volume(2, ROWS, COLS, COILS, seed=4).kspace)


@pytest.fixture(scope="module")
def mask() -> np.ndarray:
    return np.asarray(make_mask("equispaced", (ROWS, COLS), acceleration=3, acs_lines=12).mask.numpy())


class Foreign:
    """An array of another library: all it speaks is DLPack."""

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.ndim, self.shape = array, array.ndim, array.shape

    def __dlpack__(self, **options: Any) -> Any:
        return torch.from_numpy(self._array).__dlpack__()

    def __dlpack_device__(self) -> Any:
        return torch.from_numpy(self._array).__dlpack_device__()


def test_the_same_image_whatever_the_array(full: np.ndarray, mask: np.ndarray) -> None:
    kspace = full * mask
    expected = kdrift.reconstruct(kspace, mask, **FAST)
    assert expected.mean.shape == (2, ROWS, COLS)
    swapped = kspace.astype(">c8")
    for array in (
        torch.from_numpy(kspace), torch.from_numpy(kspace).to(torch.complex128), kspace.astype(np.complex128),
        np.asfortranarray(kspace), kspace[:, :, ::-1][:, :, ::-1], swapped, Foreign(kspace), full,
        torch.from_numpy(kspace).conj().resolve_conj().conj(),
    ):  # fmt: skip
        found = kdrift.reconstruct(array, mask, **FAST)
        torch.testing.assert_close(found.mean, expected.mean, rtol=1e-4, atol=1e-9)
    single = kdrift.reconstruct(kspace[0], mask, **FAST)
    torch.testing.assert_close(single.mean[0], expected.mean[0])


def test_what_was_measured(full: np.ndarray, mask: np.ndarray) -> None:
    kspace = full * mask
    expected = kdrift.reconstruct(kspace, mask, **FAST)
    for form in (None, mask[0], mask.astype(float), mask.astype(np.uint8), torch.from_numpy(mask), mask[:1]):
        found = kdrift.reconstruct(kspace, form, **FAST)
        assert found.net_acceleration == pytest.approx(expected.net_acceleration)
        torch.testing.assert_close(found.mean, expected.mean, rtol=1e-3, atol=1e-4)
    whole = kdrift.reconstruct(kspace, "full", **FAST)
    assert whole.net_acceleration == 1
    assert not torch.allclose(whole.mean, expected.mean)
    assert kdrift.reconstruct(full, **FAST).net_acceleration == 1
    by_rows = kdrift.reconstruct(full, np.arange(ROWS)[:, None] % 2 == 0, smaps=np.ones_like(full[0]), **FAST)
    assert by_rows.net_acceleration == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda k: k.tolist(), "kspace is a list, expected an array"),
        (lambda k: "scan.h5", "kspace is a str, expected an array"),
        (lambda k: None, "kspace is a NoneType"),
        (lambda k: k[0, 0], r"expected \(coil, row, col\) or .*; a single coil is kspace\[None\]"),
        (lambda k: k[None], r"kspace has shape \(1, 2, 3, 40, 44\), expected \(coil"),
        (lambda k: abs(k), "expected complex values: images are no k-space"),
        (lambda k: np.stack([k.real, k.imag], -1)[0], "torch.view_as_complex joins a last axis"),
        (lambda k: k[:0], "there is nothing to reconstruct"),
        (lambda k: k * np.nan, "not finite"),
        (lambda k: k.astype(object), "dtype object, expected numbers"),
        (lambda k: 0 * k, "nothing was measured|zero everywhere"),
    ],
)
def test_other_kspace_gets_a_sentence(full: np.ndarray, change: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        kdrift.reconstruct(change(full), **FAST)


def test_other_masks_and_maps_get_a_sentence(full: np.ndarray, mask: np.ndarray) -> None:
    for wrong, sentence in (
        (mask.T, r"mask has shape \(44, 40\), expected \(44,\), \(40, 1\) or \(40, 44\)"),
        (np.stack([mask, mask, mask]), "or one a slice, 2 of them first"),
        (0.5 * mask, "other values than 0 and 1"),
        (0 * mask, "nothing was measured"),
        ("equispaced", 'expected an array, "full" or None'),
        ([True], "mask is a list"),
    ):
        with pytest.raises(ValueError, match=sentence):
            kdrift.reconstruct(full, wrong, **FAST)
    for maps in (np.ones((2, COILS, ROWS, COLS)), np.ones((5, ROWS, COLS), np.complex64), np.ones(3, np.complex64)):
        with pytest.raises(ValueError, match="smaps have shape"):
            kdrift.reconstruct(full, mask, smaps=maps, **FAST)
    with pytest.raises(ValueError, match="did you mean 'annealed'"):
        kdrift.reconstruct(full, mask, method="anealed")
    with pytest.raises(ValueError, match="did you mean 'num_steps'"):
        kdrift.reconstruct(full, mask, settings={"num_step": 3})


def test_calibration_and_virtual_coils_are_those_of_the_command(full: np.ndarray, tmp_path: Path) -> None:
    comb = np.arange(COLS) % 2 == 0
    lines = np.abs(np.arange(COLS) - COLS // 2) < 10
    kspace, scan = full * comb, 3 * full * lines
    own, found = (kdrift.reconstruct(kspace, smaps=None, calibration=each, **FAST) for each in (full, scan))
    assert float((found.mean - own.mean).norm() / own.mean.norm()) < 0.03
    same = kdrift.reconstruct(
        np.fft.ifftshift(kspace, axes=(-2, -1)).transpose(0, 2, 3, 1), axes="slice,row,col,coil", centred=False,
        calibration=np.fft.ifftshift(scan, axes=(-2, -1)).transpose(0, 2, 3, 1), **FAST,
    )  # fmt: skip
    torch.testing.assert_close(same.mean, found.mean)
    one = kdrift.reconstruct(kspace, calibration=scan[0], **FAST)
    torch.testing.assert_close(one.mean[0], found.mean[0])
    assert not torch.equal(one.mean[1], found.mean[1])
    np.save(tmp_path / "a.npy", full)
    request = AcquisitionRequest(source=str(tmp_path / "a.npy"), virtual_coils=2)
    scanned = load_acquisition(request)
    raw = [scanned.raw(i) for i in range(len(full))]
    few = kdrift.reconstruct(full, virtual_coils=2, **FAST)
    torch.testing.assert_close(few.mean, reconstruct_slices(raw, plan=Plan(FAST["method"]), device="cpu").mean)
    for number in (0, COILS + 1):
        with pytest.raises(ValueError, match=f"virtual_coils must lie between 1 and the {COILS} coils of kspace, got"):
            kdrift.reconstruct(full, virtual_coils=number, **FAST)
    for wrong, sentence in (
        (abs(scan), "calibration is float.*, expected complex"),
        (scan[..., 1:], r"calibration has \(slice, coil, row, col\) .* expected the same matrix and coils"),
        (0 * scan, "calibration is zero everywhere"),
        (scan * np.nan, "calibration holds values that are not finite"),
    ):
        with pytest.raises(ValueError, match=sentence):
            kdrift.reconstruct(kspace, calibration=wrong, **FAST)


def test_maps_that_are_none_are_refused_before_the_work(full: np.ndarray) -> None:
    for maps, sentence in (
        (full * np.nan, "smaps holds coil maps that are not finite .*set them to zero"),
        (0 * full, "smaps: the coil maps are zero everywhere, expected sensitivities"),
    ):
        with pytest.raises(ValueError, match=sentence):
            kdrift.reconstruct(full, smaps=maps, **FAST)


def test_maps_noise_and_settings_are_used(full: np.ndarray, mask: np.ndarray) -> None:
    own = kdrift.reconstruct(full, mask, **FAST)
    assert own.smaps is not None
    again = kdrift.reconstruct(full, mask, smaps=own.smaps.numpy(), **FAST)
    torch.testing.assert_close(again.mean, own.mean)
    one = kdrift.reconstruct(full, mask, smaps=own.smaps[0], **FAST)
    assert not torch.allclose(one.mean[1], own.mean[1])
    two_sets = torch.stack([own.smaps[0], 0 * own.smaps[0]])
    assert kdrift.reconstruct(full[0], mask, smaps=two_sets, **FAST).config["maps"]["sets"] == 2
    cov = np.diag([1.0, 4.0, 1.0]).astype(complex)
    assert not torch.allclose(kdrift.reconstruct(full, mask, noise_cov=cov, **FAST).mean, own.mean)
    heavier = kdrift.reconstruct(full, mask, settings={"weight": 1.0}, **FAST)
    assert float(heavier.mean.max()) < float(own.mean.max())


def test_a_sampler_and_what_its_result_can_do(full: np.ndarray, mask: np.ndarray, tmp_path: Path) -> None:
    result = kdrift.reconstruct(full[:1], mask, samples=2, steps=3, seed=1, keep_samples=True)
    assert result.samples is not None
    assert (result.nfe, result.config["seed"], result.config["preset_source"]) == (3, 1, "built in")
    assert repr(result).startswith("ReconstructionResult(annealed: 1 slice of 40 x 44, ")
    assert len(repr(result)) < 160
    assert "data:image/png;base64," in result._repr_html_()
    assert result.plot().get_size_inches()[0] > 4
    result.save(tmp_path / "out")
    saved = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert saved["sampling"].startswith("as given, ")
    assert "metrics" not in saved
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "metrics.json", "panel.png", "reconstruction.h5"
    ]  # fmt: skip
    import nibabel

    image: Any = nibabel.load(result.to_nifti(tmp_path / "mean.nii.gz", voxel_mm=(0.5, 0.7, 5.0)))
    assert image.shape == (COLS, ROWS, 1)
    assert tuple(image.header.get_zooms()) == pytest.approx((0.5, 0.7, 5.0))
    assert image.header["descrip"].item().decode() == RESEARCH_ONLY
    with pytest.raises(ValueError, match="expected images mean, std, lower or upper"):
        result.to_nifti(tmp_path / "x.nii", images="samples")


def test_the_front_door_has_what_it_lists() -> None:
    for name in kdrift.__all__:
        assert getattr(kdrift, name) is not None
    assert set(kdrift.__all__) <= set(dir(kdrift))
    assert [preset.name for preset in kdrift.list_presets("score_mri")] == ["paper", "released"]
    assert "equispaced" in kdrift.MASKS
    with pytest.raises(AttributeError, match="no attribute 'reconstuct'"):
        _ = kdrift.reconstuct
