"""A prior, or a network that reconstructs, is a folder: `model.safetensors`, `config.yaml`, `README.md` (its card) and
`SHA256SUMS`; and `calibration.yaml`, where `kdrift calibrate` has measured what its deviations are worth."""

from __future__ import annotations

import functools
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from kdrift.networks import MODULES, Images, NetworkConfig, build_network
from kdrift.prior.calibration import CALIBRATION, Calibration, joined_calibrations
from kdrift.prior.calibration_file import read_calibrations, write_calibrations
from kdrift.prior.card import model_card
from kdrift.prior.network_score import NetworkScore
from kdrift.prior.prior_info import PriorInfo, info_values, read_info
from kdrift.runs import registry
from kdrift.runs.config import parse, to_dict
from kdrift.runs.files import file_sha256, whole_folder
from kdrift.runs.hint import suggest
from kdrift.runs.remote import is_url, kept_copy
from kdrift.sde import SDE, AttenuatedSDE, NoiseProcess, Task

SHIPPED = Path(__file__).parent / "shipped"
WEIGHTS, CONFIG, CARD, SUMS = registry.WEIGHTS, "config.yaml", registry.CARD, "SHA256SUMS"
_SUM = re.compile(r"(?P<digest>[0-9a-f]{64}) [ *](?P<name>[A-Za-z0-9_.-]+)")


