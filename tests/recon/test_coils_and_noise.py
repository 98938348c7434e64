"""Noise coil by coil, coils that measured nothing, calibration scans, virtual coils, and data in any unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import numpy as np
import pytest
import torch
from torch import Tensor

import kdrift
from kdrift.cli import main
from kdrift.data.phantom import phantom_volume
from kdrift.data.volume import BadVolume
from kdrift.mri.masks import make_mask
from kdrift.mri.noise import noise_covariance
from kdrift.recon.acquisition import load_acquisition
from kdrift.recon.chunks import Chunk, split_chains
from kdrift.recon.gather import SliceFacts, gather
from kdrift.recon.merge import SliceResult, merge_chunks
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct_slices
from kdrift.recon.request import AcquisitionRequest, MaskRequest
from kdrift.recon.result import ReconstructionResult
from kdrift.recon.slices import Coils, RawSlice
from recon_helpers import resolve

ROWS, COLS = 64, 56
MASK = torch.from_numpy(np.asarray(make_mask("equispaced", (ROWS, COLS), acceleration=2, acs_lines=16).mask))


def _clean(coils: int, seed: int = 4, slices: int = 1) -> tuple[Tensor, Tensor]:
    """K-space `(slice, coil, row, col)` of hardly any noise, and its root sum of squares."""
    volume = phantom_volume(slices, ROWS, COLS, coils, seed=seed, snr_db=70)
    return torch.from_numpy(volume.kspace), torch.from_numpy(volume.reference)


def _noise(*shape: int, seed: int = 0) -> Tensor:
    """Unit sigma in each component."""
    drawn = torch.randn(*shape, 2, generator=torch.Generator().manual_seed(seed))
    return torch.view_as_complex(drawn)


def _run(kspace: Tensor, coils: Coils | None = None, method: str = "cg_sense", **raw: Any) -> ReconstructionResult:
    slices = [
        RawSlice(index, torch.where(MASK, each, 0), MASK, coils=coils or Coils(), **raw)
        for index, each in enumerate(kspace)
    ]
    return reconstruct_slices(slices, plan=Plan(method), device="cpu")


def _psnr(image: Tensor, reference: Tensor) -> float:
    best = (image * reference).sum() / image.square().sum()
    return float(10 * torch.log10(reference.max() ** 2 / (best * image - reference).square().mean()))


@pytest.mark.parametrize(
    ("levels", "gain_db"), [((1, 10, 1, 1), 4), ((1, 1, 6, 1, 9, 1, 1, 1), 4), ((0.3, 3, 3), 1), ((12, 1, 1, 1, 1), 4)]
)
def test_coils_are_weighted_by_the_noise_of_their_periphery(levels: tuple[float, ...], gain_db: float) -> None:
    clean, truth = _clean(len(levels))
    sigma = 0.02 * truth.max() * torch.tensor(levels)
    kspace = clean + sigma[:, None, None] * _noise(*clean.shape)
    found, equal = _run(kspace), _run(kspace, Coils(noise_sigma=float(sigma.median())))
    by_hand = _run(kspace, Coils(torch.diag(sigma.square()).to(torch.complex128)))
    assert _psnr(found.mean, truth) > _psnr(equal.mean, truth) + gain_db
    assert _psnr(found.mean, truth) > _psnr(by_hand.mean, truth) - 1.5
    assert "times as noisy as the best coil" in found.notes[0]
    assert found.noise_sigma[0] == pytest.approx(float(sigma.median()), rel=0.25)
    # the shading of the coils as measured, not of the weighted ones
    smooth = torch.nn.functional.avg_pool2d(torch.stack([found.mean, truth]), 7, 3)
    inside = smooth[1] > 0.3 * smooth[1].max()
    assert float((smooth[0] / smooth[1])[inside].log().abs().median()) < 0.08


@pytest.mark.parametrize("coils", [2, 4, 12])
def test_equal_coils_are_left_as_they_are(coils: int) -> None:
    clean, truth = _clean(coils, seed=coils)
    kspace = clean + 0.02 * truth.max() * _noise(*clean.shape)
    found, stated = _run(kspace), _run(kspace, Coils(5e-9 * torch.eye(coils, dtype=torch.complex128)))
    assert not found.notes
    assert torch.equal(found.mean, stated.mean)
    assert found.noise_source == "the periphery of k-space"


def test_correlated_noise_by_a_covariance_keeps_the_image_and_its_shading() -> None:
    clean, truth = _clean(4)
    mixing = torch.eye(4) + 0.6 * _noise(4, 4, seed=3)
    cov, full = (mixing @ mixing.mH).to(torch.complex128), torch.ones(ROWS, COLS, dtype=torch.bool)
    maps = torch.from_numpy(phantom_volume(1, ROWS, COLS, 4, seed=4, snr_db=70).smaps)[0]
    plan = Plan("zero_filled")  # of full data: the combination that the noise makes the best
    found, plain = (
        reconstruct_slices([RawSlice(0, clean[0], full, maps, coils=coils)], plan=plan, device="cpu")
        for coils in (Coils(cov, "a scan"), Coils())
    )
    top = float(truth.max())
    torch.testing.assert_close(found.mean, plain.mean, atol=0.005 * top, rtol=0)
    assert found.smaps is not None
    torch.testing.assert_close(found.smaps[0], maps / maps.norm(dim=0), atol=1e-4, rtol=0)
    noisy = clean + 0.06 * top * torch.einsum("vc,scyx->svyx", mixing, _noise(*clean.shape))
    assert _psnr(_run(noisy, Coils(cov)).mean, truth) > _psnr(_run(noisy, Coils(noise_sigma=1.0)).mean, truth) + 0.5
    two = torch.stack([maps, 0.3 * torch.roll(maps, 1, 0)])  # neither normalised nor orthogonal
    coils = (Coils(cov), Coils())
    sets = [
        reconstruct_slices(
            [RawSlice(0, clean[0], full, two, coils=each)],
            plan=Plan("cg_sense", settings={"weight": 1e-4}, num_map_sets=2), device="cpu",
        )
        for each in coils
    ]  # fmt: skip
    for result in sets:
        # in a few pixels both sets point the same way
        assert float((result.mean - plain.mean).abs().quantile(0.99)) < 0.02 * top
        assert "root sum of squares of 0.3 to 1" in result.notes[0]


def test_noise_given_twice_or_wrongly_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give one of the two"):
        AcquisitionRequest(source="a", noise_cov="b", noise_scan="c")
    with pytest.raises(ValueError, match="noise_sigma must be a number above 0, got -1"):
        AcquisitionRequest(source="a", noise_sigma=-1.0)
    np.save(tmp_path / "k.npy", _clean(3)[0].numpy())
    for name, array, sentence in (
        ("shape", np.eye(4), r"expected a noise covariance \(3, 3\), got shape \(4, 4\)"),
        ("hermitian", np.triu(np.ones((3, 3))), "finite and Hermitian"),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(ValueError, match=sentence):
            load_acquisition(
                AcquisitionRequest(source=str(tmp_path / "k.npy"), noise_cov=str(tmp_path / f"{name}.npy"))
            )
    for name, samples, sentence in (
        ("few", _noise(3, 2).numpy(), "noise has 2 samples for 3 coils"),
        ("turned", _noise(500, 3).numpy(), r"expected complex noise \(coil, sample, \.\.\.\) of 3 coils"),
        ("real", np.ones((3, 50)), "expected complex noise"),
    ):
        np.save(tmp_path / f"{name}.npy", samples)
        with pytest.raises(ValueError, match=sentence):
            load_acquisition(
                AcquisitionRequest(source=str(tmp_path / "k.npy"), noise_scan=str(tmp_path / f"{name}.npy"))
            )
    with pytest.raises(ValueError, match="not positive definite"):
        _run(_clean(3)[0], Coils(torch.ones(3, 3, dtype=torch.complex128)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c[:2], r"expected a noise covariance \(3, 3\), got shape \(2, 3\): give one row"),
        (lambda c: np.diagonal(c), r"got shape \(3,\)"),
        (lambda c: c + np.triu(np.full((3, 3), np.nan), 1), "finite and Hermitian, 3 values .* NaN or infinite"),
        (lambda c: c + np.triu(np.full((3, 3), np.inf), 1), "finite and Hermitian, 3 values .* NaN or infinite"),
        (lambda c: c * np.nan, "the noise of every coil is zero or not finite"),
        (lambda c: 0 * c, "the noise of every coil is zero or not finite"),
        (lambda c: -c, "the diagonal of a noise covariance holds variances, that of coil 2 is -3"),
        (lambda c: c + np.triu(np.ones((3, 3)), 1), "finite and Hermitian, this one differs .* by 33.3%"),
        (lambda c: c + 2j * (np.ones((3, 3)) - np.eye(3)), "differs from its conjugate transpose"),
        (lambda c: c + 5 * (np.ones((3, 3)) - np.eye(3)), "not positive definite, its least eigenvalue is -"),
        (lambda c: np.ones((3, 3)), "not positive definite, its least eigenvalue is"),
    ],
)
def test_what_is_no_noise_covariance_is_refused_before_the_work(change: Any, sentence: str, tmp_path: Path) -> None:
    kspace = _clean(3)[0].numpy()
    np.save(tmp_path / "k.npy", kspace)
    wrong = np.array(change(np.diag([1.0, 2.0, 3.0])))
    np.save(tmp_path / "cov.npy", wrong)
    request = AcquisitionRequest(source=str(tmp_path / "k.npy"), noise_cov=str(tmp_path / "cov.npy"))
    with pytest.raises(ValueError, match=r"cov\.npy: .*" + sentence):
        load_acquisition(request)
    with pytest.raises(ValueError, match="noise_cov: .*" + sentence):
        kdrift.reconstruct(kspace, noise_cov=wrong, method="zero_filled")


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_a_noise_level_is_a_number_above_zero_at_every_entrance(sigma: float, tmp_path: Path) -> None:
    kspace = _clean(3)[0]
    np.save(tmp_path / "k.npy", kspace.numpy())
    with pytest.raises(ValueError, match=r"noise_sigma must be a number above 0, got .*leave it out"):
        kdrift.reconstruct(kspace, noise_sigma=sigma, method="zero_filled")
    with pytest.raises(ValueError, match=r"noise_sigma must be a number above 0, got .*leave it out"):
        Coils(noise_sigma=sigma)
    arguments = ["reconstruct", str(tmp_path / "k.npy"), "--out", str(tmp_path / "r"), "--method", "zero_filled"]
    assert main([*arguments, f"--noise-sigma={sigma}"]) != 0
    assert not (tmp_path / "r").exists()


def _ismrmrd_noise(path: Path, samples: np.ndarray) -> None:
    writer = ismrmrd.Dataset(str(path), "dataset", create_if_needed=True)
    writer.write_xml_header(b"<ismrmrdHeader/>")
    for part in np.array_split(samples, 3, axis=1):
        line = ismrmrd.Acquisition.from_array(np.ascontiguousarray(part))
        line.setFlag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        writer.append_acquisition(line)
    writer.close()


def test_a_noise_scan_in_any_file(tmp_path: Path) -> None:
    scan = torch.tensor([1.0, 5.0, 2.0])[:, None] * _noise(3, 900, seed=8)
    samples = scan.numpy().astype(np.complex64)
    np.save(tmp_path / "n.npy", samples.reshape(1, 3, 30, 30))
    with h5py.File(tmp_path / "n.h5", "w") as file:
        file["anything"] = samples
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["noise"], file["other"] = samples, np.zeros(3)
    _ismrmrd_noise(tmp_path / "raw.h5", samples)
    header = "# Dimensions\n900 1 1 3 " + " ".join(["1"] * 12) + "\n"
    (tmp_path / "n.hdr").write_text(header)
    samples.tofile(tmp_path / "n.cfl")
    np.save(tmp_path / "k.npy", _clean(3)[0].numpy())
    for name in ("n.npy", "n.h5", "two.h5", "raw.h5", "n.cfl"):
        request = AcquisitionRequest(source=str(tmp_path / "k.npy"), noise_scan=str(tmp_path / name))
        coils = load_acquisition(request).coils
        assert coils.noise_source == name
        torch.testing.assert_close(coils.noise_cov, noise_covariance(scan.to(torch.complex128)), rtol=1e-5, atol=1e-5)


def test_noise_far_above_the_periphery_of_kspace_is_doubted(tmp_path: Path) -> None:
    clean, _ = _clean(3)
    kspace = clean[:1] + 0.01 * clean.abs().max() * _noise(*clean[:1].shape)
    np.save(tmp_path / "k.npy", kspace.numpy())
    scan = 0.01 * clean.abs().max() * _noise(3, 900, seed=8)
    for name, coil in (("good", None), ("spike", 1)):
        if coil is not None:
            scan[coil, 5] = 100 * clean.abs().max()
        np.save(tmp_path / f"{name}.npy", scan.numpy())
        request = AcquisitionRequest(source=str(tmp_path / "k.npy"), noise_scan=str(tmp_path / f"{name}.npy"))
        doubts = [note for note in load_acquisition(request).notes if "the periphery of k-space" in note]
        assert len(doubts) == (coil is not None)
    assert "spike.npy: the noise of coil 1 is up to " in doubts[0]


@pytest.mark.parametrize("dead", [(0,), (2, 5), (0, 1, 2, 3, 4)])
def test_dead_coils_are_left_out_and_named(dead: tuple[int, ...]) -> None:
    clean, _ = _clean(6)
    kspace = clean + 1e-3 * clean.abs().max() * _noise(*clean.shape)
    alive = [coil for coil in range(6) if coil not in dead]
    with_dead = kspace.clone()
    with_dead[:, list(dead)] = 0
    found, expected = _run(with_dead), _run(kspace[:, alive])
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-5, atol=1e-6)
    assert "measured nothing: left out" in found.notes[0]
    assert all(str(coil) in found.notes[0] for coil in dead)
    assert found.smaps is not None
    assert expected.smaps is not None
    torch.testing.assert_close(found.smaps[:, alive], expected.smaps, rtol=1e-5, atol=1e-5)
    assert not bool(found.smaps[:, list(dead)].any())
    given = _run(with_dead, smaps=_run(kspace).smaps[0])  # type: ignore[index]
    assert given.mean.shape == found.mean.shape
    noise = torch.eye(6, dtype=torch.complex128)
    noise[list(dead), list(dead)] = 0
    torch.testing.assert_close(_run(kspace, Coils(noise)).mean, expected.mean, rtol=1e-5, atol=1e-6)


def test_no_coil_is_left() -> None:
    kspace, _ = _clean(2)
    with pytest.raises(ValueError, match=r"no coil is left to reconstruct from: .*noise that is zero or not finite"):
        _run(kspace, Coils(torch.zeros(2, 2, dtype=torch.complex128)))
    with pytest.raises(ValueError, match="zero everywhere"):
        _run(0 * kspace)


def test_chunks_of_coils_that_were_left_out_give_nothing() -> None:
    kspace, _ = _clean(4)
    kspace = kspace[0, :, 16:48, 12:44].clone()
    kspace[1] = 0
    runner = resolve(Plan("score_mri_ssos", settings={"num_steps": 3}, num_samples=2))
    full = torch.ones(32, 32, dtype=torch.bool)
    data = runner.plan.prepare(RawSlice(0, kspace, full))
    assert len(data.kspace) == 3
    whole = merge_chunks([runner.run_chunk(data, Chunk((0, 2)))])
    planned = merge_chunks([runner.run_chunk(data, chunk) for chunk in split_chains(2, num_coils=4, num_chunks=8)])
    torch.testing.assert_close(planned.mean, whole.mean, rtol=1e-4, atol=1e-5)
    assert planned.misfit == pytest.approx(whole.misfit, rel=1e-4)


@pytest.mark.parametrize("factor", [1e-25, 3e-12, 1.0, 7e9, 1e30])
@pytest.mark.parametrize("method", ["cg_sense", "tv", "zero_filled"])
def test_the_unit_of_the_data_does_not_matter(factor: float, method: str) -> None:
    clean, truth = _clean(3)
    kspace = (clean + 0.01 * truth.max() * _noise(*clean.shape)).to(torch.complex128)
    plain = kdrift.reconstruct(kspace, MASK, method=method)
    scaled = kdrift.reconstruct(kspace * factor, MASK, method=method)
    top = float(plain.mean.max())
    torch.testing.assert_close(scaled.mean / factor, plain.mean, rtol=0, atol=1e-4 * top)
    assert scaled.noise_sigma[0] / factor == pytest.approx(plain.noise_sigma[0], rel=1e-3)
    assert scaled.data_residual == pytest.approx(plain.data_residual, rel=1e-2)


def test_samples_have_a_spread_in_any_unit() -> None:
    kspace, _ = _clean(2)
    found = [
        kdrift.reconstruct(kspace * factor, MASK, steps=3, samples=2, keep_samples=True) for factor in (1.0, 2.0**-80)
    ]
    torch.testing.assert_close(found[1].std * 2.0**80, found[0].std)
    assert found[0].samples is not None
    assert found[1].samples is not None
    torch.testing.assert_close(found[1].samples * 2.0**80, found[0].samples)


@pytest.mark.parametrize(("factor", "sentence"), [(1e-42, "too small for single"), (1e37, "too large for single")])
def test_what_single_precision_cannot_hold_is_said(factor: float, sentence: str, tmp_path: Path) -> None:
    kspace = _clean(2)[0].numpy().astype(np.complex128) * factor
    np.save(tmp_path / "k.npy", kspace)
    np.savez(tmp_path / "k.npz", kspace=kspace)
    with h5py.File(tmp_path / "k.h5", "w") as file:
        file["kspace"] = kspace
    for name in ("k.npy", "k.npz", "k.h5"):
        with pytest.raises(BadVolume, match=sentence):
            load_acquisition(AcquisitionRequest(source=str(tmp_path / name)))
    with pytest.raises(ValueError, match=sentence):
        kdrift.reconstruct(kspace, MASK)


def test_a_calibration_scan_makes_the_maps() -> None:
    clean, truth = _clean(4)
    comb = torch.zeros(ROWS, COLS, dtype=torch.bool)
    comb[:, ::2] = True
    lines = torch.zeros(ROWS, COLS, dtype=torch.bool)
    lines[:, COLS // 2 - 12 : COLS // 2 + 12] = True
    kspace = torch.where(comb, clean + 0.002 * truth.max() * _noise(*clean.shape), 0)[0]
    scan = torch.where(lines, 1e-20 * clean, 0)[0]  # of another gain: another scan
    plan = Plan("cg_sense")
    with_scan, without = (
        reconstruct_slices([RawSlice(0, kspace, comb, calibration=each)], plan=plan, device="cpu")
        for each in (scan, None)
    )
    assert _psnr(with_scan.mean, truth) > 25 > _psnr(without.mean, truth)
    holes = reconstruct_slices([RawSlice(0, kspace, comb, calibration=0 * scan)], plan=plan, device="cpu")
    torch.testing.assert_close(holes.mean, without.mean)
    assert "no fully sampled centre" in holes.notes[0]
    few = RawSlice(0, kspace, comb, calibration=scan, coils=Coils(virtual_coils=3))
    assert _psnr(reconstruct_slices([few], plan=plan, device="cpu").mean, truth) > 25


def test_virtual_coils_do_not_depend_on_which_slices_are_read(tmp_path: Path) -> None:
    kspace, _ = _clean(6, slices=3)
    np.save(tmp_path / "k.npy", kspace.numpy())
    request = AcquisitionRequest(
        source=str(tmp_path / "k.npy"), mask=MaskRequest("equispaced", 2.0, acs_lines=16), virtual_coils=3
    )
    acquisition = load_acquisition(request)
    whole = reconstruct_slices([acquisition.raw(i) for i in range(3)], plan=Plan("cg_sense"), device="cpu")
    single = load_acquisition(AcquisitionRequest(**{**vars(request), "slices": (1, 2)}))
    alone = reconstruct_slices([single.raw(0)], plan=Plan("cg_sense"), device="cpu")
    assert torch.equal(alone.mean[0], whole.mean[1])
    assert alone.smaps is not None
    assert alone.smaps.shape == (1, 6, ROWS, COLS)  # of the coils as measured
    given = _run(kspace[1:2], Coils(virtual_coils=3), smaps=alone.smaps[0])
    torch.testing.assert_close(given.mean, _run(kspace[1:2], Coils(virtual_coils=3)).mean, rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="virtual_coils must lie between 1 and the 6 coils"):
        load_acquisition(AcquisitionRequest(**{**vars(request), "virtual_coils": 7}))
    some = kspace.clone()
    some[:, :4] = 0
    assert any("2 coils are left, which are not compressed to 3" in n for n in _run(some, Coils(virtual_coils=3)).notes)


def test_notes_of_some_slices_name_them() -> None:
    facts = [
        SliceFacts(i, torch.zeros(2, 2), 0.1, 1.0, 0.0, notes=("all", *(("odd",) if i else ()))) for i in (0, 3, 4)
    ]

    empty = SliceResult(torch.zeros(2, 2), torch.zeros(2, 2), None, 0.0, 0, 0, {})
    outcomes = {each.index: (each, empty) for each in facts}
    found = gather(outcomes, torch.ones(2, 2, dtype=torch.bool), {"method": "cg_sense"})
    assert found.notes == ("all", "slices 3, 4: odd")


def test_the_command_says_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kspace = _clean(4)[0]
    kspace[:, 3] = 0
    np.save(tmp_path / "k.npy", torch.where(MASK, kspace, 0).numpy())
    np.save(tmp_path / "n.npy", np.diag([2.0, 1.0, 3.0, 0.0]))
    command = [
        "reconstruct",
        str(tmp_path / "k.npy"),
        "--out",
        str(tmp_path / "out"),
        "--method",
        "cg_sense",
        "--quiet",
    ]
    assert main([*command, "--noise-cov", str(tmp_path / "n.npy"), "--noise-sigma", "0.001"]) == 0
    assert "warning: coil 3 measured nothing: left out" in capsys.readouterr().err
    report = kdrift.runs.files.read_json(tmp_path / "out" / "metrics.json")
    assert report["noise_source"] == "n.npy"
    assert report["noise_sigma"] == pytest.approx([0.001])
    assert "coil 3 measured nothing: left out" in report["notes"]
