"""Configuration of a search of a method's settings: what of it is searched, on which slices, and what is best."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kdrift.measures.metrics import METRICS
from kdrift.methods import METHODS
from kdrift.methods.presets import Preset
from kdrift.recon.request import AcquisitionOptions
from kdrift.runs.config import parse
from kdrift.runs.hint import suggest
from kdrift.tuning.search_config import SearchConfig, Subject, corners


@dataclass(frozen=True, kw_only=True)
class TuneData(AcquisitionOptions):
    """Slices that settings are searched on; never those of volumes that results are reported on."""

    sources: list[str]
    """k-space files, folders, globs, URLs, or stores."""
    volumes: list[str] = field(default_factory=lambda: ["*"])
    """Patterns of the names of volumes to use."""
    exclude: list[str] = field(default_factory=list)
    """Patterns of volumes kept for reports: never used, whatever `volumes` says."""
    slices_per_volume: int = 4
    """Slices used of each volume, evenly spread over `slices`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.slices_per_volume < 1 or not self.sources:
            raise ValueError("data needs sources and slices_per_volume >= 1")


@dataclass(frozen=True, kw_only=True)
class TuneConfig(SearchConfig[Preset]):
    """A search of a method's settings; it leaves a preset."""

    method: str
    """Sampler or classical method."""
    data: TuneData
    """Slices that the settings are searched on."""
    preset: str | None = None
    """Preset to start from, by name or FILE.yaml; None: what `reconstruct` uses now. Moved into the space, it is the
    first trial."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fixed settings that differ from the preset's."""
    prior: str | None = None
    """Shipped prior or path of a bundle; null: the method's shipped prior."""
    num_samples: int = 2
    """Posterior samples a slice."""
    objective: Literal["psnr", "ssim", "nmse", "heldout"] = "psnr"
    """What the search improves: a measure against the reference, or `heldout`, which needs none: the squared error of
    predicted k-space samples that no method saw, over their power."""
    heldout_fraction: float = 0.2
    """Fraction of the sampled lines (points) outside the ACS that are held out, in objective `heldout`."""
    grace_slices: int = 1
    """A trial is not stopped before so many slices (ASHA)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_samples < 1 or self.grace_slices < 1:
            raise ValueError("num_samples and grace_slices must be at least 1")
        if not 0 < self.heldout_fraction < 1:
            raise ValueError(f"heldout_fraction must lie between 0 and 1, got {self.heldout_fraction}")
        if self.method not in METHODS:
            raise ValueError(f"no method {self.method!r}{suggest(self.method, METHODS)}")
        known = [option.name for option in dataclasses.fields(METHODS[self.method].options)]
        for where, names in (("space", self.space), ("settings", self.settings)):
            for name in names:
                if name not in known:
                    raise ValueError(f"{where}: {self.method} has no setting {name!r}{suggest(name, known)}")
        both = self.space.keys() & self.settings.keys()
        if both:
            raise ValueError(f"{min(both)!r} is in both space and settings: search it or fix it")

    @property
    def measure(self) -> str:
        """The objective."""
        return self.objective

    @property
    def higher_is_better(self) -> bool:
        """Whether the objective is maximised."""
        return self.objective != "heldout" and METRICS[self.objective].higher_is_better

    def subject(self, out: Path) -> Subject[Preset]:
        """Return the method on its slices; they are read now."""
        from kdrift.tuning.method_search import MethodSubject

        return MethodSubject(self, out)


def check_space(config: TuneConfig, start: Preset) -> None:
    """Raise ValueError where a corner of the space is no valid setting of the method.

    What a method asks of two settings together (lambda_start >= lambda_stop) thus fails before a trial does.
    """
    options, base = METHODS[config.method].options, {**start.settings, **config.settings}
    for values, where in corners(config.space):
        parse(options, {**base, **values}, where)
