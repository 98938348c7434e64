"""What a command says where a newcomer stumbles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdrift.cli import main
from kdrift.data.phantom import phantom_volume
from kdrift.recon.sentences import failure_lines


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.npy"
    np.save(path, np.asarray(phantom_volume(3, 32, 32, 4, seed=1).kspace))
    return path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--mask", "gaussian", "--acceleration", "4"], "is no file, and no kind of mask, did you mean 'gaussian"),
        (["--mask", "m.txt"], "it is no array file, expected .npy, .npz, .h5, .mat or a .cfl of BART"),
        (["--mask", "equispaced", "--prior", "brain-complex"], "--prior brain-complex: zero_filled uses no prior"),
        (["--mask", "equispaced", "--samples", "4"], "--samples 4: zero_filled makes one image"),
        (["--mask", "equispaced", "--steps", "5"], "--steps 5: zero_filled has no number of steps, leave it out"),
        (["--mask", "equispaced", "--smaps", "maps.npy"], "probably row,col,coil: store them coils first"),
    ],
)
def test_a_mistake_is_named(
    options: list[str], said: str, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("m.txt").write_text("1\n0\n0\n")
    np.save("maps.npy", np.ones((32, 32, 4), np.complex64))
    assert main(["reconstruct", str(scan), "--out", "out", "--method", "zero_filled", *options]) != 0
    assert said in " ".join(capsys.readouterr().err.split())


def test_more_slices_than_there_are_and_a_mask_of_ones_own(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kspace = np.load(scan)
    mask = np.zeros(32, bool)
    mask[::2], mask[12:20] = True, True
    np.save(tmp_path / "scan.npy", kspace * mask)
    np.save(tmp_path / "mask.npy", mask)
    words = ["reconstruct", str(tmp_path / "scan.npy"), "--out", str(tmp_path / "out"), "--method", "zero_filled"]
    assert main([*words, "--mask", str(tmp_path / "mask.npy"), "--slices", "2:9"]) == 0
    said = capsys.readouterr().err
    assert "slices 2:9 were asked for, there are 3" in said
    assert "the data state no mask" in said


def test_slices_that_fail_alike_are_one_sentence() -> None:
    zero = "kspace is zero everywhere"
    failed = {0: zero, 1: f"slice 1: {zero}", 2: zero, 5: zero, 4: "slice 4: no coil is left"}
    assert failure_lines(failed) == [
        "slices 0-2, 5: kspace is zero everywhere; their images are zero",
        "slice 4: no coil is left; its image is zero",
    ]


def test_help_has_words_that_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("reconstruct", "convert", "simulate", "evaluate"):
        main([verb, "--help"])
        said = capsys.readouterr().out
        assert "null:" not in said
        assert "None:" not in said
