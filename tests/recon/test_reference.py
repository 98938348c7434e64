"""A stored reference that is not the image of its k-space is said to be doubtful; one that is raises no doubt."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from kdrift.cli import main
from kdrift.data.convert import ConvertConfig, convert
from kdrift.data.describe import describe
from kdrift.data.formats import open_volume
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.phantom import phantom_volume
from kdrift.data.store import open_store
from kdrift.data.store_write import write_volume
from kdrift.evaluation.table import Cell, markdown, summarise
from kdrift.mri.coils import rss
from kdrift.mri.fourier import ifft2c
from kdrift.mri.masks import make_mask
from kdrift.recon.acquisition import Acquisition, load_acquisition
from kdrift.recon.request import AcquisitionRequest, MaskRequest

SLICES, SIZE, COILS = 4, 64, 4
EQUI = make_mask("equispaced", (SIZE, SIZE), acceleration=4, acs_lines=12).mask.numpy()
MISFITS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "lr": (lambda x: x[..., ::-1], "mirrored left-right"),
    "ud": (lambda x: x[..., ::-1, :], "mirrored up-down"),
    "both": (lambda x: x[..., ::-1, ::-1], "turned by 180 degrees"),
    "transposed": (lambda x: x.swapaxes(-2, -1), "transposed"),
    "clockwise": (lambda x: np.rot90(x, -1, axes=(-2, -1)), "turned clockwise by 90 degrees"),
    "rolled": (lambda x: np.roll(x, (5, -7), (1, 2)), r"shifted by \+5 rows and -7 columns"),
    "reversed": (lambda x: x[::-1], "in reverse order of slices"),
    "one slice on": (lambda x: np.concatenate([x[:1], x[:-1]]), r"of slices? .*shifted by \+1 slice \("),
    "scale": (lambda x: 1e-4 * x, "another scale than its k-space"),
    "another": (lambda x: np.random.default_rng(0).random(x.shape), "does not look like its k-space"),
}


def head() -> tuple[np.ndarray, np.ndarray]:
    """Return k-space and its image of slices that differ, of a head that no turn leaves as it is."""
    volume = phantom_volume(SLICES, SIZE, SIZE, COILS, seed=4)
    kspace = np.asarray(volume.kspace)
    images = torch.from_numpy(kspace)
    return kspace, rss(ifft2c(images)).numpy()


def load(path: Path, **options: object) -> Acquisition:
    return load_acquisition(AcquisitionRequest(source=str(path), **options))  # type: ignore[arg-type]


def doubts(acquisition: Acquisition) -> tuple[str, ...]:
    assert acquisition.reference_fit is not None
    return acquisition.reference_fit.doubts


@pytest.mark.parametrize("sampled", ["full", "drawn", "measured"])
@pytest.mark.parametrize("kind", MISFITS)
def test_a_reference_that_does_not_fit_is_doubtful(kind: str, sampled: str, tmp_path: Path) -> None:
    kspace, image = head()
    change, sentence = MISFITS[kind]
    write_fastmri(
        tmp_path / "a.h5", kspace * EQUI if sampled == "measured" else kspace, reference=change(image).copy(),
        mask=EQUI[0] if sampled == "measured" else None,
    )  # fmt: skip
    found = load(tmp_path / "a.h5", mask=MaskRequest("equispaced", 4.0) if sampled == "drawn" else None)
    assert re.search(sentence, "\n".join(doubts(found))), doubts(found)
    assert "figures are against the reference as stored, and are doubtful" in found.notes
    np.testing.assert_allclose(found.reference, change(image), rtol=1e-5)


@pytest.mark.parametrize("sampled", ["full", "drawn", "measured"])
def test_a_reference_that_fits_raises_no_doubt(sampled: str, tmp_path: Path) -> None:
    kspace, image = head()
    cropped = image[:, 4:-4, 8:-8]
    write_fastmri(
        tmp_path / "a.h5", kspace * EQUI if sampled == "measured" else kspace, reference=cropped,
        mask=EQUI[0] if sampled == "measured" else None,
    )  # fmt: skip
    found = load(tmp_path / "a.h5", mask=MaskRequest("equispaced", 4.0) if sampled == "drawn" else None)
    assert doubts(found) == ()
    assert found.reference_fit is not None
    assert found.reference_fit.scale == pytest.approx(1, abs=1e-3 if sampled != "measured" else 0.3)


def test_one_slice_asked_for_alone_is_looked_for_beside_it(tmp_path: Path) -> None:
    kspace, image = head()
    np.savez(tmp_path / "a.npz", kspace=kspace, reference=np.roll(image, 1, 0))
    assert "shifted by +1 slice" in "\n".join(doubts(load(tmp_path / "a.npz", slices=1)))


def test_what_cannot_be_told_is_said(tmp_path: Path) -> None:
    kspace, image = head()
    lines = np.arange(SIZE) % 4 == 1
    np.savez(tmp_path / "a.npz", kspace=kspace * lines, mask=lines, reference=image[..., ::-1])
    assert any("too little of the middle of k-space" in note for note in load(tmp_path / "a.npz").notes)


def test_real_scans_raise_no_doubt(shared_data: Path, tmp_path: Path) -> None:
    for path in sorted((shared_data / "kspace").glob("*.h5")):
        with open_volume(path) as volume:
            kspace, image = volume.read_kspace(0, 1), volume.read_image(0, 1)
        assert doubts(load(path)) == ()
        for kind, acceleration in (("equispaced", 4), ("equispaced", 8), ("gaussian1d", 8), ("poisson", 12)):
            mask = make_mask(kind, kspace.shape[-2:], acceleration=acceleration, seed=1).mask.numpy()
            for reference, expected in ((image, False), (image[..., ::-1], True)):
                np.savez(tmp_path / "a.npz", kspace=kspace * mask, mask=mask, reference=reference)
                assert bool(doubts(load(tmp_path / "a.npz"))) == expected, (path, kind, acceleration)


def test_the_command_the_store_and_the_table_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kspace, image = head()
    write_fastmri(tmp_path / "a.h5", kspace[:2], reference=image[:2, :, ::-1].copy())
    with open_store(tmp_path / "x.zarr", "a") as store, open_volume(tmp_path / "a.h5") as volume:
        write_volume(store, "v", volume)
    reports = []
    for source in (tmp_path / "a.h5", tmp_path / "x.zarr" / "v"):
        out = tmp_path / source.stem
        arguments = ["reconstruct", str(source), "--out", str(out), "--method", "cg_sense", "--mask", "equispaced"]
        assert main(arguments) == 0
        said = capsys.readouterr()
        assert "(doubtful: the stored reference does not fit)" in said.out
        assert "note: the stored reference is the image of its k-space mirrored left-right" in said.err
        reports.append(json.loads((out / "metrics.json").read_text()))
        assert reports[-1]["reference_fit"]["correlation"] < 0.9
        assert "mirrored left-right" in reports[-1]["reference_fit"]["doubts"][0]
    rows = summarise([Cell("m", "cg_sense", reports)])
    assert rows[0]["doubtful"] == 2
    assert "the figures of 2 of 2 volumes are doubtful" in markdown(rows)


def test_a_reference_that_is_not_finite_is_named(tmp_path: Path) -> None:
    kspace, image = head()
    image[2, 3, 4] = np.nan
    write_fastmri(tmp_path / "a.h5", kspace, reference=image)
    with pytest.raises(ValueError, match="the reference of slice 2 holds NaN or infinite values, expected an image"):
        load(tmp_path / "a.h5")


@pytest.mark.ray
def test_a_target_that_was_computed_is_no_stored_reference(tmp_path: Path) -> None:
    kspace = np.asarray(phantom_volume(2, 48, 40, 4, seed=4).kspace)
    with h5py.File(tmp_path / "padded.h5", "w") as file:
        file["kspace"] = kspace  # values in its padding, which are left out
        file.attrs.update(padding_left=3, padding_right=37)
    np.save(tmp_path / "partial.npy", kspace * (np.arange(40) > 11))
    store = str(tmp_path / "x.zarr")
    report = convert(
        ConvertConfig([str(tmp_path / name) for name in ("padded.h5", "partial.npy")], store, target=True, workers=1)
    )
    assert not report.failed
    mask = MaskRequest("equispaced", 2.0, acs_lines=10)
    found = {}
    for source in (str(tmp_path / "padded.h5"), f"{store}/padded"):
        assert load_acquisition(AcquisitionRequest(source=source)).reference is None
        drawn = load_acquisition(AcquisitionRequest(source=source, mask=mask))
        assert drawn.reference is not None
        assert drawn.reference_fit is None
        assert drawn.reference_definition == "rss of the k-space as measured"
        found[source] = drawn.reference.numpy()
        assert any("was computed of this k-space" in note for note in drawn.notes) == (source != next(iter(found)))
    np.testing.assert_array_equal(*found.values())
    with open_store(store) as opened:
        np.testing.assert_allclose(opened.read_volume("padded").read_image(0, 2), found[source], rtol=1e-4)
        assert "target" not in opened.read_volume("partial").array_names
        assert "no target was computed: k-space is partial Fourier" in opened.read_volume("partial").info.notes
    assert describe(f"{store}/padded")["reference"] == "no (target was computed of this k-space)"


def test_a_slice_without_reference_is_left_out_of_the_figures(tmp_path: Path) -> None:
    kspace, truth = head()
    figures = []
    for slices, name in ((range(4), "a"), ((0, 1, 3), "b")):
        some = truth.copy()
        some[2] = 0
        np.savez(tmp_path / f"{name}.npz", kspace=kspace[list(slices)] * EQUI, mask=EQUI, reference=some[list(slices)])
        assert (
            main(["reconstruct", str(tmp_path / f"{name}.npz"), "--out", str(tmp_path / name), "--method", "cg_sense"])
            == 0
        )
        report = json.loads((tmp_path / name / "metrics.json").read_text())
        figures.append(report["metrics"])
        assert ("the reference is zero in slice 2: left out of the figures" in report["notes"]) == (name == "a")
    assert figures[0] == pytest.approx(figures[1], rel=1e-4)
