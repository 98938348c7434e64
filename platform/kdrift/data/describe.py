"""Descriptions of whatever kdrift reads or writes: stores, scans, priors, published checkpoints, results.

Nothing is unpickled as code and no array is read unless asked for: a description costs a header.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py

from kdrift.data.discover import find_scans
from kdrift.data.formats import open_volume
from kdrift.data.formats.hdf5 import hard_links
from kdrift.data.half_precision import is_half
from kdrift.data.paths import halves, split_series
from kdrift.data.same_scans import same_content, same_series
from kdrift.data.store import Store, StoredVolume, find_store, find_stored_volume
from kdrift.data.volume import AS_THE_FILE_SAYS, BadVolume, ReadOptions, Volume, VolumeInfo
from kdrift.runs.files import file_sha256

CHECKPOINTS = (".pth", ".pt", ".ckpt")
BUNDLE_FILES = ("config.yaml", "model.safetensors")
Description = dict[str, Any]


def describe(path: str, verify: bool = False, how: ReadOptions = AS_THE_FILE_SAYS) -> Description:
    """Describe a store, a volume in one, a prior bundle or a shipped prior, a checkpoint, a result, a scan, or a folder
    of scans.

    `verify` also recomputes the checksums of a store; `how` says of scans what their files cannot.

    Raises ValueError if it is none of these, naming the reason; a checkpoint that needs code to be unpickled is
    refused, and so is `how` beside anything but scans.
    """
    description = _described(path, verify, how)
    if how != AS_THE_FILE_SAYS and description["what"] not in ("scan", "folder of scans"):
        raise ValueError(f"{path} is a {description['what']}: select, axes and centred say how a scan is read")
    return description


def _described(path: str, verify: bool, how: ReadOptions) -> Description:
    if (store := find_store(path)) is not None:
        return _describe_store(store, verify)
    in_folder = "/" in path.rstrip("/") and not os.path.isfile(path)
    if in_folder and (volume := find_stored_volume(path)) is not None:
        return {"what": "stored volume", "path": path, **_stored(volume)}
    if "://" in path:
        return _describe_scan(path, how)
    if not any(map(os.path.exists, (path, split_series(path)[0], *halves(path, (".cfl", ".hdr"))))):
        from kdrift.prior.bundle import find_prior, shipped_priors

        if path in shipped_priors():
            return _describe_bundle(find_prior(path))
        raise ValueError(f"{path}: no such file or folder")
    if all((Path(path) / name).is_file() for name in BUNDLE_FILES):
        return _describe_bundle(Path(path))
    if path.endswith(".safetensors"):
        return {"what": "weights", "path": path, **_safetensors(path)}
    if path.endswith(CHECKPOINTS):
        return _describe_checkpoint(path)
    if os.path.isfile(path) and h5py.is_hdf5(path):
        with h5py.File(path, "r", locking=False) as file:
            names = hard_links(file)
            if "reconstruction" in names and "kspace" not in names:
                return _describe_result(path, file, names)
    if os.path.isdir(path):
        return _describe_folder(path, how)
    return _describe_scan(path, how)


def to_text(description: Mapping[str, Any], indent: str = "") -> str:
    """Format a description as indented `key: value` lines."""
    lines: list[str] = []
    for key, value in description.items():
        if isinstance(value, Mapping):
            lines.append(f"{indent}{key}:" + ("" if value else " none"))
            lines += [to_text(value, indent + "  ")] if value else []
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines.append(f"{indent}{key}:")
            for item in value:
                first, *rest = to_text(item, indent + "    ").split("\n")
                lines += [f"{indent}  - {first.strip()}", *rest]
        elif key == "notes" and value:  # sentences, which have commas themselves
            lines += [f"{indent}{key}:", *(f"{indent}  - {note}" for note in value)]
        elif isinstance(value, list):
            lines.append(f"{indent}{key}: {', '.join(map(str, value)) or 'none'}")
        else:
            lines.append(f"{indent}{key}: {value}")
    return "\n".join(lines)


def _describe_store(store: Store, verify: bool) -> Description:
    root = store.root_attributes()
    damaged: list[str] = []
    volumes = [store.read_volume(name) for name in store.list_volumes(lambda error: damaged.append(str(error)))]
    shown = ("name", "kind", "shape", "recon_size", "arrays", "precision")
    description = {
        "what": "store",
        "path": store.location,
        "schema": f"{root['schema']} {root['version']}",
        "num_volumes": len(volumes),
        "num_slices": sum(volume.info.num_slices for volume in volumes),
        "volumes": [{key: entry[key] for key in shown if key in entry} for entry in map(_stored, volumes)],
    }
    if verify or damaged:
        description["faults"] = store.verify() if verify else damaged
    return description


def _stored(volume: StoredVolume) -> Description:
    attributes = volume.attributes
    described = _info(volume.info)
    if volume.info.has_reference and not volume.is_truth_stored and volume.info.kind == "kspace":
        described["reference"] = "no (target was computed of this k-space)"
    return {
        **described,
        "arrays": volume.array_names,
        **({"precision": "float16, with a power of two for each slice"} if is_half(attributes) else {}),
        "derived": attributes.get("derived", []),
        "source": attributes.get("source", {}),
        "written_by": attributes.get("written_by", ""),
    }


def _describe_scan(path: str, how: ReadOptions) -> Description:
    with open_volume(path, how) as volume:
        description = {"what": "scan", "path": path, **_info(volume.info)}
        if volume.info.kind == "kspace":
            description["sampling"], doubts = _middle(volume)
            description["notes"] += [note for note in doubts if note not in description["notes"]]
        return description


def _middle(volume: Volume) -> tuple[str, tuple[str, ...]]:
    """Return what was measured of the middle slice, in words, and what is doubtful; the others are not read."""
    middle = volume.info.num_slices // 2
    try:
        kspace = volume.read_kspace(middle, middle + 1)
        found = volume.sampling(kspace, middle)
    except ValueError as error:
        return f"slice {middle} cannot be read: {error}", ()
    try:
        doubts = volume.doubts(kspace, middle)
    except BadVolume as error:
        doubts = (error.reason,)
    notes = (*doubts, *found.notes)
    if not found.measured.any():
        return f"nothing: slice {middle} is zero in all coils", notes
    return "full" if found.is_complete else f"{found.net_acceleration:.2f}x net, by {found.origin}", notes


def _info(info: VolumeInfo) -> Description:
    sizes = (info.num_slices, *([info.num_coils] if info.kind == "kspace" else []), info.rows, info.cols)
    return {
        "name": info.name,
        "kind": info.kind,
        "shape": f"{' x '.join(map(str, sizes))} ({'slice, coil' if info.kind == 'kspace' else 'slice'}, row, col)",
        "recon_size": f"{info.recon_rows} x {info.recon_cols}",
        "sampling": "undersampled (has a mask)" if info.has_mask else "full, or not stated",
        "reference": "yes" if info.has_reference else "no",
        **({"phase": "measured (complex images)"} if info.has_phase else {}),
        "voxel": info.geometry.fov_text if info.geometry else "not stated",
        "notes": list(info.notes),
        "attributes": dict(info.attrs),
    }


def _describe_folder(path: str, how: ReadOptions) -> Description:
    found = find_scans(path)
    if not found.sources:
        nothing = f"{path} is a folder without a store, a prior, or a file of a known format"
        raise ValueError(f"{nothing}; {found.left_out}" if found.left_out else nothing)
    doubts = (*same_series(found.series), *same_content(found.sources))
    said = [sentence for sentence in (found.left_out, *doubts) if sentence]
    if found.sources == (path,):
        return {**_describe_scan(path, how), **({"folder": said} if said else {})}
    scans = []
    for source in found.sources:
        try:
            description = _describe_scan(source, how)
            scans.append({key: description[key] for key in ("path", "kind", "shape")})
        except ValueError as error:
            scans.append({"path": source, "kind": "unreadable", "reason": str(error).removeprefix(f"{source}: ")})
    return {"what": "folder of scans", "path": path, "num_scans": len(scans), "notes": said, "scans": scans}


def _describe_bundle(path: Path) -> Description:
    import yaml

    config_file, model_file = (path / name for name in BUNDLE_FILES)
    try:
        config = yaml.safe_load(config_file.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{config_file}: not valid YAML: {error}") from None
    description = {
        "what": "prior",
        "path": str(path),
        **_serves(path),
        "files": sorted(file.name for file in path.iterdir() if file.is_file()),
        "sha256": file_sha256(model_file),
        "config": config,
        **_safetensors(str(model_file)),
    }
    cards = [file for file in path.iterdir() if file.name.lower() in ("card.md", "readme.md", "model_card.md")]
    if cards:
        lines = [line.strip("# ").strip() for line in cards[0].read_text().splitlines()]
        description["card"] = next((line for line in lines if line), "(empty)")
    return description


def _serves(path: Path) -> Description:
    """Return what a prior was trained for and the methods it can serve; none where its configuration is unreadable."""
    from kdrift.methods import methods_for
    from kdrift.prior.bundle import WEIGHTS, check_sums, read_config, task_of
    from kdrift.prior.calibration_file import read_calibrations

    try:
        network, info = read_config(path)
        task = task_of(network, info)
        calibrations = read_calibrations(path, check_sums(path)[WEIGHTS])
    except (ValueError, OSError) as error:  # whatever the file has is described all the same
        return {"problem": str(error), "serves": []}
    serves = methods_for(task, network.images)
    calibrated = {
        f"{each.name}, {each.settings['method']}, {each.num_samples} samples": (
            f"{each}: deviation times {each.pixel:.2f}, from {each.slices} slices"
        )
        for each in calibrations
    }
    return {"trained_for": task, "serves": serves} | ({"calibrated": calibrated} if calibrated else {})


def _safetensors(path: str) -> Description:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file: {error}") from None
    return {**_tensors(shapes), "metadata": metadata}


def _describe_checkpoint(path: str) -> Description:
    from kdrift.prior.checkpoint_file import read_checkpoint, unpack
    from kdrift.prior.published import infer

    content = read_checkpoint(path)
    recognised: Description = {}
    with contextlib.suppress(ValueError):  # a checkpoint of something else is described all the same
        family, config = infer(unpack(content))
        recognised = {"family": family, "network": {config.architecture: dataclasses.asdict(config.config)}}
    entries = (
        content.items() if isinstance(content, Mapping) else enumerate(content) if isinstance(content, list) else []
    )
    return {
        "what": "checkpoint",
        "path": path,
        "layout": _layout(content),
        **recognised,
        "entries": {str(key): _entry(value) for key, value in entries},
    }


def _layout(content: Any) -> str:
    """Name the family of published checkpoints by its keys (score_sde, NCSNv2, EDM)."""
    if isinstance(content, Mapping):
        keys = set(content)
        if {"model", "ema", "step"} <= keys:
            return "score_sde_pytorch (optimizer, model, ema, step)"
        if {"net", "ema"} <= keys:
            return "EDM-style (net, ema, optimizer, scheduler)"
        return "tensors by name" if all(hasattr(value, "shape") for value in content.values()) else "mapping"
    if isinstance(content, list):
        return "NCSNv2 list (model, optimizer, epoch, step, ema)" if len(content) >= 4 else "list"
    return type(content).__name__


def _entry(value: Any) -> Any:
    if hasattr(value, "shape"):
        return f"{'x'.join(map(str, value.shape)) or 'scalar'} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        tensors = {str(key): tuple(item.shape) for key, item in value.items() if hasattr(item, "shape")}
        others = {str(key): _entry(item) for key, item in value.items() if not hasattr(item, "shape")}
        return {**(_tensors(tensors) if tensors else {}), **others}
    if isinstance(value, (list, tuple)):
        tensors = {str(i): tuple(item.shape) for i, item in enumerate(value) if hasattr(item, "shape")}
        return _tensors(tensors) if tensors else f"{len(value)} entries"
    return value if isinstance(value, (int, float, str, bool)) or value is None else type(value).__name__


def _tensors(shapes: Mapping[str, tuple[int, ...]]) -> Description:
    return {
        "num_tensors": len(shapes),
        "num_parameters": sum(math.prod(shape) for shape in shapes.values()),
        "tensors": {key: "x".join(map(str, shape)) or "scalar" for key, shape in shapes.items()},
    }


def _describe_result(path: str, file: h5py.File, names: list[str]) -> Description:
    arrays = {
        key: f"{' x '.join(map(str, node.shape)) or 'scalar'} {node.dtype}"
        for key, node in ((key, file[key]) for key in names)
        if isinstance(node, h5py.Dataset)
    }
    attrs = {key: value.tolist() if hasattr(value, "tolist") else value for key, value in file.attrs.items()}
    attrs = {key: value.decode() if isinstance(value, bytes) else value for key, value in attrs.items()}
    attrs |= {"notes": attrs["notes"].splitlines()} if "notes" in attrs else {}
    with contextlib.suppress(ValueError, KeyError):
        attrs["kdrift"] = json.loads(attrs["kdrift"])
    return {"what": "reconstruction", "path": path, "arrays": arrays, "attributes": attrs}
