"""Verdicts, intervals and regions in what a reconstruction prints, writes and draws, read back from real files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import nibabel
import numpy as np
import pydicom
import pytest
import torch
from scipy.stats import t as student

import kdrift
from kdrift.cli import main
from kdrift.data.geometry import Geometry
from kdrift.data.volume import VolumeInfo
from kdrift.notice import RESEARCH_ONLY
from kdrift.recon.acquisition import AcquisitionFacts
from kdrift.recon.panel import LEVEL_COLOURS, save_panel
from kdrift.recon.region_files import acquired_regions, read_regions, with_regions
from kdrift.recon.report import describe_panel, save_result
from kdrift.recon.result import ReconstructionResult
from kdrift.recon.sentences import verdict_lines, verdict_summary
from kdrift.trust.verdict import Evidence, Group, Verdict, judge

GOOD = Verdict("trusted", ("it predicts left-out k-space with 22% error, TV with 29% (noise 2%)",), 1.25, "tv")
BAD = Verdict(
    "not trusted", ("TV predicts left-out k-space better: 78% error, the sampler 106%",), 1.5, "tv", "tv",
    Evidence((Group(40, 2.0, 10.0, 0.1, 4.0, {"sampler": 10.6, "tv": 7.8}),), 1.3, 0.2, 2.5, 0.02),
)  # fmt: skip


def result_of(slices: int = 2, size: int = 40, **changes: Any) -> ReconstructionResult:
    """A disc with four samples around it."""
    rng = torch.Generator().manual_seed(3)
    y, x = torch.meshgrid(*(torch.arange(size) - size / 2,) * 2, indexing="ij")
    disc = (torch.hypot(y, x) < 0.4 * size).float().expand(slices, size, size)
    samples = disc[:, None] + 0.1 * torch.randn((slices, 4, size, size), generator=rng) * disc[:, None]
    config = {"method": "annealed", "preset": "tuned", "num_samples": 4, "seed": 0, "level": 0.8, "checks": True}
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[:, ::2], mask[:, size // 2 - 4 : size // 2 + 4] = True, True
    whole = ReconstructionResult(
        disc.clone(), samples.std(1), samples, 0.7 * disc, mask, None, 8, 32, 1.0, {}, config, 1.8, 0.0,
        [0.02] * slices, verdicts={0: GOOD, 1: BAD},
    )  # fmt: skip
    return replace(whole, **changes)


def acquisition_of(
    result: ReconstructionResult, shape: tuple[int, int] | None = None, reference: torch.Tensor | None = None,
    geometry: Geometry | None = None,
) -> AcquisitionFacts:  # fmt: skip
    slices, rows, cols = result.mean.shape
    shape = shape or (rows, cols)
    info = VolumeInfo("scan", "kspace", slices, 1, rows, cols, *shape, geometry=geometry)
    return AcquisitionFacts(info, list(result.numbers), result.mask, "as measured", 1.8, reference, "truth", shape)


def test_lines_name_slices_factors_and_the_worst_first() -> None:
    lines = verdict_lines({0: GOOD, 1: BAD}, {2: "check is off"})
    assert lines == [
        "slice 1: not trusted: TV predicts left-out k-space better: 78% error, the sampler 106%; TV is given in its"
        " place; the deviation is multiplied by 1.50",
        "slice 2: not checked: check is off",
        "slice 0: trusted: it predicts left-out k-space with 22% error, TV with 29% (noise 2%); the samples' deviation"
        " is multiplied by 1.25",
    ]
    unlike = replace(GOOD, evidence=Evidence(uncalibrated="no calibration of mine for lines at 9.0x"))
    (line,) = verdict_lines({0: unlike}, {})
    assert "(noise 2%); intervals are not calibrated (no calibration of mine for lines at 9.0x); the samples'" in line
    many = {index: replace(GOOD, factor=1 + index / 10) for index in (3, 4, 5, 8)}
    other = replace(GOOD, reasons=("it predicts left-out k-space with 9% error, TV with 29% (noise 2%)",))
    assert verdict_lines({**many, 4: other}, {}) == [
        "slices 3-5, 8: trusted: it predicts left-out k-space with 9-22% error, TV with 29% (noise 2%); the samples'"
        " deviation is multiplied by 1.25-1.80"
    ]
    assert verdict_summary(["trusted", "not trusted", "caution"]) == "1 of 3 slices not trusted"
    assert verdict_summary(["caution", "caution"]) == "caution"
    assert verdict_summary([]) == "not checked"


def test_chains_that_diverge_in_the_check_are_not_trusted_and_told_in_words() -> None:
    group = Group(40, 2.0, 10.0, 0.1, float("inf"), {"sampler": float("inf"), "tv": 5.0, "cg_sense": 7.0})
    verdict = judge(Evidence((group,), residual=float("nan")))
    assert (verdict.level, verdict.best) == ("not trusted", "tv")
    assert "inf" not in str(verdict)
    report = save_check(verdict)
    assert report["predictions"] == {"sampler": None, "tv": 0.5, "cg_sense": 0.7}
    assert report["residual"] is None


def save_check(verdict: Verdict) -> dict[str, Any]:
    from kdrift.recon.trust_report import trust_entries

    result = result_of(1, verdicts={0: verdict})
    entries = trust_entries(acquisition_of(result), result)
    found: dict[str, Any] = json.loads(json.dumps(entries, allow_nan=False))["verdicts"]["0"]
    return found


def test_metrics_and_arrays(tmp_path: Path) -> None:
    result = result_of()
    truth = result.mean + 0.1 * torch.randn(result.mean.shape, generator=torch.Generator().manual_seed(5))
    truth = torch.where(result.mean > 0, truth, 0)
    save_result(tmp_path, acquisition_of(result, reference=truth), result)
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert (report["verdict"], report["level"]) == ("not trusted", 0.8)
    bad = report["verdicts"]["1"]
    assert (bad["level"], bad["given"], bad["best"], bad["factor"]) == ("not trusted", "tv", "tv", 1.5)
    assert bad["predictions"] == {"sampler": pytest.approx(1.06), "tv": pytest.approx(0.78)}
    assert (bad["noise"], bad["known"], bad["residual"], bad["excess"]) == (pytest.approx(0.01), 1.3, 0.2, 2.5)
    inside = result.mean[1] > 0
    share = 0.02**2 / float(result.std[1][inside].square().mean())
    assert bad["variance"] == {"noise": pytest.approx(share, rel=1e-4), "open": pytest.approx(1 - share, rel=1e-4)}
    assert report["verdicts"]["0"]["variance"] == {"noise": 0, "open": 1}
    assert abs(report["coverage"] - 0.74) < 0.03  # 80 % of a normal distribution by four samples' deviation
    assert 0.9 < report["std_error_ratio"] < 1.1
    assert abs(report["std_error_rank_correlation"]) < 0.5
    assert report["ause"] > 0.5 * report["ause_random"]
    for name in ("coverage", "std_error_ratio", "std_error_rank_correlation", "ause", "ause_random"):
        assert name in report["definitions"]
    with h5py.File(tmp_path / "reconstruction.h5") as file:
        np.testing.assert_array_equal(file["lower"][()], result.lower)
        np.testing.assert_array_equal(file["upper"][()], result.upper)
        assert file.attrs["level"] == 0.8
        lines = str(file.attrs["verdict"]).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("slice 1: not trusted: TV predicts")


def test_what_has_no_deviation_has_no_interval(tmp_path: Path) -> None:
    result = result_of()
    half = replace(result, std=result.std * torch.tensor([1.0, 0.0])[:, None, None])
    report = save_result(tmp_path / "half", acquisition_of(half, reference=result.samples[:, 0]), half)
    assert any("1 slices have no deviation: left out of coverage" in note for note in report["notes"])
    none = replace(result, std=torch.zeros_like(result.std), verdicts={}, config={**result.config, "unchecked": "x"})
    report = save_result(tmp_path / "none", acquisition_of(none, reference=result.mean), none)
    assert "coverage" not in report
    assert report["verdicts"] == {str(index): {"level": "not checked", "reasons": ["x"]} for index in (0, 1)}
    with h5py.File(tmp_path / "none" / "reconstruction.h5") as file:
        assert "lower" not in file


def test_outputs_say_it_where_they_have_room(tmp_path: Path) -> None:
    result = result_of()
    report = save_result(
        tmp_path, acquisition_of(result, geometry=Geometry((1.0, 1.0, 5.0), stated=True)), result,
        outputs=("nifti", "dicom", "ismrmrd", "bart"),
    )  # fmt: skip
    for kind in ("mean", "std", "lower", "upper"):
        expected = getattr(result, kind).numpy()
        image: Any = nibabel.load(tmp_path / f"{kind}.nii.gz")
        np.testing.assert_array_equal(image.get_fdata().transpose(2, 1, 0), expected)
        descrip = image.header["descrip"].item().decode()
        assert descrip == f"{RESEARCH_ONLY} Verdict: 1 of 2 slices not trusted."
        comment = image.header.extensions[0].get_content()
        assert "slice 1: not trusted: TV predicts left-out k-space better" in str(comment)
        files = [pydicom.dcmread(tmp_path / "dicom" / kind / f"000{index}.dcm") for index in (0, 1)]
        assert files[0].SeriesDescription == f"kdrift {kind}, not trusted. {RESEARCH_ONLY}"
        assert len(files[0].SeriesDescription) <= 64
        assert "Verdict: trusted: it predicts" in files[0].ImageComments
        assert "Verdict: not trusted: TV predicts" in files[1].ImageComments
        assert "TV is given in its place" in files[1].DerivationDescription
        assert len(files[1].DerivationDescription) <= 1024
        np.testing.assert_allclose(files[1].pixel_array * float(files[1].RescaleSlope), expected[1], atol=1e-4)
        assert f"{kind}.cfl" in report["outputs"]
    with ismrmrd.Dataset(str(tmp_path / "images.h5"), "dataset", mode="r") as file:
        last = file.read_image("image_3", 1)
    np.testing.assert_array_equal(last.data[0, 0].T, result.upper[1])
    assert "not trusted: TV predicts" in str(last.meta["ImageComment"])


def test_the_panel_is_coloured_by_the_verdict_and_titles_what_is_given(tmp_path: Path) -> None:
    from PIL import Image

    result = result_of()
    shown = [describe_panel(acquisition_of(result), result, position) for position in (0, 1)]
    assert [each["mean_title"] for each in shown] == ["posterior mean", "TV (not trusted: fallback)"]
    assert shown[1]["verdict"] == ("not trusted", str(BAD))
    long = ("caution", "; ".join(["the prior does not know such images"] * 8))
    heights = []
    for name, values in (("a", shown[0]), ("b", shown[1]), ("c", {**shown[0], "verdict": long})):
        with Image.open(save_panel(tmp_path / f"{name}.png", **values)) as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        wanted = np.array([int(LEVEL_COLOURS[values["verdict"][0]][at : at + 2], 16) for at in (1, 3, 5)])
        found = (np.abs(pixels[:140] - wanted).max(2) < 12).any(0)
        assert found.sum() > 100, name
        assert not found[-8:].any(), "cut off at the right"
        heights.append(len(pixels))
    assert heights[2] > heights[0] + 20, "a long sentence has several lines"
    classical = replace(result, nfe=0, verdicts={}, config={**result.config, "method": "tv"})
    assert describe_panel(acquisition_of(classical), classical, 0)["verdict"] is None


def test_the_result_says_it_itself() -> None:
    result = result_of()
    assert repr(result).endswith(", 1 of 2 slices not trusted)")
    assert "slice 1: not trusted: TV predicts" in result._repr_html_()
    failed = replace(result, failed={1: "zero"}, verdicts={0: GOOD})
    assert repr(failed).endswith("1 slices failed, trusted)")
    assert failed.verdict_of(1).reasons == ("the slice failed",)
    lost = replace(result, verdicts={0: GOOD}, fallback=[1])
    assert lost.unchecked == {1: "all samples diverged, and CG-SENSE is given"}
    numbered = replace(result, verdicts={7: BAD, 6: GOOD}, indices=(6, 7))
    assert numbered.levels == ["trusted", "not trusted"]
    assert numbered.plot(1).axes[1].get_title() == "TV (not trusted: fallback)"


def test_a_region_has_the_mean_of_the_image_and_the_spread_of_the_samples() -> None:
    result = result_of()
    box = np.zeros((40, 40), dtype=bool)
    box[18:22, 16:24] = True
    first, second = result.region(box)
    assert (first.slice_index, first.pixels, first.mean) == (0, 32, 1.0)
    spread = float(result.samples[0][:, torch.from_numpy(box)].mean(1).std())
    assert first.std == pytest.approx(1.25 * spread, rel=1e-4)
    width = student.ppf(0.9, 3) * first.std
    assert (first.lower, first.upper) == (pytest.approx(1 - width), pytest.approx(1 + width))
    assert first.noise_std == 0
    assert second.noise_std > 0.02 / 32**0.5, "the middle of k-space is measured: its noise averages out less"
    both = np.zeros((2, 40, 40), dtype=np.uint8)
    both[1, 20, 20] = 1
    (pixel,) = result.region(both)
    assert (pixel.slice_index, pixel.noise_std) == (1, pytest.approx(0.02, rel=1e-4))
    with pytest.raises(ValueError, match="empty"):
        result.region(box & False)
    with pytest.raises(ValueError, match=r"shape \(40, 39\), expected \(2, 40, 40\) or \(40, 40\)"):
        result.region(box[:, :-1])
    with pytest.raises(ValueError, match="choose one label"):
        result.region(3 * box)
    with pytest.raises(ValueError, match="keep_samples=True"):
        replace(result, samples=None).region(box)
    lost = result.samples.clone()
    lost[0, 1:] = torch.nan
    (alone, _) = replace(result, samples=lost).region(box)
    assert (alone.std, alone.lower) == (None, None)
    assert "no interval" in str(alone)


def test_noise_of_a_mean_is_that_of_noise_drawn_in_k_space() -> None:
    from kdrift.mri.fourier import ifft2c
    from kdrift.recon.regions import noise_of_mean

    result, draws = result_of(), 4000
    box = torch.zeros(40, 40, dtype=torch.bool)
    box[10:20, 12:18] = True
    drawn = torch.randn(draws, 40, 40, 2, generator=torch.Generator().manual_seed(1))
    images = ifft2c(result.mask * torch.view_as_complex(drawn)).real
    found, pixel = float(images[:, box].mean(1).std()), float(images.std())
    assert noise_of_mean(box, result.mask, pixel) == pytest.approx(found, rel=5 / (2 * draws) ** 0.5)


def test_regions_of_files_lie_where_they_were_drawn(tmp_path: Path) -> None:
    place = Geometry(
        (1.0, 1.5, 4.0), ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)), (3.0, 4.0, 5.0), stated=True
    )
    result = result_of()
    scan = acquisition_of(result, (36, 32), geometry=place)
    save_result(tmp_path / "out", scan, result, outputs=("nifti",))
    labels = np.zeros((2, 36, 32), dtype=np.int16)
    labels[0, 3:7, 20:30], labels[1, 10, 4] = 1, 5
    image: Any = nibabel.load(tmp_path / "out" / "mean.nii.gz")
    drawn = nibabel.Nifti1Image(labels.transpose(2, 1, 0), image.affine)
    nibabel.save(drawn, tmp_path / "roi.nii.gz")
    nibabel.save(nibabel.as_closest_canonical(drawn), tmp_path / "turned.nii.gz")
    np.save(tmp_path / "roi.npy", labels)
    for name in ("roi.nii.gz", "turned.nii.gz", "roi.npy"):
        one, five = acquired_regions([str(tmp_path / name)], scan)
        assert (one.name, five.name) == (f"{tmp_path / name} label 1", f"{tmp_path / name} label 5")
        for region, label in ((one, 1), (five, 5)):
            np.testing.assert_array_equal(scan.crop(region.mask), labels == label, err_msg=name)
    kept = with_regions(result, [one, five], keep_samples=False)
    assert kept.samples is None
    assert [[mean.slice_index for mean in region.means] for region in kept.regions] == [[0], [1]]
    assert with_regions(result, [], keep_samples=False).samples is result.samples
    shown = describe_panel(scan, kept, 1)
    assert list(shown["outlines"]) == [five.name]
    save_panel(tmp_path / "p.png", **shown)
    moved = image.affine.copy()
    moved[0, 3] += 0.5
    nibabel.save(nibabel.Nifti1Image(labels.transpose(2, 1, 0), moved), tmp_path / "moved.nii.gz")
    with pytest.raises(ValueError, match=r"moved.nii.gz lies on another grid than the images"):
        acquired_regions([str(tmp_path / "moved.nii.gz")], scan)
    moved[0, 3] += 4.0
    nibabel.save(nibabel.Nifti1Image(np.ones((32, 36, 2), np.uint8), moved), tmp_path / "out.nii.gz")
    with pytest.raises(ValueError, match="reaches outside of the images, which have 36 rows, 32 columns and 2 slices"):
        acquired_regions([str(tmp_path / "out.nii.gz")], scan)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("3:50,0:4", "reaches outside of the image, which has 40 rows and 36 columns"),
        ("7:7,0:4", "7:7,0:4 is empty"),
        ("9:2,0:4", "9:2,0:4 is empty"),
        ("absent.npy", "no file, and not R0:R1,C0:C1"),
        ("3,4", "no file, and not R0:R1,C0:C1"),
    ],
)
def test_what_is_no_region_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_regions([text], (40, 36), [0], 1, np.eye(4))


def test_arrays_that_are_no_region_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.npy"
    for values, said in (
        (np.zeros((40, 36)), "is empty"),
        (np.full((40, 36), 0.5), "no labels"),
        (np.ones((36, 40)), r"shape \(36, 40\): the image has 40 rows and 36 columns"),
        (np.arange(1440).reshape(40, 36), "1439 values from 1 to 1439"),
        (np.ones((40, 36), complex), "complex128 values that are no labels"),
    ):
        np.save(path, values)
        with pytest.raises(ValueError, match=said):
            read_regions([str(path)], (40, 36), [0], 1, np.eye(4))
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read"):
        read_regions([str(path)], (40, 36), [0], 1, np.eye(4))
    (tmp_path / "r.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"expected a mask or labels in .npy"):
        read_regions([str(tmp_path / "r.png")], (40, 36), [0], 1, np.eye(4))
    np.save(path, np.stack([np.zeros((40, 36)), np.ones((40, 36)), np.zeros((40, 36))]))
    assert read_regions([str(path)], (40, 36), [1], 3, np.eye(4))[0].mask.all()
    whole, part = read_regions([":,:", "2:,:5"], (40, 36), [0, 1], 2, np.eye(4))
    assert whole.mask.all()
    assert int(part.mask.sum()) == 2 * 38 * 5


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("told")
    assert main(["phantom", "--out", str(folder / "scan.h5"), "--slices", "3", "--size", "48", "--coils", "3"]) == 0
    return folder / "scan.h5"


NOTHING = ", so on_mistrust fallback gives nothing in its place"


def run(scan: Path, out: Path, *more: str) -> int:
    return main([
        "reconstruct", str(scan), "--out", str(out), "--slices", "1", "--mask", "equispaced", "--acceleration", "3",
        "--acs-lines", "12", "--steps", "3", "--samples", "2", "--quiet", *more,
    ])  # fmt: skip


def test_the_command_says_it_first(scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(scan, tmp_path / "r", "--roi", "20:28,18:30", "--roi", "0:4,0:4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(("slice 1: trusted: ", "slice 1: caution: ", "slice 1: not trusted: "))
    assert " deviation is multiplied by " in lines[1]
    assert lines[2].startswith("region 20:28,18:30, slice 1: ")
    assert lines[3].startswith("region 0:4,0:4, slice 1: ")
    report = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert report["regions"]["20:28,18:30"][0]["pixels"] == 96
    assert report["config"]["level"] == report["level"] == 0.9
    with h5py.File(tmp_path / "r" / "reconstruction.h5") as file:
        assert "samples" not in file
        image = file["reconstruction"][0, 20:28, 18:30]
    assert report["regions"]["20:28,18:30"][0]["mean"] == pytest.approx(image.mean(), rel=1e-4)


def test_the_command_says_why_nothing_was_checked(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more, why in (
        (("--no-check", "--save-samples", "--on-mistrust", "fallback"), f"check is off{NOTHING}"),
        (("--samples", "1"), "one sample has no spread (check was not asked for)"),
    ):
        assert run(scan, tmp_path / "r", *more) == 0
        assert capsys.readouterr().out.splitlines()[1] == f"slice 1: not checked: {why}"
        with h5py.File(tmp_path / "r" / "reconstruction.h5") as file:
            assert ("samples" in file) == ("--save-samples" in more)
    more = ("--method", "zero_filled", "--mask", "equispaced", "--roi", "1:4,1:4", "--quiet")
    assert main(["reconstruct", str(scan), "--out", str(tmp_path / "z"), *more]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "not checked: zero_filled draws no samples" in lines[1]
    assert any("region 1:4,1:4, slice 0: " in line and "no interval" in line for line in lines)
    assert run(scan, tmp_path / "n", "--roi", "0:999,0:4") == 1
    assert "reaches outside of the image" in capsys.readouterr().err
    assert not (tmp_path / "n" / "metrics.json").exists()


def test_the_library_takes_them(scan: Path) -> None:
    with h5py.File(scan) as file:
        kspace = file["kspace"][1:2]
    mask = kdrift.make_mask("equispaced", kspace.shape[-2:], acceleration=3, acs_lines=12).mask
    result = kdrift.reconstruct(
        kspace, mask, samples=2, steps=3, check=False, on_mistrust="fallback", level=0.5, keep_samples=True
    )
    assert result.verdicts == {}
    assert result.config["level"] == 0.5
    assert float((result.upper - result.mean).sum() / result.std.sum()) == pytest.approx(0.6745, rel=1e-3)
    assert repr(result).endswith(", not checked)")
    assert result.notes[-1] == f"no slice is judged: check is off{NOTHING}"
    (region,) = result.region(np.ones(kspace.shape[-2:], dtype=bool))
    assert region.mean == pytest.approx(float(result.mean.mean()), rel=1e-5)
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        kdrift.reconstruct(kspace, mask, level=1.0)


def test_the_command_says_how_much_its_intervals_hold(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(scan, tmp_path / "r") == 0
    report = json.loads((tmp_path / "r" / "metrics.json").read_text())
    held = f"{report['coverage']:.0%} of the object within intervals of {report['level']:.0%}"
    assert held in capsys.readouterr().out
