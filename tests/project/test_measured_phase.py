"""The benchmark of measured against synthetic phase trains and measures, on a file of its own making."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks import measured_phase

from kdrift.mri.birdcage import birdcage_maps
from kdrift.prior.bundle import load_prior


def test_two_priors_are_trained_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    disc = x**2 + y**2 < 0.7
    arrays = {"maps": np.asarray(birdcage_maps(4, 32, 32)).astype(np.complex64)}
    for name in ("patient01_T1", "patient09_T1"):
        arrays[f"magnitude/{name}"] = (rng.integers(1500, 4000, (2, 64, 64)) * disc).astype(np.uint16)
    for name in measured_phase.REAL:
        arrays[f"real/{name}"] = (disc * np.exp(2j * x))[None].astype(np.complex64)
    np.savez(tmp_path / "prepared.npz", **arrays)
    settings = ["batch_size=4", "data.crop=32", "network.ncsnpp.nf=8", "network.ncsnpp.ch_mult=[1,1]"]
    settings += ["network.ncsnpp.image_size=32", "monitoring.validation_sigmas=[0.1,1.0]"]
    options = [option for setting in settings for option in ("--set", setting)]
    quick = ["--images", "8", "--device", "cpu", "--no-compile", "--quick"]
    measured_phase.main(["train", "--out", str(tmp_path), *quick, *options])
    printed = capsys.readouterr().out
    assert "2 volumes, 4 complex slices simulated" in printed
    assert "| graz_t2_4ch | measured |" in printed
    assert "| wastling_t2_1ch | synthetic |" in printed
    phases = {arm: load_prior(tmp_path / arm).info.training["data"]["augment_phase"] for arm in measured_phase.ARMS}
    assert phases == {"measured": "measured", "synthetic": "smooth"}
