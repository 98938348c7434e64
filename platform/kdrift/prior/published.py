"""Published checkpoints of score networks as priors: no code is unpickled, the configuration comes from the shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

import kdrift
from kdrift.mri.image_scale import ImageScale, ScaleRule
from kdrift.networks import Architecture, Conditioning, NetworkConfig, build_network
from kdrift.networks.infer import infer_architecture, infer_settings
from kdrift.prior.bundle import WEIGHTS, check_name, save_prior
from kdrift.prior.checkpoint_file import Published, State, read_checkpoint, unpack
from kdrift.prior.prior_info import ImportedFrom, PriorInfo
from kdrift.runs.command_line import command_line
from kdrift.runs.config import parse
from kdrift.runs.files import file_sha256
from kdrift.runs.hint import suggest
from kdrift.sde import AttenuationConfig, LowFrequencies, Noise, NoiseConfig, NoiseProcess


@dataclass(frozen=True)
class Family:
    """What the files of a family do not say."""

    architecture: Architecture | None
    """Its network; None: any, wrapped in EDM preconditioning."""
    conditioning: Conditioning
    """Second input of the network."""
    noise: Noise
    """What it was trained to remove."""
    sigma_min: float
    """Lowest noise level, where the file has no table of levels."""
    sigma_max: float
    """Highest noise level, where the file has no table of levels."""
    network: Mapping[str, Any]
    """Settings that shapes do not show."""
    preconditioning: str = "none"
    """What the network returns."""


FAMILIES = {
    "score-mri": Family("ncsnpp", "sigma", "white", 0.01, 378.0, {"centered": False}),
    "hfs-sde": Family("ddpm", "std", "high_frequency", 0.0105, 152.0, {"centered": False}),  # beta 0.1..20, t 0.001..1
    "ncsnv2": Family("ncsnv2", "level", "white", 0.0066, 232.0, {"centered": False}),
    "edm": Family(None, "sigma", "white", 0.002, 80.0, {"centered": True}, "edm"),
    "ak-diffusion": Family("ncsnpp", "sigma", "attenuated", 0.01, 1.0, {"centered": False}, "bare_residual"),
}


@dataclass(frozen=True)
class ImportOptions:
    """What a checkpoint does not say; None: as its family has it."""

    weights: Literal["ema", "model"] = "ema"
    """The moving average, which is what publications infer with, or the weights of the last step."""
    network: dict[str, Any] = field(default_factory=dict)
    """Settings of the architecture over those that were inferred, e.g. `network.centered=true`."""
    conditioning: Conditioning | None = None
    """Second input of the network; `sigma` for the DDPM networks of VE models."""
    noise: Noise | None = None
    """What the network was trained to remove: `white`, `high_frequency` for HFS-SDE, `attenuated` for AK-Diffusion."""
    low: LowFrequencies = field(default_factory=lambda: LowFrequencies("columns", 0.05))
    """The centre of k-space that stayed free of noise (noise high_frequency); the default is the released code's."""
    b_min: float = 0.5
    """b of the mildest attenuation it was trained for (noise attenuated); the released code's."""
    b_max: float = 24.0
    """b of the strongest attenuation."""
    sigma_min: float | None = None
    """Lowest noise level it was trained for, in units of its training images."""
    sigma_max: float | None = None
    """Highest noise level it was trained for."""
    sigma_data: float = 0.5
    """Standard deviation of the training images (family edm)."""
    scale: ScaleRule = "quantile"
    """What of a slice's magnitudes becomes image_scale: a quantile, the standard deviation (std), the maximum (max)."""
    quantile: float = 0.99
    """Which quantile (scale quantile)."""
    image_scale: float = 1.0
    """What the rule gives of its training images; reconstructions are scaled to it."""

    def __post_init__(self) -> None:
        if self.image_scale <= 0 or self.sigma_data <= 0:
            raise ValueError(f"image_scale and sigma_data must be > 0, got {self.image_scale} and {self.sigma_data}")
        ImageScale(self.scale, self.quantile)  # raises where the quantile is none


def infer(
    published: Published, family: str | None = None, options: ImportOptions | None = None
) -> tuple[str, NetworkConfig]:
    """Return the family and the configuration of the network; ValueError says which key tells against it."""
    options = options or ImportOptions()
    shapes = {key: tuple(value.shape) for key, value in published.model.items()}
    architecture = infer_architecture(shapes)
    family = family or _family(published, architecture)
    if family not in FAMILIES:
        raise ValueError(f"no family {family!r}{suggest(family, FAMILIES)}")
    known = FAMILIES[family]
    if known.architecture not in (None, architecture):
        raise ValueError(
            f"family {family} is of {known.architecture} networks, key {next(iter(shapes))} is of {architecture}"
        )
    size = options.network.get("image_size", 320)
    if not isinstance(size, int):
        raise ValueError(f"network.image_size is a whole number, got {size!r}")
    settings = {**infer_settings(architecture, shapes, size), **known.network}
    if architecture == "ncsnv2":
        table = published.model["sigmas"].double()
        settings |= {"sigma_max": float(table.max()), "sigma_min": float(table.min())}
    elif architecture == "ncsnpp":
        settings["scale_by_sigma"] = family != "edm"
    if settings["channels"] not in (1, 2):
        raise ValueError(f"the network is of images with {settings['channels']} channels, MR images have 1 or 2")
    values = {
        "architecture": architecture,
        architecture: settings | options.network,
        "conditioning": options.conditioning or known.conditioning,
        "preconditioning": known.preconditioning,
        "sigma_data": options.sigma_data,
    }
    return family, parse(NetworkConfig, values, "inferred network")


