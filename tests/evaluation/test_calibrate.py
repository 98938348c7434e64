"""`kdrift calibrate` on a real local Ray, and what reconstructions make of it: a prior that sees, one that does not."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from batch_helpers import make_inputs, write_config
from kdrift.cli import main
from kdrift.data.phantom import phantom_volume
from kdrift.data.store import open_store
from kdrift.data.store_check import recorded
from kdrift.evaluation.calibrate import CalibrateConfig, calibrate
from kdrift.evaluation.factors import find_factors
from kdrift.evaluation.residuals import Residual
from kdrift.mri.mask_family import MaskFacts, mask_facts
from kdrift.mri.masks import make_mask
from kdrift.prior.bundle import SHIPPED, load_prior, read_config, save_prior
from kdrift.prior.prior_info import DataSource, PriorInfo, VolumeRecord
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.runs.config import load_config, parse, to_dict
from kdrift.runs.config_names import find_config
from s3_helpers import Server

# MLflow and Ray call deprecated parts of their own dependencies
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
PLAN = Plan(settings={"num_steps": 4}, num_samples=2, seed=5, precision="float32")
LINES = {"kind": "equispaced", "acceleration": 2.0, "acs_lines": 8}
FAMILY = {"unit": "lines", "net_acceleration": [1.5, 2.8], "acs": [0.1, 0.5], "masks": [LINES]}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A store of phantoms, a prior without training, and the weights of brain-complex that were never validated."""
    folder = tmp_path_factory.mktemp("inputs")
    found = make_inputs(folder)
    known = load_prior("brain-complex")
    info = info_with(noise_left=())
    save_prior(folder / "seeing", known.network, known.network_config, info)
    return found | {"seeing": str(folder / "seeing")}


def info_with(**changes: Any) -> PriorInfo:
    return replace(read_config(SHIPPED / "brain-complex")[1], **changes)


def values(inputs: dict[str, str], out: Path, prior: str = "seeing", **changes: Any) -> dict[str, Any]:
    plain = {"store": inputs["store"], "prior": inputs[prior], "out": str(out), "anatomy": "phantom", "least_slices": 1}
    return plain | {"families": {"half": FAMILY}, "plan": to_dict(PLAN), "pool": {"actors": 2}} | changes


def read(inputs: dict[str, str], out: Path, prior: str = "seeing", **changes: Any) -> CalibrateConfig:
    return parse(CalibrateConfig, values(inputs, out, prior, **changes))


