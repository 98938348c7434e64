"""What a reconstruction leaves on disk: `reconstruction.h5`, `metrics.json`, `panel.png` and the outputs asked for."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from kdrift.measures.metrics import METRICS, WINDOW
from kdrift.notice import RESEARCH_ONLY
from kdrift.recon.acquisition import AcquisitionFacts
from kdrift.recon.outputs import remove_output, write_outputs
from kdrift.recon.outputs.image_set import ImageSet, method_line, place_of
from kdrift.recon.panel import save_panel
from kdrift.recon.result import ReconstructionResult
from kdrift.recon.sentences import divergence_lines, failure_lines
from kdrift.recon.trust_report import trust_entries, trust_figures
from kdrift.runs.files import check_folder, read_json, whole_file, write_json
from kdrift.runs.hint import one_line
from kdrift.runs.remote import Remote
from kdrift.trust.verdict import NAMES, Verdict

MARK = "batch.json"
"""In the folder of a volume: a batch has finished it."""
RESULTS = ("reconstruction.h5", "metrics.json", "panel.png")
"""What is always written."""
SLICE_FIGURES = (
    "psnr, ssim and nmse of each slice on its own, with its own maximum as data range; deviation: root mean square of"
    " the standard deviation over that maximum"
)
"""What `by_slice` of metrics.json holds."""
PACKAGES = ("kdrift", "torch", "numpy", "scipy", "sigpy", "h5py")


def save_result(
    out: Path,
    acquisition: AcquisitionFacts,
    result: ReconstructionResult,
    *,
    keep_smaps: bool = False,
    outputs: Sequence[str] = (),
) -> dict[str, Any]:
    """Write all files into the folder `out`, each whole or not at all, and return what `metrics.json` holds.

    `outputs` are those of `kdrift.recon.outputs.OUTPUTS` besides. What an earlier run left in `out` by its own
    `metrics.json`, and this one does not write, is removed once the new results are whole, and listed under `removed`;
    files that kdrift did not write stay.
    """
    out.mkdir(parents=True, exist_ok=True)
    before = earlier_outputs(out)
    if "key" in _read_report(out / MARK):  # what a batch had finished here is no more
        (out / MARK).unlink()
    images = image_set(acquisition, result)
    report = measurements(acquisition, result)
    report["geometry"] = {
        "voxel_mm": list(images.geometry.voxel_mm),
        "affine_lps": images.affine_lps.tolist(),
        "stated": images.geometry.stated,
        "notes": list(images.notes),
    }
    report["outputs"], failed = write_outputs(out, images, outputs)
    if outputs:
        report["notes"] += [*images.notes, *failed]
    report["removed"] = [name for name in before if name not in report["outputs"]]
    _write_h5(out / "reconstruction.h5", acquisition, result, report, keep_smaps)
    shown = [i for i, index in enumerate(acquisition.slice_indices) if index not in result.failed]
    with _costing_itself("panel.png", report):
        (out / "panel.png").unlink(missing_ok=True)  # an older one would pass for this one's
        save_panel(out / "panel.png", **describe_panel(acquisition, result, shown[len(shown) // 2]))
    write_json(out / "metrics.json", report)
    for name in report["removed"]:
        remove_output(out, name)
    return report


def earlier_outputs(out: Path) -> list[str]:
    """Return the outputs in `out` that an earlier reconstruction listed in its `metrics.json`; no other file is its."""
    report = _read_report(out / "metrics.json")
    if "config" not in report or "kdrift" not in report.get("versions", {}):  # another program's
        return []
    paths = [Path(name) for name in report.get("outputs") or []]
    return [str(path) for path in paths if ".." not in path.parts and not path.is_absolute() and (out / path).exists()]


def earlier_objects(remote: Remote) -> list[str]:
    """Return the objects at a URL that an earlier reconstruction wrote there, or a batch: what `save_result` is to
    know."""
    try:
        report = remote.read_object("metrics.json")
        listed = (*RESULTS, MARK, *map(str, report.get("outputs") or ()))
    except (ValueError, AttributeError):  # another program's
        return []
    return [name for name in remote.names() if any(name == each or name.startswith(f"{each}/") for each in listed)]


def _read_report(path: Path) -> dict[str, Any]:
    """Return what a JSON file of ours says, nothing where it is none."""
    try:
        found = read_json(path)
    except (ValueError, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def image_set(acquisition: AcquisitionFacts, result: ReconstructionResult) -> ImageSet:
    """Return what outputs are written from."""
    geometry, notes = place_of(acquisition.info, *acquisition.image_shape)
    images = {"mean": result.mean} | ({"std": result.std} if result.nfe else {})
    images |= {"lower": result.lower, "upper": result.upper} if bool(result.std.any()) else {}
    return ImageSet(
        acquisition.info.name,
        {kind: acquisition.crop(values).numpy() for kind, values in images.items()},
        geometry,
        acquisition.slice_indices[0],
        method_line(result.config, result.nfe, acquisition.sampling),
        acquisition.info.attrs,
        tuple(result.verdict_of(index) for index in result.numbers),
        notes,
    )


@contextlib.contextmanager
def _costing_itself(what: str, report: dict[str, Any]) -> Iterator[None]:
    """Note that something beside the images could not be made, and go on."""
    try:
        yield
    except Exception as error:  # whatever it is: the reconstruction is not lost for it
        report["notes"].append(f"{what} could not be written: {one_line(error)}")


def check_outputs(out: Path, source: str) -> None:
    """Raise ValueError where results could not be written into the folder `out`, before anything is computed.

    `source` is what is read: no result may take its place.
    """
    read = Path(source)
    if read.is_file() and any(each.is_file() and each.samefile(read) for each in out.glob("*")):
        raise ValueError(f"{source} lies in {out}, where results would be written over it: name another folder")
    check_folder(out, RESULTS)


def measurements(acquisition: AcquisitionFacts, result: ReconstructionResult) -> dict[str, Any]:
    """Return quality (where there is a reference), cost, configuration and versions as plain values."""
    info = acquisition.info
    report: dict[str, Any] = {
        "volume": info.name,
        "slices": acquisition.slice_indices,
        "simulated": bool(info.attrs.get("simulated", False)),
        "notes": list(dict.fromkeys((*acquisition.notes, *result.notes, *failure_lines(result.failed)))),
        "sampling": acquisition.sampling,
        "net_acceleration": acquisition.net_acceleration,
        "reference": acquisition.reference_definition or None,
    }
    if acquisition.reference_fit is not None:
        report["reference_fit"] = {
            **asdict(acquisition.reference_fit),
            "doubts": list(acquisition.reference_fit.doubts),
        }
    if acquisition.reference is not None:
        report |= _quality(acquisition, result, report)
    report |= trust_entries(acquisition, result)
    report |= {
        "nfe": result.nfe,
        "network_images": result.network_images,
        "seconds": result.seconds,
        "stages_seconds": result.stages,
        "data_residual": result.data_residual,
        "noise_sigma": result.noise_sigma,
        "noise_source": result.noise_source,
        "diverged": {str(index): {str(k): why for k, why in found.items()} for index, found in result.diverged.items()},
        "fallback": result.fallback,
        "failed": {str(index): why for index, why in result.failed.items()},
        "seed": result.config["seed"],
        "config": result.config,
        "versions": {
            "python": platform.python_version(),
            **{p: importlib.metadata.version(p) for p in PACKAGES},
        },
        "hardware": {"device": str(result.mean.device), "threads": torch.get_num_threads()},
    }
    return report


def _quality(acquisition: AcquisitionFacts, result: ReconstructionResult, report: dict[str, Any]) -> dict[str, Any]:
    """Return the figures against the reference, of the slices that did not fail and whose reference is not zero.

    A figure that cannot be told is left out; what is left out is noted.
    """
    assert acquisition.reference is not None
    done = [i for i, index in enumerate(acquisition.slice_indices) if index not in result.failed]
    empty = [i for i in done if not acquisition.reference[i].any()]
    if 0 < len(empty) < len(done):
        done = [i for i in done if i not in empty]
        which = ", ".join(str(acquisition.slice_indices[i]) for i in empty)
        report["notes"].append(f"the reference is zero in slice {which}: left out of the figures")
    mean, std, zero = (acquisition.crop(images)[done] for images in (result.mean, result.std, result.zero_filled))
    reference, found, failed = acquisition.reference[done], dict[str, Any](), dict[str, str]()
    for key, images in (("metrics", mean), ("metrics_zero_filled", zero)):
        values = {}
        for name, metric in METRICS.items():
            try:
                values[name] = metric.function(reference, images)
            except ValueError as error:
                failed[name] = str(error)
        found |= {key: values} if values else {}
    found["definitions"] = {name: f"{metric.definition} [{metric.unit}]" for name, metric in METRICS.items()}
    report["notes"] += [f"no {name.upper()}: {why}" for name, why in failed.items()]
    found["by_slice"] = _by_slice([acquisition.slice_indices[i] for i in done], reference, mean, std)
    found["definitions"]["by_slice"] = SLICE_FIGURES
    figures, definitions, notes = trust_figures(mean, std, reference, result.config["level"])
    report["notes"] += notes
    found["definitions"] |= definitions
    return found | figures


def _by_slice(
    numbers: Sequence[int], reference: torch.Tensor, mean: torch.Tensor, std: torch.Tensor
) -> dict[str, dict[str, float]]:
    """Return the figures of each slice `(slice, row, col)` whose reference is not zero, by its number."""
    found = {}
    for index, truth, image, deviation in zip(numbers, reference, mean, std, strict=True):
        if not bool(truth.any()) or min(truth.shape) < WINDOW:
            continue
        found[str(index)] = {name: metric.function(truth, image, per="slice") for name, metric in METRICS.items()}
        if bool(deviation.any()):
            found[str(index)]["deviation"] = float(deviation.square().mean().sqrt() / truth.abs().max())
    return found


def _write_h5(
    path: Path,
    acquisition: AcquisitionFacts,
    result: ReconstructionResult,
    report: dict[str, Any],
    keep_smaps: bool,
) -> None:
    mean = acquisition.crop(result.mean).numpy()
    with whole_file(path) as temporary, h5py.File(temporary, "w") as file:
        file["reconstruction"] = mean
        file["std"] = acquisition.crop(result.std).numpy()
        if bool(result.std.any()):
            file["lower"], file["upper"] = (acquisition.crop(x).numpy() for x in (result.lower, result.upper))
        file["zero_filled"] = acquisition.crop(result.zero_filled).numpy()
        file["mask"] = result.mask.numpy()
        if result.samples is not None:
            file["samples"] = acquisition.crop(result.samples).numpy()
        if keep_smaps and result.smaps is not None:
            file["smaps"] = result.smaps.numpy()
        if acquisition.reference is not None:
            file["reference"] = acquisition.reference.numpy()
        file.attrs["max"] = float(mean.max())
        file.attrs["norm"] = float(np.linalg.norm(mean.astype(np.float64)))
        file.attrs["kdrift"] = json.dumps(report)
        file.attrs["source"] = json.dumps(dict(acquisition.info.attrs))
        file.attrs["notice"] = RESEARCH_ONLY
        file.attrs["verdict"] = "\n".join(result.verdict_lines)
        file.attrs["level"] = result.config["level"]  # of the intervals from lower to upper
        file.attrs["voxel_mm"] = report["geometry"]["voxel_mm"]
        file.attrs["affine_lps"] = report["geometry"]["affine_lps"]  # (row, col, slice, 1) to mm
        if report["notes"]:
            file.attrs["notes"] = "\n".join(report["notes"])
        if result.failed:
            file.attrs["failed_slices"] = np.array(list(result.failed), dtype=np.int64)  # these are zero
        if result.diverged:
            file.attrs["diverged"] = "\n".join(divergence_lines(result.diverged, result.fallback))
            file.attrs["fallback_slices"] = np.array(result.fallback, dtype=np.int64)  # these are CG-SENSE
        for key in ("acquisition", "patient_id", "simulated"):
            if key in acquisition.info.attrs:
                file.attrs[key] = acquisition.info.attrs[key]


def describe_panel(acquisition: AcquisitionFacts, result: ReconstructionResult, position: int) -> dict[str, Any]:
    """Return what `panel_figure` shows of one slice, by its position among those reconstructed."""
    config, index = result.config, acquisition.slice_indices[position]
    label = " ".join(part for part in (config["method"], config["preset"]) if part)
    samples = f", {config['num_samples']} samples, {result.nfe} evaluations a chain" if result.nfe else ""
    kind = "simulated, " if acquisition.info.attrs.get("simulated", False) else ""
    number = f", slice {index}" if acquisition.info.num_slices > 1 else ""
    verdict = result.verdict_of(index)
    fallback, lost = index in result.fallback, len(result.diverged.get(index, {}))
    doubtful = acquisition.reference_fit is not None and acquisition.reference_fit.doubts
    note = ": all diverged, this is CG-SENSE" if fallback else f", {lost} of them diverged and left out" if lost else ""
    return {
        "zero_filled": acquisition.crop(result.zero_filled)[position],
        "mean": acquisition.crop(result.mean)[position],
        "std": acquisition.crop(result.std)[position] if result.nfe and not fallback else None,
        "reference": None if acquisition.reference is None else acquisition.reference[position],
        "mask": result.mask if result.mask.ndim == 2 else result.mask[position],
        "title": f"{acquisition.info.name}{number}: {kind}{acquisition.sampling}\n"
        f"{label}{samples}{note}, {result.seconds:.0f} s",
        "captions": {"reference": "does not fit: figures are doubtful"} if doubtful else None,
        "mean_title": _shown_as(verdict, fallback) or ("posterior mean" if result.nfe else config["method"]),
        "verdict": (verdict.level, str(verdict)) if result.nfe else None,
        "outlines": {
            region.name: acquisition.crop(region.mask)[position]
            for region in result.regions
            if bool(region.mask[position].any())
        },
    }


def _shown_as(verdict: Verdict, fallback: bool) -> str:
    """Return what is shown in place of the mean, where something is."""
    if verdict.given:
        return f"{NAMES[verdict.given]} ({verdict.level}: fallback)"
    return "CG-SENSE (fallback)" if fallback else ""
