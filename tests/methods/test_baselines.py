"""Classical baselines: exact limits, invariances, what they minimise, tuning, and a real slice."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from benchmarks.best_weight import tune
from torch import Tensor

from kdrift.measures.metrics import psnr
from kdrift.methods import METHODS, Measurement
from kdrift.mri.coils import combine, espirit_maps, normalise_maps
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.mri.masks import make_mask

NAMES = sorted(name for name, method in METHODS.items() if not method.needs_prior)
ITERATIVE = ["cg_sense", "tv", "l1_wavelet"]


def classical(name: str, kspace: Tensor, mask: Tensor, smaps: Tensor, **settings: float) -> Tensor:
    """The image of a classical method by those of the settings that it has; coil images are combined by the maps."""
    method = METHODS[name]
    known = {field.name for field in dataclasses.fields(method.options)}
    options = method.options(**{key: value for key, value in settings.items() if key in known})
    kspace = torch.where(mask, kspace, 0)
    image = method.function(Measurement(kspace, mask, smaps, 0.0, chains=method.chains), options=options)
    return combine(image, smaps) if method.chains.coil_images else image


def blocks(rows: int, cols: int, dtype: torch.dtype = torch.complex64) -> Tensor:
    """Piecewise constant image with phase, zero at the margin."""
    image = torch.zeros((rows, cols), dtype=dtype)
    image[rows // 5 : -(rows // 5), cols // 5 : -(cols // 5)] = 0.5
    image[rows // 3 : rows // 2, cols // 3 : -(cols // 3)] = 1.0
    phase = torch.linspace(-1, 1, rows, dtype=torch.float64)[:, None] + torch.zeros(cols, dtype=torch.float64)
    return image * torch.polar(torch.ones_like(phase), phase).to(dtype)


def coil_maps(coils: int, rows: int, cols: int, dtype: torch.dtype = torch.complex64) -> Tensor:
    """Smooth maps with sum of squares 1."""
    angle = 2 * torch.pi * torch.arange(coils, dtype=torch.float64)[:, None, None] / coils
    y = torch.linspace(-1, 1, rows, dtype=torch.float64)[:, None]
    x = torch.linspace(-1, 1, cols, dtype=torch.float64)
    magnitude = torch.exp(-((y - angle.sin()) ** 2) - (x - angle.cos()) ** 2)
    return normalise_maps(torch.polar(magnitude, angle + 0.5 * x * y).to(dtype))


def problem(
    coils: int = 4, rows: int = 32, cols: int = 36, dtype: torch.dtype = torch.complex64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image, k-space, mask and maps; a little noise so that there is something to weigh."""
    image, smaps = blocks(rows, cols, dtype), coil_maps(coils, rows, cols, dtype)
    mask = make_mask("gaussian1d", (rows, cols), acceleration=3, acs_lines=cols // 6, seed=1).mask
    noise = torch.randn(smaps.shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    return image, (fft2c(smaps * image) + 0.005 * noise) * mask, mask, smaps


def test_zero_filled_is_the_adjoint() -> None:
    _, kspace, mask, smaps = problem()
    coils = ifft2c(kspace)
    torch.testing.assert_close(classical("zero_filled", kspace, mask, smaps), (smaps.conj() * coils).sum(0))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("coils", "rows", "cols"), [(1, 17, 23), (5, 32, 21), (2, 9, 8)])
def test_full_sampling_gives_the_image_back(name: str, coils: int, rows: int, cols: int) -> None:
    image, smaps = blocks(rows, cols), coil_maps(coils, rows, cols)
    everything = torch.ones((rows, cols), dtype=torch.bool)
    got = classical(name, fft2c(smaps * image), everything, smaps, weight=1e-6)
    assert got.dtype == torch.complex64
    torch.testing.assert_close(got, image, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_scale_of_the_data_does_not_matter(name: str) -> None:
    _, kspace, mask, smaps = problem()
    one = classical(name, kspace, mask, smaps, weight=2e-3, max_iter=20)
    scaled = classical(name, kspace * 1e-5, mask, smaps, weight=2e-3, max_iter=20)
    torch.testing.assert_close(scaled * 1e5, one, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_repeats_exactly_draws_nothing_and_leaves_its_input_alone(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    _, kspace, mask, smaps = problem()
    given = kspace.clone()
    first = classical(name, kspace, mask, smaps, max_iter=10)
    assert torch.equal(first, classical(name, kspace, mask, smaps, max_iter=10))
    assert torch.equal(kspace, given)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("grappa", "spirit")])
def test_single_coil_and_double_precision(name: str) -> None:
    _, kspace, mask, _ = problem(coils=1, dtype=torch.complex128)
    image = classical(name, kspace, mask, torch.ones_like(kspace), max_iter=5)
    assert image.shape == (32, 36)
    assert image.dtype == torch.complex128


def test_cg_sense_solves_the_normal_equations() -> None:
    _, kspace, mask, smaps = problem(coils=3, rows=8, cols=9, dtype=torch.complex128)
    basis = torch.eye(72, dtype=torch.complex128).reshape(72, 1, 8, 9)
    matrix = (fft2c(basis * smaps) * mask).reshape(72, -1).T
    right = matrix.conj().T @ kspace.reshape(-1)
    exact = torch.linalg.solve(matrix.conj().T @ matrix + 0.05 * torch.eye(72), right)
    got = classical("cg_sense", kspace, mask, smaps, weight=0.05, max_iter=200)
    torch.testing.assert_close(got.reshape(-1), exact, atol=1e-4, rtol=0)


def tv_objective(image: Tensor, kspace: Tensor, mask: Tensor, smaps: Tensor, weight: float) -> float:
    scale = float(classical("zero_filled", kspace, mask, smaps).abs().max())
    image, kspace = image / scale, kspace / scale
    misfit = 0.5 * ((fft2c(smaps * image) * mask - kspace).abs() ** 2).sum()
    jumps = sum((image - image.roll(1, axis)).abs().sum() for axis in (-2, -1))
    return float(misfit + weight * jumps)


def test_total_variation_reaches_its_minimum() -> None:
    image, kspace, mask, smaps = problem()
    weight = 2e-3
    best = tv_objective(classical("tv", kspace, mask, smaps, weight=weight, max_iter=3000), kspace, mask, smaps, weight)
    default = tv_objective(classical("tv", kspace, mask, smaps, weight=weight), kspace, mask, smaps, weight)
    assert default <= 1.01 * best
    for other in (image, classical("zero_filled", kspace, mask, smaps), classical("cg_sense", kspace, mask, smaps)):
        assert best < tv_objective(other, kspace, mask, smaps, weight)


def test_l1_wavelet_has_converged_and_shrinks_with_the_weight() -> None:
    _, kspace, mask, smaps = problem()
    default = classical("l1_wavelet", kspace, mask, smaps, weight=2e-3)
    longer = classical("l1_wavelet", kspace, mask, smaps, weight=2e-3, max_iter=1000)
    assert float((default - longer).norm() / longer.norm()) < 0.01
    norms = [float(classical("l1_wavelet", kspace, mask, smaps, weight=w).norm()) for w in (1e-3, 1e-2, 1e-1)]
    assert norms == sorted(norms, reverse=True)


@pytest.mark.parametrize("name", ITERATIVE)
def test_regularisation_beats_zero_filling(name: str) -> None:
    image, kspace, mask, smaps = problem()
    before = psnr(image, classical("zero_filled", kspace, mask, smaps))
    assert psnr(image, classical(name, kspace, mask, smaps)) > before + 1.5


@pytest.mark.parametrize("name", NAMES)
def test_no_signal_gives_a_zero_image(name: str) -> None:
    _, kspace, mask, smaps = problem()
    assert bool((classical(name, torch.zeros_like(kspace), mask, smaps) == 0).all())


def test_bad_input_is_named() -> None:
    _, kspace, mask, smaps = problem()
    with pytest.raises(ValueError, match=r"smaps are \(3, 32, 36\), kspace is \(4, 32, 36\)"):
        classical("tv", kspace, mask, smaps[:3])
    with pytest.raises(ValueError, match=r"mask is \(36,\), kspace images are"):
        classical("l1_wavelet", kspace, mask[0], smaps)
    with pytest.raises(ValueError, match="tv takes one set of coil maps, got 2"):
        METHODS["tv"].check_map_sets(2, "tv")
    METHODS["cg_sense"].check_map_sets(2, "cg_sense")
    for settings in ({"weight": -1.0}, {"weight": float("nan")}, {"weight": float("inf")}, {"max_iter": 0}):
        with pytest.raises(ValueError, match="expected a finite weight >= 0 and max_iter >= 1"):
            METHODS["tv"].options(**settings)
    with pytest.raises(ValueError, match="wavelet must be a discrete one of PyWavelets"):
        METHODS["l1_wavelet"].options(wavelet="db99")
    kspace[0, 16, 18] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        classical("l1_wavelet", kspace, mask, smaps)


def test_tune_extends_its_grid_until_the_best_lies_inside() -> None:
    image, kspace, mask, smaps = problem()
    tuned = tune("l1_wavelet", kspace, mask, smaps, image.abs(), (0.5, 1.0), max_iter=30, max_extensions=20)
    weights = [trial.weight for trial in tuned.table]
    assert weights == sorted(weights)
    assert weights[0] < tuned.weight < 0.5
    assert tuned.best.metrics["psnr"] == max(t.metrics["psnr"] for t in tuned.table)
    assert tuned.best.metrics["psnr"] == tuned.best_value("psnr")
    torch.testing.assert_close(
        tuned.image, classical("l1_wavelet", kspace, mask, smaps, weight=tuned.weight, max_iter=30)
    )
    by_nmse = tune("l1_wavelet", kspace, mask, smaps, image.abs(), weights, metric="nmse", max_iter=30)
    assert by_nmse.weight == tuned.weight
    assert by_nmse.best_value("nmse") == min(t.metrics["nmse"] for t in by_nmse.table)


def test_tune_compares_the_centre_and_checks_its_arguments() -> None:
    image, kspace, mask, smaps = problem()
    tuned = tune("cg_sense", kspace, mask, smaps, image.abs()[4:28, 6:30], (0.01,))
    assert tuned.image.shape == (32, 36)
    assert len(tuned.table) == 1
    assert tuned.best_value("psnr") == pytest.approx(
        psnr(image[4:28, 6:30], classical("cg_sense", kspace, mask, smaps)[4:28, 6:30]), abs=1e-3
    )
    with pytest.raises(ValueError, match="unknown baseline 'grappa'"):
        tune("grappa", kspace, mask, smaps, image.abs())
    with pytest.raises(ValueError, match="unknown metric 'mse'"):
        tune("tv", kspace, mask, smaps, image.abs(), metric="mse")
    with pytest.raises(ValueError, match="above 0"):
        tune("tv", kspace, mask, smaps, image.abs(), (0.0, 1e-3))


def test_real_slice_reaches_the_known_figures(shared_data: Path) -> None:
    import h5py

    with h5py.File(shared_data / "kspace" / "graz_t2_4ch.h5") as file:
        kspace = torch.from_numpy(file["kspace"][0])
        reference = torch.from_numpy(file["reconstruction_rss"][0])
    mask = make_mask("equispaced", (256, 256), acceleration=4, acs_fraction=0.08, released=True).mask
    kspace = kspace * mask
    smaps = espirit_maps(kspace, crop=0.0)
    expected = {"zero_filled": (0.0, 25), "cg_sense": (0.008, 29.5), "l1_wavelet": (0.002, 33.5)}
    for name, (weight, least) in expected.items():
        assert psnr(reference, classical(name, kspace, mask, smaps, weight=weight, max_iter=40)) > least, name
