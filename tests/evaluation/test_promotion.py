"""`kdrift promote`: the champion of a registry changes where evaluations of both priors say that it may."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdrift.cli import main
from kdrift.prior.bundle import load_prior
from kdrift.runs import registry, tracking
from s3_helpers import Server

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
OLD, NEW = "brain-complex-small", "brain-complex"


def _evaluated(folder: Path, prior: str, psnr: float, *, mask: str = "equispaced 4x", slices: int = 6) -> Path:
    """Write what an evaluation keeps of one volume and one method, with `psnr` rising by slice."""
    out = folder / "cells" / f"{prior}_{psnr}" / "volume"
    out.mkdir(parents=True)
    report = {
        "volume": "scan", "sampling": mask, "seed": 0,
        "config": {"method": "annealed", "options": {"num_steps": 40}, "prior": {"sha256": load_prior(prior).sha256}},
        "by_slice": {str(i): {"psnr": psnr + i, "ssim": 0.9 + psnr / 1000, "nmse": 0.01} for i in range(slices)},
    }  # fmt: skip
    (out / "metrics.json").write_text(json.dumps(report))
    return folder


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """A registry in which version 1, `brain-complex-small`, is the champion and version 2 is the candidate."""
    uri = tracking.default_uri(tmp_path)
    for name in (OLD, NEW):
        assert main(["register", name, "--tracking-uri", uri, "--name", "brain"]) == 0
        if name == OLD:
            assert registry.aliases(uri, "brain") == {"candidate": "1"}
            assert main(["promote", "brain", "--tracking-uri", uri]) == 0
    assert registry.aliases(uri, "brain") == {"champion": "1", "candidate": "2"}
    return uri


def test_a_better_prior_becomes_the_champion(
    uri: str, server: Server, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _evaluated(_evaluated(tmp_path / "both", OLD, 30.0), NEW, 30.5, slices=9)
    for path in folder.rglob("metrics.json"):
        server.write(f"{url}/{path.relative_to(folder)}", path.read_bytes())
    assert main(["promote", "brain", url, "--tracking-uri", uri]) == 0
    told = capsys.readouterr().out
    assert "against version 1: +0.5 dB PSNR on 6 slices (95 % interval +0.5 to +0.5, p = 0.014)" in told
    assert "promoted: brain version 2, models:/brain@champion" in told
    assert registry.aliases(uri, "brain")["champion"] == "2"
    tags = tracking.client(uri).get_model_version("brain", "2").tags
    assert (tags["promoted_over"], tags["psnr_gained"]) == ("1", "0.5")
    assert main(["promote", "brain", str(folder), "--tracking-uri", uri]) == 1
    assert "version 2 is the champion already" in capsys.readouterr().out


def test_a_worse_prior_does_not(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [_evaluated(tmp_path / "old", OLD, 30.0), _evaluated(tmp_path / "new", NEW, 29.8)]
    assert main(["promote", "brain", *map(str, folders), "--tracking-uri", uri]) == 1
    told = capsys.readouterr().out
    assert "version 2 is lower in PSNR and SSIM" in told
    assert "not promoted: brain version 2" in told
    assert registry.aliases(uri, "brain")["champion"] == "1"
    assert main(["promote", "brain", "--without-comparison", "--tracking-uri", uri]) == 0
    assert main(["promote", "brain", "--version", "1", "--without-comparison", "--tracking-uri", uri]) == 0
    assert registry.aliases(uri, "brain") == {"champion": "1", "candidate": "2"}


def test_what_compares_nothing_is_refused(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = _evaluated(_evaluated(tmp_path / "other", OLD, 30.0), NEW, 31.0, mask="equispaced 8x")
    for folders, error in (
        ([], "name evaluations of both priors"), ([tmp_path / "none"], "holds no evaluation"),
        ([other], "no slice was reconstructed with both priors in the same way"),
    ):  # fmt: skip
        assert main(["promote", "brain", *map(str, folders), "--tracking-uri", uri]) == 1
        assert error in capsys.readouterr().err
    assert main(["promote", "brian", "--tracking-uri", uri]) == 1
    assert "no prior brian" in capsys.readouterr().err
    assert registry.aliases(uri, "brain")["champion"] == "1"
