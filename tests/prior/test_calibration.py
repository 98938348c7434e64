"""Calibrations in a prior's bundle: written whole, read again, noticed when they change, told in the card."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from kdrift.cli import main
from kdrift.data.describe import describe
from kdrift.mri.mask_family import MaskFamily
from kdrift.networks import NCSNppConfig, NetworkConfig, build_network
from kdrift.prior.bundle import (
    SHIPPED,
    add_calibrations,
    check_target,
    load_prior,
    read_sums,
    save_prior,
    shipped_priors,
)
from kdrift.prior.calibration import CALIBRATION, CalibratedScan, Calibration, FigureBound
from kdrift.prior.prior_info import PriorInfo
from kdrift.recon.plan import Plan
from kdrift.runs.files import file_sha256
from kdrift.sde import WhiteNoise

NETWORK = NetworkConfig(NCSNppConfig(image_size=16, nf=8, ch_mult=(1,), num_res_blocks=1, attn_resolutions=()))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = save_prior(tmp_path / "mine", build_network(NETWORK), NETWORK, PriorInfo(WhiteNoise(0.01, 5.0)), name="My")
    (folder / "training.log").write_text("kept\n")
    return folder


def entry(sha256: str, name: str = "lines-4x", pixel: float = 1.25) -> Calibration:
    return Calibration(
        name=name, family=MaskFamily("lines", (3.0, 5.5), (0.04, 0.12)), anatomy="brain",
        settings={"method": "annealed", "options": {"num_steps": 40, "last_spread": None}, "start": None},
        num_samples=8, level=0.9, pixel=pixel, region=0.5, region_size=16,
        scans=(CalibratedScan("head", "ab" * 32, 3, True, 1.2, 0.88), CalibratedScan("more", "cd" * 32, 1, False, 1.3)),
        left_out=1, regions=60, figures={"psnr": FigureBound(-1.5, 0.8, 2, 4, 0.5)}, masks=({"kind": "equispaced"},),
        config={"store": "heads.zarr"}, prior_sha256=sha256, kdrift_version="0.1.0", date="2026-01-02", command="x",
    )  # fmt: skip


def test_a_bundle_keeps_what_was_written_and_says_it(bundle: Path) -> None:
    sha256 = load_prior(bundle).sha256
    assert load_prior(bundle).calibrations == ()
    first, second = entry(sha256), entry(sha256, "lines-8x", 1.5)
    add_calibrations(bundle, bundle, [first])
    add_calibrations(bundle, bundle, [second])
    assert load_prior(bundle).calibrations == (first, second)
    add_calibrations(bundle, bundle, [entry(sha256, pixel=2.0)])  # in place of the first
    assert [each.pixel for each in load_prior(bundle).calibrations] == [1.5, 2.0]
    assert (bundle / "training.log").read_text() == "kept\n"
    card = (bundle / "README.md").read_text()
    assert card.startswith("# My\n")
    assert "| annealed | brain, lines at 3 to 5.5x, centre 4 to 12 % (by equispaced) | 2.00 (1.20 to 1.30) |" in card
    assert "| 88% to 88% of 90% | 0.50 of 16 x 16 | -1.5 dB (80%) | - | 2 | 4 |" in card
    assert "- scans: head (abababababab, simulated), more (cdcdcdcdcdcd)" in card
    said = describe(str(bundle))["calibrated"]
    assert len(said) == 2
    assert all(
        re.fullmatch(r"brain, lines at 3 to 5.5x, centre 4 to 12 %: deviation times [\d.]+, from \d+ slices", each)
        for each in said.values()
    )
    assert list(read_sums(bundle)) == ["model.safetensors", "config.yaml", "README.md", "calibration.yaml"]


def test_a_copy_gets_them_and_the_source_stays(bundle: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    copy = add_calibrations(bundle, tmp_path / "copy", [entry(load_prior(bundle).sha256)])
    assert len(load_prior(copy).calibrations) == 1
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


@pytest.mark.parametrize("change", ["damaged", "removed", "not in the sums", "of other weights", "no list"])
def test_a_file_that_is_not_what_was_written_is_noticed(
    bundle: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    add_calibrations(bundle, bundle, [entry(load_prior(bundle).sha256)])
    file, sums = bundle / "calibration.yaml", bundle / "SHA256SUMS"
    said = r"calibration\.yaml does not match SHA256SUMS"
    if change == "damaged":
        file.write_text(file.read_text().replace("pixel: 1.25", "pixel: 0.25"))
    elif change == "removed":
        file.unlink()
    elif change == "not in the sums":
        sums.write_text("".join(sums.read_text().splitlines(keepends=True)[:-1]))
        said = r"SHA256SUMS says nothing of calibration\.yaml"
    else:
        text = (
            "calibrations: 3\n"
            if change == "no list"
            else file.read_text().replace(load_prior(bundle).sha256, "ef" * 32)
        )
        digest = file_sha256(file)
        file.write_text(text)
        sums.write_text(sums.read_text().replace(digest, file_sha256(file)))
        said = (
            "expected a list called calibrations"
            if change == "no list"
            else "lines-4x is of weights efefefefefef, these"
        )
    with pytest.raises(ValueError, match=said):
        load_prior(bundle)
    assert main(["info", str(bundle)]) == 0
    assert "problem" in capsys.readouterr().out


def test_a_folder_of_something_else_is_refused(bundle: Path, tmp_path: Path) -> None:
    other = save_prior(tmp_path / "other", build_network(NETWORK), NETWORK, PriorInfo(WhiteNoise(0.01, 5.0)))
    with pytest.raises(ValueError, match="is another prior, of weights"):
        add_calibrations(bundle, other, [entry(load_prior(bundle).sha256)])
    (tmp_path / "notes").mkdir()
    with pytest.raises(ValueError, match="is there and is no prior"):
        check_target(tmp_path / "notes", load_prior(bundle).sha256)


def test_new_weights_of_the_same_folder_have_no_calibration(bundle: Path) -> None:
    add_calibrations(bundle, bundle, [entry(load_prior(bundle).sha256)])
    save_prior(bundle, build_network(NETWORK), NETWORK, PriorInfo(WhiteNoise(0.01, 5.0)))
    assert load_prior(bundle).calibrations == ()


@pytest.mark.parametrize("name", [name for name in shipped_priors() if (SHIPPED / name / CALIBRATION).is_file()])
def test_shipped_calibrations_are_of_their_weights_and_can_be_written_again(name: str, tmp_path: Path) -> None:
    known = load_prior(name).calibrations
    copy = tmp_path / name
    shutil.copytree(SHIPPED / name, copy)
    add_calibrations(copy, copy, known)
    assert (copy / "README.md").read_text() == (SHIPPED / name / "README.md").read_text()
    assert (copy / "calibration.yaml").read_text() == (SHIPPED / name / "calibration.yaml").read_text()


def test_the_default_plan_is_calibrated() -> None:
    """Where options of mean or spread change, `configs/calibrate/brain_complex.yaml` is to be run again."""
    plan = Plan().resolve()
    assert {each.name for each in plan.calibrations} >= {"lines-4x", "lines-8x", "points-4x", "points-8x"}
    assert not Plan(num_samples=4).resolve().calibrations
    assert not Plan(settings={"num_steps": 20}).resolve().calibrations
    assert not Plan(maps="espirit").resolve().calibrations