def _family(published: Published, architecture: Architecture) -> str:
    if published.layout == "edm":
        return "edm"
    if published.layout == "list" and architecture == "ncsnpp":
        return "ak-diffusion"
    return next(name for name, known in FAMILIES.items() if known.architecture == architecture)


def import_checkpoint(
    path: str | Path, out: str | Path, family: str | None = None, options: ImportOptions | None = None
) -> Path:
    """Save a published checkpoint as a bundle and return its folder.

    The family is told from the layout and the network unless it is given. Raises ValueError naming the file and the
    first key that does not fit.
    """
    options, out = options or ImportOptions(), Path(out)
    check_name(out.resolve().name)
    if out.exists() and not (out / WEIGHTS).is_file():
        raise ValueError(f"{out} exists and is no prior: name another folder")
    content = read_checkpoint(path)
    try:
        published = unpack(content)
        family, config = infer(published, family, options)
        network = _load(published, config, options)
        process = _process(published, config, FAMILIES[family], options)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    source = ImportedFrom(Path(path).name, file_sha256(Path(path)), family, options.weights, published.step)
    scale = ImageScale(options.scale, options.quantile, options.image_scale)
    info = PriorInfo(process, scale, source=source, command=command_line(), kdrift_version=kdrift.__version__)
    return save_prior(out, network, config, info)


def _load(published: Published, config: NetworkConfig, options: ImportOptions) -> nn.Module:
    network = build_network(config)
    prefix = "network." if config.wrapped else ""
    expected = {key.removeprefix(prefix): value for key, value in network.state_dict().items()}
    trained = [key.removeprefix(prefix) for key, value in network.named_parameters() if value.requires_grad]
    state = {key: value for key, value in published.model.items() if key != "sigmas" or key in expected}
    _check(state, expected, config.architecture, "")
    if options.weights == "ema":
        if not published.ema:
            raise ValueError("it has no moving average (ema); --set weights=model takes the weights of the last step")
        state |= _averaged(published.ema, trained, expected, config.architecture)
    for key, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"key {key} holds values that are not finite")
    network.load_state_dict({prefix + key: value for key, value in state.items()})
    return network


def _averaged(ema: State | list[Tensor], trained: list[str], expected: State, architecture: str) -> State:
    """Give the moving average its names: a list is in the order of the trained parameters."""
    if isinstance(ema, list):
        if len(ema) != len(trained):
            raise ValueError(f"ema.shadow_params has {len(ema)} tensors, {architecture} has {len(trained)} parameters")
        ema = dict(zip(trained, ema, strict=True))
    state = {key: value for key, value in ema.items() if key != "sigmas" or key in expected}
    _check(state, {key: expected[key] for key in expected if key in trained or key in state}, architecture, "ema: ")
    return state


def _check(state: State, expected: Mapping[str, Tensor], architecture: str, where: str) -> None:
    """Raise ValueError naming the first key that is left over, of another shape, or missing."""
    for key, value in state.items():
        if key not in expected:
            raise ValueError(f"{where}key {key} is left over: the inferred {architecture} has no such parameter")
        if value.shape != expected[key].shape:
            shapes = f"{tuple(value.shape)}, the inferred {architecture} needs {tuple(expected[key].shape)}"
            raise ValueError(f"{where}key {key} has shape {shapes}")
    missing = next((key for key in expected if key not in state), None)
    if missing is not None:
        raise ValueError(f"{where}key {missing} of the inferred {architecture} is missing")


def _process(published: Published, config: NetworkConfig, family: Family, options: ImportOptions) -> NoiseProcess:
    """Return the noise the network removes; its levels are divided by the scale of the network's images."""
    low, high = family.sigma_min, family.sigma_max
    table = published.model.get("sigmas")
    if table is not None and config.conditioning != "std" and config.preconditioning == "none":
        low, high = float(table.min()), float(table.max())
    low = low if options.sigma_min is None else options.sigma_min
    high = high if options.sigma_max is None else options.sigma_max
    noise = NoiseConfig(
        options.noise or family.noise,
        low=options.low,
        attenuated=AttenuationConfig(options.b_min, options.b_max),
        sigma_min=low / options.image_scale,
        sigma_max=high / options.image_scale,
    )
    return noise.process