@dataclass(frozen=True)
class Prior:
    """A trained network and what is needed to use it."""

    name: str
    network: nn.Module
    """The bare module, called `(x: (batch, channels, row, col), sigma: (batch,))`, in eval mode; where the network is
    conditioned on something else (`network_config.conditioning`), that is its second input, as it was published."""
    network_config: NetworkConfig
    info: PriorInfo
    """Its noise, the scale of its images, what it was made from."""
    sha256: str
    """SHA-256 of the weights file; names the prior in every result."""
    calibrations: tuple[Calibration, ...] = ()
    """What `kdrift calibrate` measured with it."""

    def score(self, *, max_images: int | None = None, fast: bool | None = None) -> NetworkScore:
        """Return the score model of complex images (a one-channel prior scores both parts).

        It, `sde` and `sigma_range` raise ValueError for a network that reconstructs.
        """
        return NetworkScore(
            self.network,
            returns=self.network_config.returns,
            channels=self.network_config.channels,
            conditioning=self.network_config.conditioning,
            project=self._process.projection(),
            scale=self.info.scale.value,
            size_multiple=self.network_config.size_multiple,
            max_images=max_images,
            fast=fast,
        )

    @property
    def task(self) -> Task:
        """What it was trained for, which decides the methods it can serve."""
        return task_of(self.network_config, self.info)

    @property
    def is_score(self) -> bool:
        """Whether it is a prior; else it is a network that reconstructs."""
        return self.info.process is not None

    def sde(self, rows: int, cols: int) -> SDE | AttenuatedSDE:
        """Return the noise the prior was trained to remove from images of this size, over its range of levels."""
        return self._process.sde(rows, cols, next(self.network.parameters()).device)

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Noise levels the prior was trained for, in units of the normalised image."""
        return self._process.sigma_min, self._process.sigma_max

    @property
    def _process(self) -> NoiseProcess:
        if self.info.process is None:
            raise ValueError(f"{self.name} is a {self.network_config.architecture} that reconstructs: it has no score")
        return self.info.process


def task_of(network: NetworkConfig, info: PriorInfo) -> Task:
    """Return what the network of a bundle was trained for: the noise it removes, or its architecture."""
    task = info.noise or network.reconstructs
    assert task is not None  # see `read_config`
    return task


def shipped_priors() -> list[str]:
    """Names of the priors that come with kdrift."""
    return sorted(file.parent.name for file in SHIPPED.glob(f"*/{WEIGHTS}"))


@functools.cache  # files of the package, 30 ms to read
def _shipped(name: str) -> tuple[NetworkConfig, PriorInfo]:
    return read_config(SHIPPED / name)


def shipped_for(task: Task, images: Images | None = None) -> tuple[str, ...]:
    """Names of the shipped priors that were trained for this, with images of this kind if one is given."""
    configs = {name: _shipped(name) for name in shipped_priors()}
    return tuple(
        name for name, (network, info) in configs.items()
        if task_of(network, info) == task and images in (None, network.images)
    )  # fmt: skip


def check_name(name: str, sha256: str | None = None) -> None:
    """Raise ValueError where `name` is that of a shipped prior, unless `sha256` is that of its weights."""
    if name in shipped_priors() and sha256 != read_sums(SHIPPED / name)[WEIGHTS]:
        raise ValueError(f"{name} is the name of a prior that comes with kdrift: give yours another name")


def find_prior(name_or_path: str | Path) -> Path:
    """Return the folder of a shipped prior, by name, or of any bundle, by the path of its folder.

    A text that is a shipped name always means the shipped prior; a folder of that name here is `./NAME`. A registered
    one, `models:/NAME@ALIAS` or `models:/NAME/VERSION`, is downloaded once, see `fetch_prior`; so is one at an fsspec
    URL, such as the `prior` of a training there.

    Raises ValueError when there is none, naming the nearest shipped name.
    """
    if str(name_or_path).startswith("models:"):
        return registry.fetch_prior(str(name_or_path))
    if is_url(name_or_path):
        return kept_copy(str(name_or_path), SUMS)
    if isinstance(name_or_path, str) and name_or_path in shipped_priors():
        return SHIPPED / name_or_path
    folder = Path(name_or_path).expanduser()
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"no prior {str(name_or_path)!r}: neither a shipped name nor a folder with {WEIGHTS}"
            f"{suggest(str(name_or_path), shipped_priors())}"
        )
    return folder.resolve()


def read_config(folder: Path) -> tuple[NetworkConfig, PriorInfo]:
    """Read the `config.yaml` of a bundle.

    Raises ValueError when it is no YAML, a key is missing or unknown, or an older kdrift wrote it.
    """
    where = f"prior {folder.name}: {CONFIG}"
    try:
        config = yaml.safe_load((folder / CONFIG).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{where} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(config, Mapping) or not isinstance(config.get("network"), Mapping):
        raise ValueError(f"{where} has no section network: copy the bundle again, or make it anew")
    network, info = (
        parse(NetworkConfig, config["network"], f"{where}: network"),
        read_info(config.get("info"), f"{where}: info"),
    )
    if (info.process is None) != (network.reconstructs is not None):
        raise ValueError(
            f"{where}: network {network.architecture} and process {info.noise} do not fit: score networks have a"
            " process, networks that reconstruct have none; copy the bundle again"
        )
    return network, info


def load_prior(name_or_path: str | Path, device: str | torch.device = "cpu") -> Prior:
    """Load a shipped prior by name or any bundle by the path of its folder; its checksums are verified.

    Raises ValueError when there is no such prior, a file is missing or damaged, or a parameter is missing or left over.
    """
    folder = find_prior(name_or_path)
    sums = check_sums(folder)
    network_config, info = read_config(folder)
    network = build_network(network_config)
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ValueError(f"prior {folder}: weights do not fit {CONFIG}: {first}") from None
    network = network.to(device).eval().requires_grad_(False)
    calibrations = read_calibrations(folder, sums[WEIGHTS])
    return Prior(folder.name, network, network_config, info, sums[WEIGHTS], calibrations)


def check_sums(folder: Path) -> dict[str, str]:
    """Return the digests of a bundle's files; raise ValueError where a file is missing, damaged or changed by hand."""
    sums = read_sums(folder)
    if (folder / CALIBRATION).is_file() and CALIBRATION not in sums:
        raise ValueError(
            f"prior {folder}: {SUMS} says nothing of {CALIBRATION}, which was not written by kdrift calibrate into this"
            " folder: copy the folder again, or delete the file"
        )
    for file in sums:
        if not (folder / file).is_file() or sums[file] != file_sha256(folder / file):
            again = f"cd {shlex.quote(str(folder))} && sha256sum {' '.join(sums)} > {SUMS}"
            raise ValueError(
                f"prior {folder}: {file} does not match {SUMS}: it was damaged or changed. Copy the folder again; if"
                f" you changed it on purpose, say so: {again}"
            )
    return sums


