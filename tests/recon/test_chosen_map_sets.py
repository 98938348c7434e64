"""Two sets of coil maps where the calibration lines ask for them, through a whole reconstruction."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from kdrift.cli import main
from kdrift.data.formats import open_volume
from kdrift.mri.birdcage import birdcage_maps
from kdrift.mri.coils import rss
from kdrift.mri.fourier import fft2c, ifft2c
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct, reconstruct_slices
from kdrift.recon.slices import RawSlice

SIZE = 64


def scan(width: float) -> tuple[Tensor, Tensor]:
    """Full k-space `(coil, row, col)` of an object of so many fields of view across, and every other column of it."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIZE), torch.linspace(-2, 2, 2 * SIZE), indexing="ij")
    image = ((y / 0.8).square() + (x / width).square() < 1) * (1 + 0.5 * torch.cos(9 * x) * torch.sin(7 * y))
    maps = torch.as_tensor(birdcage_maps(8, 2 * SIZE, 2 * SIZE))[:, SIZE // 2 : -SIZE // 2]
    wide, edge = maps * image, SIZE // 2
    folded = wide[..., edge:-edge].clone()
    folded[..., :edge] += wide[..., -edge:]
    folded[..., -edge:] += wide[..., :edge]
    noise = torch.randn(folded.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    kept = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    kept[:, ::2] = kept[:, 24:40] = True
    return fft2c(folded.to(torch.complex64)) + 3e-3 * noise, kept


def error(kspace: Tensor, kept: Tensor, sets: int | None) -> float:
    plan = Plan("cg_sense", settings={"weight": 1e-4}, num_map_sets=sets)
    mean = reconstruct(kspace[None], kept, plan=plan, device="cpu").mean[0]
    reference = rss(ifft2c(kspace))
    return float((mean - reference).norm() / reference.norm())


def test_a_folded_scan_is_as_good_as_one_that_is_not() -> None:
    (inside, kept), (folded, _) = scan(0.8), scan(1.2)
    within = error(inside, kept, None)
    assert error(folded, kept, None) < 2 * within  # twice the unknowns where it folds
    assert error(folded, kept, 1) > 3 * within
    assert error(inside, kept, 1) == within  # one set is what it had


def raw(width: float, index: int = 0) -> RawSlice:
    kspace, kept = scan(width)
    return RawSlice(index, torch.where(kept, kspace, 0), kept)


def test_what_was_chosen_is_said_and_given_back() -> None:
    plan = Plan("cg_sense")
    result = reconstruct_slices([raw(0.8, 4), raw(1.2, 7)], plan=plan, device="cpu")
    assert result.config["maps"]["sets"] == "auto"
    note = next(note for note in result.notes if "sets of coil maps" in note)
    assert re.match(
        r"slice 7: two sets of coil maps: the second eigenvalue of ESPIRiT is above 0\.8 in about \d0%", note
    )
    assert result.smaps is not None
    assert result.smaps.shape == (2, 2, 8, SIZE, SIZE)
    assert not bool(result.smaps[0, 1].any())
    again = [replace(each, smaps=maps) for each, maps in zip([raw(0.8, 4), raw(1.2, 7)], result.smaps, strict=True)]
    torch.testing.assert_close(reconstruct_slices(again, plan=plan, device="cpu").mean, result.mean)
    tv = reconstruct_slices(again[:1], plan=Plan("tv"), device="cpu")  # its second set is of zeros
    assert float(tv.mean.max()) > 0


def test_methods_and_starts_of_one_set_get_one_with_a_note() -> None:
    for plan in (Plan("tv"), Plan("l1_wavelet")):
        data = plan.resolve().prepare(raw(1.2))
        assert data.smaps.ndim == 3
        assert "one set of coil maps, all that the method takes" in data.sets_note
    assert not Plan("tv", num_map_sets=1).resolve().prepare(raw(1.2)).sets_note  # what is asked for is no surprise
    assert Plan("annealed", start="tv").resolve().most_map_sets == 1
    assert Plan("annealed", start="cg_sense").resolve().most_map_sets == Plan().resolve().most_map_sets == 2


def test_a_second_set_ends_where_there_is_no_second_signal() -> None:
    asked = Plan("cg_sense", num_map_sets=2).resolve()
    second = asked.prepare(raw(0.7)).smaps[1]
    assert float((second != 0).any(0).float().mean()) < 0.05
    where = (asked.prepare(raw(1.2)).smaps[1] != 0).any(0)
    assert float(where[:, :6].float().mean()) > 0.5  # at the edges, where the object folds
    assert float(where[:, 24:40].float().mean()) < 0.2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_command_takes_what_the_calibration_says_or_a_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "scan.npy", scan(1.2)[0].numpy()[None])
    command = ["reconstruct", str(tmp_path / "scan.npy"), "--mask", "equispaced", "--acceleration", "2", "--acs-lines",
               "16", "--method", "cg_sense", "--save-smaps", "--device", "cpu"]  # fmt: skip
    assert main([*command, "--out", str(tmp_path / "auto")]) == 0
    assert "two sets of coil maps" in capsys.readouterr().err
    assert main([*command, "--map-sets", "1", "--out", str(tmp_path / "one")]) == 0
    assert "sets of coil maps" not in capsys.readouterr().err
    with open_volume(str(tmp_path / "scan.npy")) as volume:
        assert volume.info.num_coils == 8