@pytest.fixture(scope="module")
def calibrated(cluster: None, inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the prior that sees, calibrated by the command."""
    folder = tmp_path_factory.mktemp("calibrated")
    config = write_config(folder / "mine.yaml", values(inputs, folder / "out"))
    assert main(["calibrate", "--config", str(config), "--bundle", str(folder / "mine"), "--quiet"]) == 0
    return folder / "mine"


@pytest.mark.slow
def test_what_is_written_says_what_it_comes_from(calibrated: Path, inputs: dict[str, str]) -> None:
    (entry,) = load_prior(calibrated).calibrations
    assert load_prior(inputs["seeing"]).calibrations == ()
    assert (entry.name, entry.anatomy, entry.num_samples, entry.level) == ("half", "phantom", 2, 0.9)
    assert {scan.name for scan in entry.scans} <= {"small", "large"}
    assert entry.slices + entry.left_out == 5
    assert all(len(scan.checksum) == 64 for scan in entry.scans)
    assert 0.05 <= entry.pixel < 20
    assert entry.figures["psnr"].slices == entry.slices
    assert entry.figures["psnr"].probability <= 0.9
    assert entry.prior_sha256 == load_prior("brain-complex").sha256
    assert entry.settings["options"]["num_steps"] == 4
    assert entry.config["store"] == "store.zarr"
    assert str(calibrated.parent) not in (calibrated / "calibration.yaml").read_text()
    assert "phantom, lines at 1.5 to 2.8x" in (calibrated / "README.md").read_text()


@pytest.mark.slow
def test_reconstructions_of_the_family_use_it_and_others_say_so(calibrated: Path, inputs: dict[str, str]) -> None:
    volume = phantom_volume(3, 32, 32, 4, seed=3)
    kspace = torch.as_tensor(np.asarray(volume.kspace)[:1])
    (entry,) = load_prior(calibrated).calibrations

    def run(prior: str | Path, plan: Plan = PLAN, **mask: Any) -> Any:
        kept = make_mask(**{"kind": "equispaced", "shape": (32, 32), "acceleration": 2.0, "acs_lines": 8} | mask).mask
        return reconstruct(torch.where(kept, kspace, 0), kept, plan=plan, prior=str(prior), device="cpu")

    before, after = run(inputs["seeing"]), run(calibrated)
    found, plain = after.verdicts[0], before.verdicts[0]
    assert plain.level != "not trusted"
    assert (found.level, found.reasons) == (plain.level, plain.reasons)
    assert found.evidence.calibrated_by.startswith("mine, phantom, lines at 1.5 to 2.8x, centre 10 to 50 % (")
    assert found.factor == pytest.approx(min(max(entry.pixel * plain.factor, 0.5), 4.0))
    noise = found.evidence.image_noise
    assert torch.equal(before.mean, after.mean)
    assert noise > 0
    assert float((after.std / before.std).median()) == pytest.approx(found.factor / plain.factor, rel=0.3)
    figure, bound = found.figures["psnr"], entry.figures["psnr"]
    assert figure.bound == pytest.approx(figure.expected + bound.offset - bound.median)
    assert figure.bound <= figure.expected
    assert after.config["calibrations"] == {str(entry): entry.pixel}
    assert "calibrations" not in before.config
    assert (
        plain.evidence.uncalibrated
        == "no calibration of seeing was made with these settings and at most as many samples"
    )
    others = {
        "no calibration of mine for points at": run(calibrated, kind="gaussian2d"),
        "no calibration of mine was made with these settings and at most as many samples": run(
            calibrated, Plan(settings={"num_steps": 3}, num_samples=2, seed=5, precision="float32")
        ),
    }
    for said, result in others.items():
        verdict = result.verdicts[0]
        if verdict.level != "not trusted":
            assert verdict.evidence.uncalibrated.startswith(said)
        assert (verdict.evidence.calibration, verdict.figures) == (1.0, {})


@pytest.mark.slow
def test_done_is_not_done_again_and_families_may_be_added(
    calibrated: Path, inputs: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(calibrated.parent / "out", tmp_path / "out")
    shutil.copytree(calibrated, tmp_path / "mine")
    lines = list[str]()
    other = {**FAMILY, "net_acceleration": [1.0, 3.0]}
    config = read(
        inputs, tmp_path / "out", families={"half": FAMILY, "wide": other}, volumes=["small"], region_size=8,
        bundle=str(tmp_path / "mine"),
    )  # fmt: skip
    result = calibrate(config, echo=lines.append, quiet=True)
    assert (result.batch.slices, result.batch.slices_before) == (2, 2)  # those of the new family alone
    assert [each.name for each in load_prior(tmp_path / "mine").calibrations] == ["half", "wide"]
    # a mask that is not of its family is found, and what was reconstructed is used once that is put right
    config = read(
        inputs, tmp_path / "out", families={"half": {**FAMILY, "acs": [0.5, 0.6]}}, volumes=["small"],
        bundle=str(tmp_path / "mine"),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"families\.half: its mask of small is not of lines at .* its centre is"):
        calibrate(config, quiet=True)


@pytest.mark.slow
def test_a_calibration_at_a_url(
    calibrated: Path, server: Server, url: str, inputs: dict[str, str], tmp_path: Path, elsewhere: Callable[[], None]
) -> None:
    """It finds what one in a folder finds; on another machine nothing is reconstructed again."""
    config = parse(CalibrateConfig, {**values(inputs, tmp_path), "out": url, "bundle": str(tmp_path / "mine")})
    calibrate(config, echo=lambda line: None, quiet=True)
    assert load_prior(tmp_path / "mine").calibrations[0].pixel == load_prior(calibrated).calibrations[0].pixel
    names = server.shown(url)
    assert f"cells/half.0/{PLAN.method}/small/metrics.json" in names
    elsewhere()
    again = calibrate(config, echo=lambda line: None, quiet=True)
    assert (again.batch.slices, again.batch.slices_before) == (0, 5)
    assert server.shown(url) == names
    for path in Path(inputs["seeing"]).iterdir():
        server.write(f"{url}-prior/{path.name}", path.read_bytes())
    at_url = calibrate(replace(config, bundle=None, prior=f"{url}-prior"), echo=lambda line: None, quiet=True)
    assert at_url.bundle == f"{url}-prior"
    assert load_prior(f"{url}-prior").calibrations[0].pixel == load_prior(calibrated).calibrations[0].pixel
    calibrate(replace(config, bundle=f"{url}-copy"), echo=lambda line: None, quiet=True)
    assert load_prior(f"{url}-copy").calibrations == load_prior(f"{url}-prior").calibrations
    assert server.shown(f"{url}-copy") == sorted(path.name for path in (tmp_path / "mine").iterdir())
    with pytest.raises(ValueError, match=f"{url}-copy is another prior, of weights"):
        calibrate(replace(config, bundle=f"{url}-copy", prior=inputs["prior"]), echo=lambda line: None, quiet=True)


@pytest.mark.slow
def test_slices_that_are_not_trusted_calibrate_nothing(cluster: None, inputs: dict[str, str], tmp_path: Path) -> None:
    lines = list[str]()
    before = (Path(inputs["prior"]) / "SHA256SUMS").read_text()
    with pytest.raises(ValueError, match="too few slices could be used, so nothing is calibrated"):
        calibrate(read(inputs, tmp_path / "out", "prior", volumes=["small"]), echo=lines.append, quiet=True)
    assert "half: 0 slices could be used, at least 1 are asked for (least_slices): it is not calibrated" in lines
    assert any(line.startswith("left out of half: small, slice 0: not trusted: ") for line in lines), lines
    assert (Path(inputs["prior"]) / "SHA256SUMS").read_text() == before
    report = json.loads((tmp_path / "out/cells/half.0/annealed/small/metrics.json").read_text())
    assert report["verdicts"]["0"]["level"] == "not trusted"
    assert "the image is not trusted" in report["verdicts"]["0"]["uncalibrated"]


def test_mistakes_are_found_before_anything_is_computed(inputs: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="brain-complex comes with kdrift and is not written to"):
        calibrate(read(inputs | {"seeing": "brain-complex"}, out))
    with pytest.raises(ValueError, match="is another prior"):
        calibrate(read(inputs, out, bundle=inputs["prior"]))
    with pytest.raises(ValueError, match=r"slices that are checked: give plan\.check true"):
        calibrate(read(inputs, out, plan=to_dict(PLAN) | {"check": False}))
    with pytest.raises(ValueError, match=r"a calibration needs a spread: give plan\.num_samples 2 or more, got 1"):
        calibrate(read(inputs, out, plan=to_dict(PLAN) | {"num_samples": 1}))
    with pytest.raises(ValueError, match="tv draws no samples, so that there is no deviation to calibrate"):
        calibrate(read(inputs, out, plan={"method": "tv"}))
    with pytest.raises(ValueError, match="a calibration needs families"):
        read(inputs, out, families={})
    with pytest.raises(ValueError, match="a calibration needs families"):
        read(inputs, out, families={"half": {**FAMILY, "masks": []}})
    with pytest.raises(ValueError, match="a word for anatomy"):
        read(inputs, out, anatomy=" ")
    assert not out.exists()


def test_scans_that_the_prior_was_trained_on_are_refused(inputs: dict[str, str], tmp_path: Path) -> None:
    array = open_store(inputs["store"]).attributes("small")["arrays"]["target"]
    digest = hashlib.sha256(json.dumps(recorded(array)[1]).encode()).hexdigest()
    known = load_prior("brain-complex")
    info = info_with(noise_left=(), data=(DataSource("s", (VolumeRecord("x", 2, digest),)),))
    save_prior(tmp_path / "trained", known.network, known.network_config, info)
    config = read(inputs | {"seeing": str(tmp_path / "trained")}, tmp_path / "out")
    with pytest.raises(ValueError, match="trained was trained on small: calibrate on scans that it has not seen"):
        calibrate(config)


def residual(scan: str, factor: float, seed: int) -> Residual:
    generator = torch.Generator().manual_seed(seed)
    reference = torch.full((64, 64), 1.0)
    reference[0, :8] = 10.0
    spread = 0.05 * (1 + torch.rand(64, 64, generator=generator))
    mean = reference + factor * spread * torch.randn(64, 64, generator=generator)
    return Residual(scan, True, MaskFacts("lines", 4.0, 0.08, 1.0), mean, reference, spread, 0.0)


def test_factors_are_those_that_the_scans_were_made_with() -> None:
    scans = {"a": [residual("a", 1.0, 1), residual("a", 1.0, 2)], "b": [residual("b", 4.0, 3)]}
    found = find_factors(scans, level=0.9, probability=0.9, region_size=16)
    assert found.pixel == pytest.approx(2.0, rel=0.05)
    assert found.of_scans == {"a": pytest.approx(1.0, rel=0.05), "b": pytest.approx(4.0, rel=0.05)}
    assert found.coverage["a"] > 0.999  # with 4.0
    assert found.coverage["b"] == pytest.approx(0.32, abs=0.03)  # with 1.0: erf(1.645 / 4 / sqrt 2)
    assert found.figures["psnr"].probability == pytest.approx(0.75)
    alone = find_factors({"a": scans["a"]}, level=0.9, probability=0.5, region_size=16)
    assert (alone.coverage, alone.regions) == ({}, 32)
    assert alone.region == pytest.approx(1 / 16, rel=0.4)
    assert alone.figures["psnr"].offset == pytest.approx(0.0, abs=0.2)


def test_the_shipped_configuration_is_read() -> None:
    config = load_config(CalibrateConfig, find_config("calibrate", "brain_complex"))
    assert set(config.families) == {"lines-2x", "lines-4x", "lines-8x", "points-4x", "points-8x"}
    for family in config.families.values():
        for mask in family.masks:
            drawn = make_mask(str(mask.kind), (128, 128), **mask.draw).mask
            assert family.plain.differences(mask_facts(drawn)) == ()
    assert yaml.safe_load(find_config("calibrate", "brain_complex").read_text())["prior"] == "brain-complex"