def save_prior(
    folder: str | Path,
    network: nn.Module,
    network_config: NetworkConfig,
    info: PriorInfo,
    *,
    name: str | None = None,
) -> Path:
    """Write a bundle with its model card; it appears whole or not at all, and replaces an older one of the same path.

    `name` is the card's title, by default the name of the folder.
    """
    folder = Path(folder)
    with whole_folder(folder, replace=True) as temporary:
        weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
        save_file(weights, temporary / WEIGHTS)
        others = MODULES.keys() - {network_config.architecture}
        network_values = {key: value for key, value in to_dict(network_config).items() if key not in others}
        write_description(temporary, network_values, info, name or folder.name)
    return folder


def write_description(folder: Path, network: Mapping[str, Any], info: PriorInfo, name: str) -> None:
    """Write all of a bundle but its weights, which are there: `config.yaml`, the card called `name`, the checksums."""
    config = {"network": dict(network), "info": info_values(info)}
    text = yaml.dump(config, Dumper=_Readable, sort_keys=False, allow_unicode=True, width=120)
    (folder / CONFIG).write_text(text)
    (folder / CARD).write_text(model_card(name, parse(NetworkConfig, network), info))
    _write_sums(folder, (WEIGHTS, CONFIG, CARD))


def add_calibrations(source: Path, folder: Path, calibrations: Sequence[Calibration]) -> Path:
    """Write the bundle `source` with calibrations, those it has and new ones, as `folder`, which may be itself.

    The folder appears whole or not at all; other files in it stay, and its card says what was added. Return it.

    Raises ValueError where `folder` is another prior, or one of the two is damaged.
    """
    here = folder if (folder / WEIGHTS).is_file() else source
    sums, title = check_sums(here), (here / CARD).read_text().partition("\n")[0].removeprefix("# ")
    check_target(folder, check_sums(source)[WEIGHTS])
    joined = joined_calibrations(read_calibrations(here, sums[WEIGHTS]), calibrations)
    with whole_folder(folder, replace=True) as temporary:
        shutil.copytree(here, temporary, dirs_exist_ok=True)
        write_calibrations(temporary, joined)
        (temporary / CARD).write_text(model_card(title, *read_config(here), joined))
        _write_sums(temporary, (WEIGHTS, CONFIG, CARD, CALIBRATION))
    return folder


def check_target(folder: Path, sha256: str) -> None:
    """Raise ValueError where calibrations of the weights `sha256` cannot be written into `folder`."""
    if not folder.exists():
        return
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} is there and is no prior: name another folder for the calibrated prior")
    if (found := read_sums(folder)[WEIGHTS]) != sha256:
        raise ValueError(f"{folder} is another prior, of weights {found[:12]}, calibrated were {sha256[:12]}")


def _write_sums(folder: Path, files: Sequence[str]) -> None:
    (folder / SUMS).write_text("".join(f"{file_sha256(folder / file)}  {file}\n" for file in files))


class _Readable(yaml.SafeDumper):
    """Writes a text of several lines as it is, not as one quoted string."""


_Readable.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def read_sums(folder: Path) -> dict[str, str]:
    """Read `SHA256SUMS` as a mapping from file name to digest. Raises ValueError where it is missing or damaged."""
    if not (folder / SUMS).is_file():
        raise ValueError(f"prior {folder}: {SUMS} is missing; a bundle is written by kdrift train")
    lines = (folder / SUMS).read_text(errors="replace").splitlines()
    found = [_SUM.fullmatch(line) for line in lines]
    sums = {match["name"]: match["digest"] for match in found if match is not None}
    if None in found or not {WEIGHTS, CONFIG} <= set(sums):
        raise ValueError(
            f"prior {folder}: {SUMS} is damaged, expected lines of sha256sum for {WEIGHTS} and {CONFIG}; copy it again"
        )
    return sums
