"""What a request asks for changes what is computed, the same at every entrance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from batch_helpers import MASK, make_inputs
from kdrift.data.formats import open_volume
from kdrift.data.formats.fastmri import write_fastmri
from kdrift.evaluation.batch import BatchConfig
from kdrift.evaluation.cells import CellName, Entry, cell_tasks
from kdrift.evaluation.evaluate_config import EvaluateConfig, MethodPlan
from kdrift.evaluation.slice_worker import SliceWorker
from kdrift.evaluation.work import Unit, VolumeTask, volume_tasks
from kdrift.recon.acquisition import load_acquisition
from kdrift.recon.merge import merge_chunks
from kdrift.recon.plan import Plan
from kdrift.recon.request import AcquisitionOptions, AcquisitionRequest, MaskRequest
from kdrift.recon.resolved import ResolvedPlan
from kdrift.recon.sampling import run_chunk
from kdrift.recon.slices import RawSlice, SliceData
from kdrift.runs.config import parse
from kdrift.tuning.objective import load_cases
from kdrift.tuning.search_config import Axis
from kdrift.tuning.tune_config import TuneConfig, TuneData
from kdrift_serve.job_request import JobRequest, load
from kdrift_serve.problems import Problem

MAX_BYTES = 1 << 30
OPTIONS = ("smaps", "noise_cov", "noise_scan", "virtual_coils")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold `small.h5`, `store.zarr` with the same volume, coil maps and a noise covariance."""
    made = tmp_path_factory.mktemp("request")
    make_inputs(made)
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((4, 32, 32)) + 1j * rng.standard_normal((4, 32, 32))
    np.save(made / "maps.npy", (maps / np.sqrt((np.abs(maps) ** 2).sum(0))).astype(np.complex64))
    mixing = np.eye(4) + 0.4 * (rng.standard_normal((4, 4)) + 1j * rng.standard_normal((4, 4)))
    np.save(made / "cov.npy", mixing @ mixing.conj().T)
    drawn = rng.standard_normal((4, 500)) + 1j * rng.standard_normal((4, 500))
    np.save(made / "scan.npy", np.diag([1.0, 8.0, 1.0, 0.3]) @ drawn)
    return made


def _value(option: str, folder: Path) -> Any:
    files = {"smaps": "maps.npy", "noise_cov": "cov.npy", "noise_scan": "scan.npy"}
    return str(folder / files[option]) if option in files else 2


def _plan() -> ResolvedPlan:
    return Plan("cg_sense").resolve(None)


def _image(plan: ResolvedPlan, data: SliceData) -> Tensor:
    return merge_chunks([run_chunk(plan, None, data, chunk) for chunk in plan.split(len(data.kspace))]).mean


def _of_raw(raw: RawSlice) -> Tensor:
    plan = _plan()
    return _image(plan, plan.prepare(raw))


def library(folder: Path, out: Path, options: dict[str, Any]) -> Tensor:
    request = AcquisitionRequest(source=str(folder / "small.h5"), mask=MASK, slices=(1, 2), **options)
    return _of_raw(load_acquisition(request).raw(0))


def _of_task(task: VolumeTask) -> Tensor:
    unit = Unit(task, 1, tuple(task.plan.split(task.num_coils)), 1.0)
    found = SliceWorker([], "cpu", 1).run(unit)
    assert not isinstance(found, str), found
    return merge_chunks(found[1]).mean


def batch(folder: Path, out: Path, options: dict[str, Any]) -> Tensor:
    config = BatchConfig(store=str(folder / "store.zarr"), out=str(out), volumes=["small"], mask=MASK, **options)
    (task,) = volume_tasks(config.store, config.volumes, config, _plan(), out)
    return _of_task(task)


def evaluation(folder: Path, out: Path, options: dict[str, Any]) -> Tensor:
    config = EvaluateConfig(
        store=str(folder / "store.zarr"), out=str(out), volumes=["small"], methods={"cg": MethodPlan("cg_sense")},
        masks={"x2": MASK}, **options,
    )  # fmt: skip
    (task,) = cell_tasks(config, {Entry("cg"): _plan()}, out)[CellName("", Entry("x2"), Entry("cg"))]
    return _of_task(task)


def tuning(folder: Path, out: Path, options: dict[str, Any]) -> Tensor:
    data = TuneData(sources=[str(folder / "store.zarr")], volumes=["small"], mask=MASK, slices=(1, 2), **options)
    plan = _plan()
    (case,) = load_cases(
        TuneConfig(method="cg_sense", space={"max_iter": Axis(low=2, high=20, integer=True)}, data=data), plan
    )
    return _image(plan, case.data)


