"""A prior is a folder: `model.safetensors`, `config.yaml`, `README.md` (its card) and `SHA256SUMS`."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from kdrift.networks import Images, NetworkConfig, build_network
from kdrift.prior.network_score import NetworkScore
from kdrift.runs.config import parse, suggest, to_dict
from kdrift.runs.files import whole_folder
from kdrift.sde import SDE, VESDE, AttenuatedSDE, HighFrequencySDE, LowFrequencies, Noise

SHIPPED = Path(__file__).parent / "shipped"
WEIGHTS, CONFIG, CARD, SUMS = "model.safetensors", "config.yaml", "README.md", "SHA256SUMS"


@dataclass(frozen=True)
class Prior:
    """A trained network and what is needed to use it."""

    name: str
    network: nn.Module
    """The bare module, called `(x: (batch, channels, row, col), sigma: (batch,))`, in eval mode; where the network is
    conditioned on something else (`network_config.conditioning`), that is its second input, as it was published."""
    network_config: NetworkConfig
    metadata: dict[str, Any]
    """What training recorded: `sigma_min`, `sigma_max`, `noise`, `low_frequencies` or `attenuation`, `scale_quantile`,
    data; of an imported prior also `image_scale` and `source`."""
    sha256: str
    """Of the weights file; names the prior in every result."""

    def score(self, *, max_images: int = 8, fast: bool | None = None) -> NetworkScore:
        """Return the score model of complex images (a one-channel prior scores both parts)."""
        return NetworkScore(
            self.network,
            returns=self.network_config.returns,
            channels=self.network_config.channels,
            conditioning=self.network_config.conditioning,
            project=None if self.noise != "high_frequency" else lambda x: self.sde(*x.shape[-2:]).project(x),
            scale=self.image_scale,
            size_multiple=self.network_config.size_multiple,
            max_images=max_images,
            fast=fast,
        )

    @property
    def noise(self) -> Noise:
        """What noise the prior was trained to remove, which decides the methods it can serve."""
        kind: Noise = self.metadata.get("noise", "white")
        return kind

    def sde(self, rows: int, cols: int) -> SDE | AttenuatedSDE:
        """Return the noise the prior was trained to remove from images of this size, over its range of levels."""
        levels = VESDE(*self.sigma_range)
        if self.noise == "white":
            return levels
        if self.noise == "attenuated":
            return AttenuatedSDE(*self.sigma_range, **self.metadata["attenuation"])
        low = parse(LowFrequencies, self.metadata["low_frequencies"], f"prior {self.name}: low_frequencies")
        return HighFrequencySDE(levels, low.mask(rows, cols).to(next(self.network.parameters()).device))

    @property
    def image_scale(self) -> float:
        """The 0.99 quantile of the network's images, where the normalised image has 1."""
        return float(self.metadata.get("image_scale", 1.0))

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Noise levels the prior was trained for, in units of the normalised image."""
        scale = self.image_scale
        return float(self.metadata["sigma_min"]) / scale, float(self.metadata["sigma_max"]) / scale


def shipped_priors() -> list[str]:
    """Names of the priors that come with kdrift."""
    return sorted(file.parent.name for file in SHIPPED.glob(f"*/{WEIGHTS}"))


@functools.cache  # files of the package, 30 ms to read
def shipped_for(noise: Noise, images: Images | None = None) -> tuple[str, ...]:
    """Names of the shipped priors that were trained to remove this noise, from images of this kind if one is given."""
    configs = {name: yaml.safe_load((SHIPPED / name / CONFIG).read_text()) for name in shipped_priors()}
    able = {name: config for name, config in configs.items() if config["metadata"].get("noise", "white") == noise}
    kinds = {name: parse(NetworkConfig, config["network"], name).images for name, config in able.items()}
    return tuple(name for name, kind in kinds.items() if images in (None, kind))


def load_prior(name_or_path: str | Path, device: str | torch.device = "cpu") -> Prior:
    """Load a shipped prior by name or any bundle by the path of its folder; the checksum is verified.

    Raises
    ------
    ValueError
        When there is no such prior, a file is missing or damaged, or a parameter is missing or left over.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        folder = SHIPPED / str(name_or_path)
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"no prior {str(name_or_path)!r}: neither a shipped name nor a folder with {WEIGHTS}"
            f"{suggest(str(name_or_path), shipped_priors())}"
        )
    sums = read_sums(folder)
    for file in (WEIGHTS, CONFIG):
        if sums.get(file) != file_sha256(folder / file):
            raise ValueError(f"prior {folder}: {file} does not match {SUMS}; copy the folder again")
    config = yaml.safe_load((folder / CONFIG).read_text())
    network_config = parse(NetworkConfig, config["network"], f"{folder / CONFIG}: network")
    network = build_network(network_config)
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ValueError(f"prior {folder}: weights do not fit {CONFIG}: {first}") from None
    network = network.to(device).eval().requires_grad_(False)
    return Prior(folder.resolve().name, network, network_config, dict(config["metadata"]), sums[WEIGHTS])


def save_prior(
    folder: str | Path,
    network: nn.Module,
    network_config: NetworkConfig,
    *,
    card: str,
    metadata: Mapping[str, Any],
) -> Path:
    """Write a bundle; it appears whole or not at all, and replaces an older one of the same path.

    `metadata` needs `sigma_min` and `sigma_max`, the noise levels the network was trained for.
    """
    missing = {"sigma_min", "sigma_max"} - set(metadata)
    if missing:
        raise ValueError(f"prior metadata lacks {', '.join(sorted(missing))}")
    folder = Path(folder)
    with whole_folder(folder, replace=True) as temporary:
        weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
        save_file(weights, temporary / WEIGHTS)
        others = {"ncsnpp", "ddpm", "ncsnv2"} - {network_config.architecture}
        network_values = {key: value for key, value in to_dict(network_config).items() if key not in others}
        config = {"network": network_values, "metadata": dict(metadata)}
        (temporary / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
        (temporary / CARD).write_text(card)
        lines = [f"{file_sha256(temporary / file)}  {file}\n" for file in (WEIGHTS, CONFIG, CARD)]
        (temporary / SUMS).write_text("".join(lines))
    return folder


def read_sums(folder: Path) -> dict[str, str]:
    """Read `SHA256SUMS` as a mapping from file name to digest."""
    if not (folder / SUMS).is_file():
        raise ValueError(f"prior {folder}: {SUMS} is missing; a bundle is written by kdrift train")
    pairs = (line.split(maxsplit=1) for line in (folder / SUMS).read_text().splitlines() if line.strip())
    return {name.strip(): digest for digest, name in pairs}


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
