"""What a prior says of itself: its noise, its scale, what it was measured to do, and what it was made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kdrift.mri.image_scale import ImageScale
from kdrift.runs.config import parse, to_dict
from kdrift.runs.hint import suggest
from kdrift.sde import PROCESSES, Noise, NoiseProcess

__all__ = [
    "CardText", "DataSource", "ImageScale", "ImportedFrom", "NoiseLeft", "Parent", "PriorInfo", "VolumeRecord",
    "info_values", "read_info",
]  # fmt: skip


@dataclass(frozen=True)
class CardText:
    """What only the one who trains knows; it stands in the model card as it is written here."""

    description: str = ""
    """Markdown: what the prior is for and what it has not seen."""
    data_licence: str = ""
    """Licence of the training data."""
    data_citation: str = ""
    """Whom to cite for the training data."""


@dataclass(frozen=True)
class NoiseLeft:
    """One row of the validation."""

    sigma: float
    """Noise level, in units of the normalised image."""
    fraction: float
    """Fraction of the noise's power that is left after denoising held-out images."""


@dataclass(frozen=True)
class VolumeRecord:
    """One volume that was trained or validated on."""

    name: str
    num_slices: int
    """Slices used, without those dropped at its ends."""
    checksum: str = ""
    """SHA-256 of the CRC-32s of the slices that its store keeps; empty for an array file, which has one of its own."""


@dataclass(frozen=True)
class DataSource:
    """One store or array file with the volumes used of it."""

    name: str
    """Its name without folders."""
    train: tuple[VolumeRecord, ...] = ()
    validation: tuple[VolumeRecord, ...] = ()
    sha256: str = ""
    """SHA-256 of an array file; empty for a store, whose volumes have checksums of their own."""


@dataclass(frozen=True)
class Parent:
    """A prior whose weights training started from."""

    name: str
    sha256: str
    """SHA-256 of its weights."""


@dataclass(frozen=True)
class ImportedFrom:
    """The published checkpoint that a prior was imported from."""

    file: str
    sha256: str
    family: str
    """Family of published checkpoints, a key of `kdrift.prior.published.FAMILIES`."""
    weights: Literal["ema", "model"]
    """The moving average, or the weights of the last step."""
    step: int | None = None
    """Training step; None where the file does not say it."""


@dataclass(frozen=True)
class PriorInfo:
    """What a bundle says of its network, beside its architecture."""

    process: NoiseProcess | None
    """The noise it removes, at levels in units of the normalised image; None for a network that reconstructs."""
    scale: ImageScale = field(default_factory=ImageScale)
    """How its images were scaled; a slice is scaled alike before it is reconstructed."""
    noise_left: tuple[NoiseLeft, ...] = ()
    """What validation measured by noise level, at the end of training."""
    figures: dict[str, float] = field(default_factory=dict)
    """What validation measured of a network that reconstructs, by name; of a prior there are none."""
    images: int | None = None
    """Training images seen; None for a prior that kdrift did not train."""
    data: tuple[DataSource, ...] = ()
    """What it was trained and validated on."""
    parents: tuple[Parent, ...] = ()
    """Priors whose weights it started from."""
    source: ImportedFrom | None = None
    """Where it was imported from; None for a prior that kdrift trained."""
    card: CardText = field(default_factory=CardText)
    """What the one who trained it says of it."""
    command: str = ""
    """The command that made it; paths of the machine are cut to names."""
    kdrift_version: str = ""
    """The kdrift that made it."""
    mlflow_run: str = ""
    """Id of its run in MLflow."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """The resolved configuration of its training; paths of the machine are cut to names."""

    @property
    def noise(self) -> Noise | None:
        """Name of the noise; None for a network that reconstructs."""
        return None if self.process is None else self.process.kind

    @property
    def sigma_range(self) -> tuple[float, float] | None:
        """Noise levels it was trained for, in units of the normalised image; None for a network that reconstructs."""
        return None if self.process is None else (self.process.sigma_min, self.process.sigma_max)


def info_values(info: PriorInfo) -> dict[str, Any]:
    """Return plain mappings, lists and scalars, from which `read_info` makes the same again."""
    process = info.process and {"kind": info.process.kind, **to_dict(info.process)}
    values = to_dict(dataclasses.replace(info, training={})) | {"process": process, "training": dict(info.training)}
    if not info.figures:
        del values["figures"]
    return values


def read_info(values: Any, where: str) -> PriorInfo:
    """Read what `info_values` made; `where` names the file in errors.

    Raises ValueError if a key is missing, unknown, or of another type.
    """
    if values is None:
        raise ValueError(
            f"{where} is missing: an older kdrift wrote this prior, and it does not say what this one needs; train it"
            " again, or import its checkpoint again"
        )
    _check_complete(PriorInfo, values, where, may_lack="figures")
    _check_complete(ImageScale, values["scale"], f"{where}: scale")
    process = values["process"]
    if process is None:
        return parse(PriorInfo, values, where)
    kind = process.get("kind") if isinstance(process, Mapping) else process
    if kind not in PROCESSES:
        raise ValueError(f"{where}: process.kind: no noise {kind!r}{suggest(str(kind), PROCESSES)}")
    settings = {key: value for key, value in process.items() if key != "kind"}
    _check_complete(PROCESSES[kind], settings, f"{where}: process")
    made = parse(PROCESSES[kind], settings, f"{where}: process")
    return parse(PriorInfo, {**values, "process": made}, where)


def _check_complete(cls: type[Any], values: Any, where: str, may_lack: str = "") -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: expected a mapping of keys to values, got {values!r}")
    missing = [each.name for each in dataclasses.fields(cls) if each.name not in {*values, may_lack}]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}: copy the bundle again, or make it anew")
