"""Configuration of a search: the method, what of it is searched, on which slices, and what is best."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field
from typing import Any, Literal

from kdrift.measures.metrics import METRICS
from kdrift.methods import METHODS
from kdrift.methods.presets import Preset
from kdrift.recon.request import AcquisitionOptions
from kdrift.runs.config import parse
from kdrift.runs.hint import suggest


@dataclass(frozen=True)
class Axis:
    """Values that one setting may take: a range `low` to `high`, both included, or `choices`."""

    low: float | None = None
    """Smallest value."""
    high: float | None = None
    """Largest value."""
    log: bool = False
    """Draw uniformly in the logarithm."""
    integer: bool = False
    """Whole numbers only."""
    choices: list[Any] | None = None
    """The values themselves, instead of a range."""

    def __post_init__(self) -> None:
        if self.choices is not None:
            if not self.choices or (self.low, self.high, self.log, self.integer) != (None, None, False, False):
                raise ValueError("expected choices (at least one) or low and high, not both")
        elif self.low is None or self.high is None or self.low > self.high or (self.log and self.low <= 0):
            raise ValueError(f"expected low <= high (above 0 where log is set) or choices, got {self.low}, {self.high}")

    @property
    def ends(self) -> list[Any]:
        """The extreme values, or all choices."""
        if self.choices is not None:
            return self.choices
        return [self.cast(self.low), self.cast(self.high)]

    def cast(self, value: Any) -> int | float:
        """Return a number of the range as the setting takes it."""
        return round(value) if self.integer else float(value)

    def nearest(self, value: float) -> int | float:
        """Return the number of the range next to `value`."""
        low, high = self.ends
        return self.cast(min(max(value, low), high))


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


MAY_CHANGE = ("num_trials", "trials_at_once", "cpus_per_trial", "gpus_per_trial", "max_failures", "name")
"""What may change when a search is resumed."""


@dataclass(frozen=True)
class TuneConfig:
    """One search."""

    method: str
    """Sampler or classical method."""
    space: dict[str, Axis]
    """What is searched: an axis for each setting, by its name."""
    data: TuneData
    """Slices that the settings are searched on."""
    name: str = "tune"
    """Name of the search and of its MLflow run."""
    preset: str | None = None
    """Preset to start from, by name or FILE.yaml; None: what `reconstruct` uses now. Moved into the space, it is the
    first trial."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fixed settings that differ from the preset's."""
    prior: str | None = None
    """Shipped prior or path of a bundle; null: the method's shipped prior."""
    num_samples: int = 2
    """Posterior samples a slice."""
    seed: int = 0
    """Seed of the samples, the search, the held-out lines and the order of the slices."""
    objective: Literal["psnr", "ssim", "nmse", "heldout"] = "psnr"
    """What the search improves: a measure against the reference, or `heldout`, which needs none: the squared error of
    predicted k-space samples that no method saw, over their power."""
    pareto: bool = False
    """Search the front of quality against seconds a slice; no trial is stopped early then."""
    heldout_fraction: float = 0.2
    """Fraction of the sampled lines (points) outside the ACS that are held out, in objective `heldout`."""
    num_trials: int = 32
    """Trials in all."""
    grace_slices: int = 1
    """A trial is not stopped before so many slices (ASHA)."""
    reduction_factor: float = 3.0
    """At each rung, one trial in so many goes on (ASHA)."""
    cpus_per_trial: float = 1.0
    """CPUs that Ray lends a trial, and its threads where it is more than 1; may be a fraction."""
    gpus_per_trial: float = 0.0
    """GPUs that Ray lends a trial; may be a fraction."""
    trials_at_once: int | None = None
    """Most trials that run at once; null: a quarter of `num_trials`, so that however large the cluster most of them are
    suggested by what others found."""
    max_failures: int = 2
    """How often a trial whose worker died or failed is started again."""

    def __post_init__(self) -> None:
        if self.num_trials < 1 or self.num_samples < 1 or self.grace_slices < 1 or self.seed < 0:
            raise ValueError("num_trials, num_samples and grace_slices must be at least 1, and seed 0 or larger")
        if self.reduction_factor <= 1 or self.cpus_per_trial <= 0 or self.gpus_per_trial < 0 or self.max_failures < 0:
            raise ValueError("expected reduction_factor > 1, cpus_per_trial > 0, gpus_per_trial and max_failures >= 0")
        if self.trials_at_once is not None and self.trials_at_once < 1:
            raise ValueError(f"trials_at_once must be null or at least 1, got {self.trials_at_once}")
        if not 0 < self.heldout_fraction < 1:
            raise ValueError(f"heldout_fraction must lie between 0 and 1, got {self.heldout_fraction}")
        if self.method not in METHODS:
            raise ValueError(f"no method {self.method!r}{suggest(self.method, METHODS)}")
        known = [option.name for option in dataclasses.fields(METHODS[self.method].options)]
        for where, names in (("space", self.space), ("settings", self.settings)):
            for name in names:
                if name not in known:
                    raise ValueError(f"{where}: {self.method} has no setting {name!r}{suggest(name, known)}")
        if not self.space:
            raise ValueError("space is empty: name at least one setting to search")
        both = self.space.keys() & self.settings.keys()
        if both:
            raise ValueError(f"{min(both)!r} is in both space and settings: search it or fix it")

    @property
    def most_at_once(self) -> int:
        """Most trials that run at once."""
        return self.trials_at_once or max(1, self.num_trials // 4)

    @property
    def device(self) -> str:
        """The kind of device that a trial computes on."""
        return "cuda" if self.gpus_per_trial else "cpu"

    @property
    def higher_is_better(self) -> bool:
        """Whether the objective is maximised."""
        return self.objective != "heldout" and METRICS[self.objective].higher_is_better


def check_space(config: TuneConfig, start: Preset, limit: int = 4096) -> None:
    """Raise ValueError where a corner of the space is no valid setting of the method.

    What a method asks of two settings together (lambda_start >= lambda_stop) thus fails before a trial does.
    """
    options, base = METHODS[config.method].options, {**start.settings, **config.settings}
    corners = itertools.product(*(axis.ends for axis in config.space.values()))
    for corner in itertools.islice(corners, limit):
        values = dict(zip(config.space, corner, strict=True))
        where = "space: " + ", ".join(f"{name} {value}" for name, value in values.items())
        parse(options, {**base, **values}, where)


def start_point(config: TuneConfig, start: Preset) -> dict[str, Any]:
    """Return the start's settings in the space, each moved to the nearest value of its range.

    A setting without a place there (no number, no listed choice) is left out, and drawn.
    """
    options = parse(METHODS[config.method].options, {**start.settings, **config.settings})
    point = {}
    for name, axis in config.space.items():
        value = getattr(options, name)
        if axis.choices is None and value is not None:
            point[name] = axis.nearest(value)
        elif axis.choices is not None and value in axis.choices:
            point[name] = value
    return point