def service(folder: Path, out: Path, options: dict[str, Any]) -> Tensor:
    request = JobRequest(path="small.h5", mask=MASK, slices=(1, 2), **options)
    return _of_raw(load(request, folder / "small.h5", "small.h5", [folder], MAX_BYTES).raw(0))


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("entrance", [batch, evaluation, tuning, service])
def test_an_option_changes_the_image_as_it_does_in_the_library(
    entrance: Any, option: str, folder: Path, tmp_path: Path
) -> None:
    options = {option: _value(option, folder)}
    expected, without = library(folder, tmp_path, options), library(folder, tmp_path, {})
    scale = float(without.max())
    assert float((expected - without).abs().max()) > 0.01 * scale
    torch.testing.assert_close(entrance(folder, tmp_path, options), expected, rtol=0, atol=1e-5 * scale)
    torch.testing.assert_close(entrance(folder, tmp_path, {}), without, rtol=0, atol=1e-5 * scale)


def test_options_do_what_they_say(folder: Path) -> None:
    plain = AcquisitionRequest(source=str(folder / "small.h5"), mask=MASK)
    measured = load_acquisition(plain)
    given = load_acquisition(replace(plain, smaps=_value("smaps", folder)))
    assert given.smaps is not None
    maps = torch.from_numpy(np.load(folder / "maps.npy"))
    torch.testing.assert_close(given.smaps, maps.expand(2, -1, -1, -1))
    torch.testing.assert_close(given.kspace, measured.kspace)
    cov = torch.from_numpy(np.load(folder / "cov.npy"))
    white = load_acquisition(replace(plain, noise_cov=_value("noise_cov", folder)))
    torch.testing.assert_close(white.coils.noise_cov, cov)
    torch.testing.assert_close(white.kspace, measured.kspace)
    plan = _plan()
    assert plan.prepare(load_acquisition(replace(plain, virtual_coils=2)).raw(1)).kspace.shape == (2, 32, 32)
    assert plan.prepare(load_acquisition(replace(plain, noise_sigma=0.5)).raw(0)).noise_sigma * 2 == pytest.approx(
        plan.prepare(load_acquisition(replace(plain, noise_sigma=1.0)).raw(0)).noise_sigma
    )
    assert load_acquisition(replace(plain, slices=(1, None))).slice_indices == [1]


@pytest.mark.parametrize("entrance", [library, tuning, service])
def test_axes_centring_and_mask_files_are_options_everywhere(entrance: Any, folder: Path, tmp_path: Path) -> None:
    """The same scan with coils last and zero frequency at the corner, undersampled by a file."""
    with open_volume(folder / "small.h5") as volume:
        kspace = volume.read_kspace(0, 2)
    other = tmp_path / "small"
    other.mkdir()
    drawn = load_acquisition(AcquisitionRequest(source=str(folder / "small.h5"), mask=MASK)).mask
    np.save(other / "mask.npy", drawn.numpy())
    write_fastmri(other / "small.h5", kspace)
    mask = MaskRequest(file=str(other / "mask.npy"))
    expected = _of_raw(load_acquisition(AcquisitionRequest(source=str(other / "small.h5"), mask=mask)).raw(1))
    corner = np.fft.ifftshift(kspace, axes=(-2, -1)).transpose(0, 2, 3, 1)
    np.save(other / "corner.npy", corner)
    options: dict[str, Any] = {"axes": "slice,row,col,coil", "centred": False, "mask": mask, "slices": (1, 2)}
    source = other / "corner.npy"
    if entrance is service:
        request = JobRequest(path="corner.npy", **options)
        found = _of_raw(load(request, source, "corner.npy", [other], MAX_BYTES).raw(0))
        with pytest.raises(Problem, match="403"):
            load(request, source, "corner.npy", [folder / "store.zarr"], MAX_BYTES)
    elif entrance is tuning:
        data = TuneData(sources=[str(source)], **options)
        plan = _plan()
        (case,) = load_cases(
            TuneConfig(method="cg_sense", space={"max_iter": Axis(low=2, high=20, integer=True)}, data=data), plan
        )
        found = _image(plan, case.data)
    else:
        found = _of_raw(load_acquisition(AcquisitionRequest(source=str(source), **options)).raw(0))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1:3", [1, 2]),
        ([1, 3], [1, 2]),
        ("2", [2]),
        (-1, [4]),
        (":2", [0, 1]),
        ("-2:", [3, 4]),
        (None, [0, 1, 2, 3, 4]),
    ],
)
def test_slices_are_said_in_one_way_everywhere(given: Any, expected: list[int]) -> None:
    options = parse(AcquisitionOptions, {"slices": given})
    assert list(range(5)[options.chosen]) == expected
    assert options.of("a.h5").chosen == options.chosen
    with pytest.raises(ValueError, match=r"slices are A:B or one number, got '4,5'"):
        parse(AcquisitionOptions, {"slices": "4,5"})
