"""GRAPPA, SPIRiT and AC-LORAKS: dense references, exact limits, what they refuse, other programs, a real slice."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kdrift.measures.metrics import psnr
from kdrift.methods import COUPLED_COILS, METHODS, Measurement
from kdrift.methods.classical.loraks import LoraksOptions, mirrored, null_filters
from kdrift.methods.classical.spirit import prediction_errors
from kdrift.mri.coils import rss
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.mri.kernels import calibration_data, complete, ridge, window_gram
from kdrift.mri.low_rank import LowRankOperator
from kdrift.mri.masks import make_mask
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.testing import complex_normal

NAMES = ("grappa", "spirit", "loraks")


def shifted_coils(coils: int, rows: int, cols: int) -> Tensor:
    """K-space `(coil, row, col)` of a random image seen by coils whose maps are sums of few exponentials.

    Coil c sees sum_k a_ck exp(2 pi i k x / N), |k| <= 1 along both axes: its k-space is a sum of shifted copies of the
    image's, so that kernels of finite width are exact.
    """
    image = complex_normal((rows, cols), seed=3)
    y, x = ((torch.arange(n, dtype=torch.float64) - n // 2) / n for n in (rows, cols))
    waves = [torch.polar(torch.ones(rows, cols, dtype=torch.float64), 2 * torch.pi * (k * y[:, None] + q * x))
             for k, q in itertools.product((-1, 0, 1), repeat=2)]  # fmt: skip
    maps = torch.einsum("ck,kyx->cyx", complex_normal((coils, 9), seed=4), torch.stack(waves))
    return fft2c(maps * image)


def lines(rows: int, cols: int, acceleration: int = 2, acs: int = 12) -> Tensor:
    """Every so many columns, and a block in the middle."""
    mask = torch.zeros(rows, cols, dtype=torch.bool)
    mask[:, ::acceleration] = True
    mask[:, (cols - acs) // 2 : (cols + acs) // 2] = True
    return mask


def coil_images(name: str, kspace: Tensor, mask: Tensor, **settings: Any) -> Tensor:
    measurement = Measurement(torch.where(mask, kspace, 0), mask, torch.ones_like(kspace), 0.0, chains=COUPLED_COILS)
    return METHODS[name].function(measurement, options=METHODS[name].options(**settings))


def windows(kspace: Tensor) -> Tensor:
    """The 3 x 3 windows around all samples of `(*batch, coil, row, col)`, round the edge: `(*batch, window, n)`."""
    shifted = [kspace.roll((-y, -x), (-2, -1)) for y, x in itertools.product((-1, 0, 1), repeat=2)]
    return torch.stack(shifted, -3).flatten(-2).flatten(-3, -2).mT


@pytest.mark.parametrize(("by_rows", "levelling"), [(False, 0.0), (True, 0.0), (False, 0.5)])
def test_grappa_solves_the_least_squares_of_each_sample(by_rows: bool, levelling: float) -> None:
    kspace = complex_normal((3, 24, 26))
    mask = lines(24, 26)
    found = fft2c(coil_images("grappa", kspace.mT if by_rows else kspace, mask.mT if by_rows else mask, weight=0.1,
                              kernel_size=3, kernel_lines=2, levelling=levelling))  # fmt: skip
    found = found.mT if by_rows else found
    acs = kspace[:, :, 7:19]
    for row, col in ((0, 5), (11, 3), (23, 21)):  # the first and the last row see less of their neighbourhood
        rows = [r for r in (row - 1, row, row + 1) if 0 <= r < 24]
        sources = torch.stack([kspace[:, r, c] for r in rows for c in (col - 1, col + 1)], 1).flatten()
        examples, targets, sizes = [], [], []
        top, tall = rows[0] - row, rows[-1] - rows[0] + 1
        for r, c in itertools.product(range(24 - tall + 1), range(12 - 2)):
            examples.append(torch.stack([acs[:, r + k, c + q] for k in range(tall) for q in (0, 2)], 1).flatten())
            targets.append(acs[:, r - top, c + 1])
            sizes.append(acs[:, r : r + tall, c : c + 3].abs().square().mean().sqrt() ** levelling)
        matrix, right = (torch.stack(part) / torch.stack(sizes)[:, None] for part in (examples, targets))
        normal = matrix.mH @ matrix
        level = 0.1 * torch.linalg.matrix_norm(normal) / len(normal)
        weights = torch.linalg.solve(normal + level * torch.eye(len(normal)), matrix.mH @ right)
        torch.testing.assert_close(found[:, row, col], sources @ weights)
    torch.testing.assert_close(found[:, mask], kspace[:, mask])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("coils", "rows", "cols"), [(10, 26, 27), (12, 25, 28)])
def test_noise_free_data_of_band_limited_coils_are_found_exactly(name: str, coils: int, rows: int, cols: int) -> None:
    kspace, mask = shifted_coils(coils, rows, cols), lines(rows, cols, acs=14)
    settings: dict[str, Any] = {"weight": 1e-12}
    settings |= {"grappa": {}, "spirit": {"calibration_weight": 1e-13, "max_iter": 200},
                 "loraks": {"threshold": 1e-6, "max_iter": 200}}[name]  # fmt: skip
    found = fft2c(coil_images(name, kspace, mask, **settings))
    inner = (slice(None), slice(4, -4), slice(4, -4))  # GRAPPA has fewer neighbours at the edge
    error = float((found - kspace)[inner].norm() / kspace[inner].norm())
    assert error < 1e-3, error


def test_spirit_and_loraks_minimise_what_they_say() -> None:
    kspace, mask = complex_normal((2, 12, 12)), lines(12, 12, acs=6)
    measured = torch.where(mask, kspace, 0)
    acs = calibration_data(measured, mask)
    examples = torch.stack([acs[:, r : r + 3, c : c + 3].flatten()
                            for r in range(acs.shape[1] - 2) for c in range(acs.shape[2] - 2)])  # fmt: skip
    normal = examples.mH @ examples
    level = 0.05 * torch.linalg.matrix_norm(normal) / 18
    rows = []
    for coil in range(2):  # what SPIRiT's kernel of a coil leaves of a window, by least squares on the other samples
        own = 9 * coil + 4
        others = [i for i in range(18) if i != own]
        weights = torch.linalg.solve(normal[others][:, others] + level * torch.eye(17), normal[others][:, own])
        row = torch.zeros(18, dtype=torch.complex128)
        row[others], row[own] = weights, -1
        rows.append(row)
    plus = [i for i in range(18) if i % 9 in (1, 3, 4, 5, 7)]  # a neighbourhood of radius 1
    basis = torch.linalg.svd(examples[:, plus])[2].mH[:, 6:]
    null = torch.zeros(18, basis.shape[1], dtype=torch.complex128)
    null[plus] = basis
    cases = {
        "spirit": (torch.stack(rows).T, 0.02, {"kernel_size": 3, "calibration_weight": 0.05, "weight": 0.02}),
        "loraks": (null / 3, 0.03, {"radius": 1, "rank": 6, "weight": 0.03}),
    }
    units = torch.eye(kspace.numel(), dtype=torch.complex128).reshape(-1, *kspace.shape)
    for name, (filters, weight, settings) in cases.items():
        matrix = (windows(units) @ filters).flatten(1).T  # |W(x) filters|^2 as an explicit matrix
        free = (~mask).expand(kspace.shape).flatten()
        left, fixed = matrix[:, free], matrix[:, ~free] @ kspace.flatten()[~free]
        expected = kspace.flatten().clone()
        expected[free] = torch.linalg.solve(left.mH @ left + weight * torch.eye(int(free.sum())), -left.mH @ fixed)
        found = fft2c(coil_images(name, kspace, mask, max_iter=500, **settings))
        torch.testing.assert_close(found.flatten(), expected, atol=2e-4, rtol=0, msg=name)


def test_kspace_that_agrees_with_the_kernel_is_a_fixed_point_of_spirit() -> None:
    kspace, mask = shifted_coils(10, 26, 26), lines(26, 26, acs=14)
    filters = prediction_errors(window_gram(calibration_data(kspace, mask), (5, 5)), (5, 5), 1e-13)
    operator = LowRankOperator(filters, tuple(kspace.shape))
    assert float(operator.forward(kspace).norm()) < 1e-5 * float(kspace.norm())
    torch.testing.assert_close(filters[:, :, 2, 2].diagonal(), torch.ones(10, dtype=torch.complex128))
    complement = torch.where(mask, 0, kspace)
    start = complete(operator.normal, kspace - complement, mask, weight=0.0, max_iter=200)
    assert float((start - kspace).norm()) < 1e-2 * float(kspace.norm())


def test_the_s_matrix_knows_a_smooth_phase() -> None:
    """Of one coil, real images: half of k-space is enough for S, and not for C."""
    image = torch.zeros(32, 32, dtype=torch.complex128)
    image[8:24, 10:22] = torch.rand(16, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0j
    kspace, mask = fft2c(image)[None], torch.zeros(32, 32, dtype=torch.bool)
    mask[:, 10:] = True
    errors = {matrix: float((coil_images("loraks", kspace, mask, matrix=matrix, radius=3, weight=1e-8, max_iter=300)
                             - image).norm() / image.norm()) for matrix in "CS"}  # fmt: skip
    assert errors["S"] < 0.01
    assert errors["C"] > 10 * errors["S"]
    torch.testing.assert_close(mirrored(mirrored(kspace)), kspace)


def test_null_filters_annihilate_and_their_number_is_told() -> None:
    kspace = shifted_coils(4, 32, 32)
    gram = window_gram(kspace[:, 4:28, 4:28], (5, 5))
    filters = null_filters(gram, (5, 5), LoraksOptions(threshold=1e-6))
    flat = filters.flatten(1).T
    torch.testing.assert_close(flat.mH @ flat, torch.eye(len(filters), dtype=flat.dtype))
    assert float((flat.mH @ gram @ flat).diagonal().real.sum()) < 1e-9 * float(gram.diagonal().real.sum())
    assert not bool(filters[:, :, 0, 0].any())  # outside of a disc of radius 2
    assert len(null_filters(gram, (5, 5), LoraksOptions(rank=30))) == 4 * 13 - 30
    with pytest.raises(
        ValueError, match=r"52 columns and no null space: expected a larger radius, and a rank below 52"
    ):
        null_filters(gram, (5, 5), LoraksOptions(rank=52))


def test_the_weight_of_a_ridge_has_no_unit() -> None:
    gram = window_gram(complex_normal((2, 8, 8)), (3, 3))
    torch.testing.assert_close(ridge(1e-12 * gram, 0.1), 1e-12 * ridge(gram, 0.1), atol=0, rtol=1e-9)
    assert bool(torch.isfinite(torch.linalg.inv(ridge(0 * gram, 0.0))).all())


@pytest.mark.parametrize("name", NAMES)
def test_what_was_measured_stays_and_nothing_is_missing_of_any_pattern(name: str) -> None:
    kspace = complex_normal((4, 33, 30), dtype=torch.complex64)
    masks = [make_mask(kind, (33, 30), acceleration=2, acs_lines=8, seed=2).mask for kind in ("poisson", "random")]
    grid = torch.zeros(33, 30, dtype=torch.bool)
    grid[::2, ::3] = True  # both axes have gaps
    grid[12:22, 10:20] = True
    for mask in [*masks, grid]:
        settings = {"threshold": 0.5} if name == "loraks" else {}  # of noise nothing is null space at 0.05
        found = fft2c(coil_images(name, kspace, mask, **settings))
        torch.testing.assert_close(found[:, mask], kspace[:, mask])
        assert bool((found[:, ~mask].abs().amax(0) > 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_refusals_say_what_to_do(name: str) -> None:
    kspace = complex_normal((4, 32, 32))
    sparse = torch.zeros(32, 32, dtype=torch.bool)
    sparse[:, ::2] = True
    with pytest.raises(ValueError, match=r"expected calibration lines.* got .*: give a mask with more of them"):
        coil_images(name, kspace, sparse)
    broken = kspace.clone()
    broken[0, 16, 16] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        coil_images(name, broken, lines(32, 32))
    if name != "loraks":
        with pytest.raises(ValueError, match="expected 2 coils or more, got 1"):
            coil_images(name, kspace[:1], lines(32, 32))
    far = lines(32, 32, acceleration=16, acs=6)
    if name == "grappa":
        with pytest.raises(ValueError, match=r"up to 6 from the next .*: expected at least 7 calibration lines, got 6"):
            coil_images(name, kspace, far)
    bad: dict[str, tuple[dict[str, Any], ...]] = {
        "grappa": ({"weight": -1.0}, {"levelling": 1.5}, {"kernel_size": 4}, {"kernel_lines": 3}),
        "spirit": ({"weight": -1.0}, {"kernel_size": 4}, {"calibration_weight": float("nan")}),
        "loraks": ({"max_iter": 0}, {"radius": 0}, {"rank": 0}, {"threshold": 1.0}),
    }
    for settings in bad[name]:
        with pytest.raises(ValueError, match="expected"):
            METHODS[name].options(**settings)


@pytest.mark.parametrize("name", NAMES)
def test_slices_are_combined_by_root_sum_of_squares(name: str) -> None:
    kspace, mask = shifted_coils(4, 32, 32).to(torch.complex64), lines(32, 32)
    both = torch.stack([kspace, 2 * kspace])
    found = reconstruct(torch.where(mask, both, 0), mask.expand(1, 32, 32), plan=Plan(name))
    expected = rss(coil_images(name, kspace, mask))
    torch.testing.assert_close(found.mean[0], expected, rtol=0, atol=1e-3 * float(expected.max()))
    torch.testing.assert_close(found.mean[1], 2 * found.mean[0], rtol=0, atol=1e-3 * float(expected.max()))


def test_coil_images_are_no_start() -> None:
    with pytest.raises(ValueError, match=r"no start 'grappa'.*one image without chains make zero_filled, cg_sense, tv"):
        Plan("annealed", start="grappa").resolve()


def test_grappa_agrees_with_pygrappa() -> None:
    """pygrappa also fits windows that zeros around the ACS complete, so that the two agree but for that."""
    pygrappa = pytest.importorskip("pygrappa", reason="pygrappa is not installed (extra dev)")
    problem = shifted_coils(6, 64, 64)
    falls_off = torch.exp(-((torch.arange(64, dtype=torch.float64) - 32).abs() / 6))
    kspace, mask = problem * falls_off[:, None] * falls_off, lines(64, 64, acs=24)
    measured = torch.where(mask, kspace, 0)
    acs = calibration_data(measured, mask)

    def last(values: Tensor) -> Any:
        return np.ascontiguousarray(values.movedim(0, -1).numpy())

    theirs = pygrappa.mdgrappa(last(measured), last(acs), kernel_size=(5, 3), lamda=1e-3)
    theirs = torch.from_numpy(np.moveaxis(np.asarray(theirs), -1, 0).copy())
    ours = fft2c(coil_images("grappa", kspace, mask, weight=1e-3, kernel_size=5, kernel_lines=2, levelling=0))
    missing = ~mask
    difference = float((ours - theirs)[:, missing].norm() / theirs[:, missing].norm())
    assert difference < 0.05, difference


def graz(shared_data: Path) -> tuple[Tensor, Tensor]:
    """K-space and reference of the real slice of four coils."""
    import h5py

    with h5py.File(shared_data / "kspace" / "graz_t2_4ch.h5") as file:
        return torch.from_numpy(file["kspace"][0]), torch.from_numpy(file["reconstruction_rss"][0])


def test_levelled_calibration_of_few_lines_is_not_decided_by_the_peak_of_kspace(shared_data: Path) -> None:
    kspace = graz(shared_data)[0][:, 64:-64, 64:-64]
    reference = rss(ifft2c(kspace))
    mask = make_mask("equispaced", (128, 128), acceleration=4, acs_fraction=0.08).mask
    levelled, plain = (
        psnr(reference, rss(coil_images("grappa", kspace, mask, levelling=power))) for power in (0.5, 0.0)
    )
    assert levelled > plain + 1, (levelled, plain)


def test_real_slice_reaches_the_known_figures(shared_data: Path) -> None:
    kspace, reference = graz(shared_data)
    mask = make_mask("equispaced", (256, 256), acceleration=2, acs_fraction=0.08).mask
    for name, least in {"grappa": 40.5, "spirit": 41.5, "loraks": 40.5}.items():
        assert psnr(reference, rss(coil_images(name, kspace, mask))) > least, name
