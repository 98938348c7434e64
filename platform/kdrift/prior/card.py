"""The model card: what a prior's info says, in Markdown. Nothing in it is written by hand but `info.card`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdrift.networks import NetworkConfig
from kdrift.prior.calibration import Calibration, FigureBound
from kdrift.prior.prior_info import DataSource, PriorInfo, VolumeRecord

_SHOWN = 12
"""Volumes named in a card; `config.yaml` has all."""


def model_card(name: str, network: NetworkConfig, info: PriorInfo, calibrations: Sequence[Calibration] = ()) -> str:
    """Return the card of the prior `name`: what it is, its data, its training, what was measured with it."""
    what = "score prior for MR images" if info.process else f"{network.architecture} that reconstructs MR images"
    made = "imported from a published checkpoint" if info.source else "trained with kdrift"
    text = info.card.description.strip() or f"A {what}, {made}."
    sections = {
        "What it is": _nature(network, info),
        "Data": _data(info),
        "Origin": _origin(info),
        "Validation": _validation(info),
        "Calibration": _calibration(calibrations),
    }
    parts = [f"# {name}", text]
    parts += [f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items() if lines]
    return "\n\n".join(parts) + "\n"


def _nature(network: NetworkConfig, info: PriorInfo) -> list[str]:
    settings = ", ".join(f"{key} {value}" for key, value in vars(network.config).items())
    value = f" (of the network's own images it is {info.scale.value:g})" if info.scale.value != 1 else ""
    each = info.training.get("data", {}).get("normalise", "image")
    scale = f"- scale: {info.scale.describe()} of each {each}'s magnitudes is 1{value}"
    module = f"- network: {network.architecture} ({settings})"
    if info.sigma_range is None:
        return [module, *_measurement(info.training.get("measurement") or {}), scale]
    low, high = info.sigma_range
    lines = [
        f"- noise: {info.noise}, sigma {low:.4g} to {high:.4g} of the normalised image",
        f"- images: {network.images}", scale, module,
        f"- preconditioning: {network.preconditioning}; second input: {network.conditioning}",
    ]  # fmt: skip
    if network.wrapped:
        lines.append(f"- sigma_data: {network.sigma_data:g}")
    return lines


def _measurement(training: Mapping[str, Any]) -> list[str]:
    """Return what a network that reconstructs was shown: masks, coils, noise, and its loss."""
    if not training:
        return ["- trained on: not recorded"]
    masks = "; ".join(
        "{} at {:g} to {:g}x, centre {:.0%} to {:.0%}".format(
            mask["kind"], *mask["acceleration"], *mask["acs_fraction"]
        )
        for mask in training["masks"]
    )
    low, high = training["snr_db"]
    few, most = training["num_coils"]
    maps, critic = training["maps"] or "simulated loops", training.get("critic")
    return [
        f"- masks in training: {masks}",
        f"- coils in training: {few} to {most}, maps of {maps}; SNR {low:g} to {high:g} dB; all of it simulated",
        f"- loss: {training['loss']}" + (f", and a critic's verdict times {critic['weight']:g}" if critic else ""),
    ]


def _data(info: PriorInfo) -> list[str]:
    lines = [
        f"- licence of the data: {info.card.data_licence.strip() or 'not stated'}",
        f"- citation of the data: {info.card.data_citation.strip() or 'not stated'}",
    ]
    for source in info.data:
        lines.append(f"- {source.name}{f', sha256 {source.sha256}' if source.sha256 else ''}")
        lines += _volumes(source)
    return lines


def _volumes(source: DataSource) -> list[str]:
    if not source.train and not source.validation:
        return ["    - which volumes: not recorded"]
    return [
        f"    - {split}: {len(volumes)} volume{'s' if len(volumes) != 1 else ''} with"
        f" {sum(volume.num_slices for volume in volumes)} slices: {_names(volumes)}"
        for split, volumes in (("training", source.train), ("validation", source.validation))
        if volumes
    ]


def _names(volumes: tuple[VolumeRecord, ...]) -> str:
    names = [f"{v.name} ({v.checksum[:12]})" if v.checksum else v.name for v in volumes[:_SHOWN]]
    more = len(volumes) - len(names)
    return ", ".join(names) + (f" and {more} more, listed in config.yaml" if more else "")


def _origin(info: PriorInfo) -> list[str]:
    lines = []
    if info.source is not None:
        weights = "moving average" if info.source.weights == "ema" else "last step"
        step = "not stated" if info.source.step is None else info.source.step
        lines += [
            f"- file: {info.source.file}, sha256 {info.source.sha256}",
            f"- family: {info.source.family}; weights: {weights}, step {step}",
            "- the file says nothing of its training data or its licence: ask where it was published",
        ]
    lines += _training(info)
    lines += [f"- starts from the weights of {parent.name}, sha256 {parent.sha256}" for parent in info.parents]
    if info.kdrift_version:
        run = f", MLflow run {info.mlflow_run}" if info.mlflow_run else ""
        lines.append(f"- made by kdrift {info.kdrift_version}{run}")
    if info.command:
        lines += ["- made by the command", "", f"      {info.command}"]
    return lines


def _training(info: PriorInfo) -> list[str]:
    if info.images is None:
        return []
    training: Mapping[str, Any] = info.training
    data, average = training.get("data", {}), training.get("optimisation", {}).get("ema_halflife_images")
    lines = [f"- {info.images} training images" + (f" of {data['crop']} x {data['crop']}" if "crop" in data else "")]
    if "batch_size" in training and "seed" in training:
        lines.append(f"- batch {training['batch_size']}, seed {training['seed']}")
    if "augment_phase" in data:
        lines.append(f"- sign and phase augmentation: {data['augment_phase']}")
    if average is not None:
        lines.append(f"- weights: moving average, half-life {average:g} images")
    return lines


def _validation(info: PriorInfo) -> list[str]:
    if info.figures:
        lines = [
            "Held-out images, measured as in training; zero-filled beside it.",
            "",
            "| figure | value |",
            "|---|---|",
        ]
        return [*lines, *(f"| {name} | {value:.4f} |" for name, value in info.figures.items())]
    if not info.noise_left:
        return []
    lines = ["Fraction of the noise's power left after denoising held-out images.", ""]
    lines += ["| sigma | noise left |", "|---|---|"]
    return [*lines, *(f"| {row.sigma:g} | {row.fraction:.4f} |" for row in info.noise_left)]


def _calibration(calibrations: Sequence[Calibration]) -> list[str]:
    """Return a table of what was calibrated, and what it comes from."""
    if not calibrations:
        return []
    lines = [
        "Factors of the deviation beside the one that held-out samples give, found on scans with references; they hold",
        "on average over such scans. Coverage: of each scan's object, with the factor of the other scans. Regions:",
        "deviation of a mean over a region, as a part of its pixels'. PSNR and SSIM: in that share of slices they",
        "are at least so much above what the deviation alone predicts. `calibration.yaml` has all of it.",
        "",
        "| method | masks | factor | coverage | regions | PSNR | SSIM | scans | slices |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for each in calibrations:
        region = "-" if each.region is None else f"{each.region:.2f} of {each.region_size} x {each.region_size}"
        low, high = (f([scan.factor for scan in each.scans]) for f in (min, max))
        held = [scan.coverage for scan in each.scans if scan.coverage is not None]
        coverage = f"{min(held):.0%} to {max(held):.0%} of {each.level:.0%}" if held else "-"
        kinds = ", ".join(dict.fromkeys(str(mask.get("kind") or "a file") for mask in each.masks))
        cells = [
            str(each.settings["method"]), f"{each} (by {kinds})", f"{each.pixel:.2f} ({low:.2f} to {high:.2f})",
            coverage, region, _bound(each.figures.get("psnr"), "+.1f", " dB"),
            _bound(each.figures.get("ssim"), "+.3f", ""),
            str(len(each.scans)), str(each.slices),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    scans = {scan.name: scan for each in calibrations for scan in each.scans}
    named = ", ".join(
        f"{scan.name} ({scan.checksum[:12]}{', simulated' if scan.simulated else ''})" for scan in scans.values()
    )
    made = sorted({f"kdrift {each.kdrift_version}, {each.date}" for each in calibrations})
    return [*lines, "", f"- scans: {named}", f"- made by {'; '.join(made)}"]


def _bound(bound: FigureBound | None, form: str, unit: str) -> str:
    return "-" if bound is None else f"{bound.offset:{form}}{unit} ({bound.probability:.0%})"
