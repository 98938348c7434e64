"""What every search has in its configuration: what is searched, and how trials run; and what the search asks of them.

A kind of search is a configuration of its own, which makes the `Subject`: `tune_config.py` for a method's settings,
`training_config.py` for those of a training.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from kdrift.tuning.journal import TrialRecord

Winner = TypeVar("Winner")
"""What the best trial becomes: a preset, the configuration of a training."""
Found = TypeVar("Found", covariant=True)
"""The same, of the protocol."""
Trainable = Callable[[dict[str, Any]], None]
"""Runs one trial of these settings on Ray Tune, and reports a row of figures now and then."""


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
            for choice in self.choices:
                if not isinstance(choice, (str, int, float, bool, type(None))):
                    raise ValueError(f"choices are numbers, words, true, false or null, got {choice!r}")
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


MAY_CHANGE = ("num_trials", "trials_at_once", "cpus_per_trial", "gpus_per_trial", "max_failures", "name")
"""What may change when a search is resumed."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig(ABC, Generic[Winner]):
    """What searches of all kinds have; what is judged, and by what, is the kind's own."""

    space: dict[str, Axis]
    """What is searched: an axis for each setting, by its name."""
    name: str = "tune"
    """Name of the search and of its MLflow run."""
    seed: int = 0
    """Seed of the search, and of what else is random in it."""
    pareto: bool = False
    """Search the front of quality against seconds; no trial is stopped early then."""
    num_trials: int = 32
    """Trials in all."""
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
        if self.num_trials < 1 or self.seed < 0:
            raise ValueError(f"num_trials must be at least 1 and seed 0 or larger, got {self.num_trials}, {self.seed}")
        if self.reduction_factor <= 1 or self.cpus_per_trial <= 0 or self.gpus_per_trial < 0 or self.max_failures < 0:
            raise ValueError("expected reduction_factor > 1, cpus_per_trial > 0, gpus_per_trial and max_failures >= 0")
        if self.trials_at_once is not None and self.trials_at_once < 1:
            raise ValueError(f"trials_at_once must be null or at least 1, got {self.trials_at_once}")
        if not self.space:
            raise ValueError("space is empty: name at least one setting to search")

    @property
    def most_at_once(self) -> int:
        """Most trials that run at once."""
        return self.trials_at_once or max(1, self.num_trials // 4)

    @property
    def device(self) -> str:
        """The kind of device that a trial computes on."""
        return "cuda" if self.gpus_per_trial else "cpu"

    @property
    @abstractmethod
    def measure(self) -> str:
        """What is improved, by the name of its figure."""

    @property
    @abstractmethod
    def higher_is_better(self) -> bool:
        """Whether that is maximised."""

    @abstractmethod
    def subject(self, out: Path) -> Subject[Winner]:
        """Return what trials are of; `out` is the folder of the search, which may hold what it began with.

        Raises ValueError where settings, space or data cannot serve.
        """


class Subject(Protocol[Found]):
    """What a search tries settings of."""

    unit: str
    """What a trial counts its progress in, and MLflow its steps, such as `slices`: each row of figures has how many."""
    length: int
    """How many units a trial has, if it is not stopped."""
    grace: int
    """How many units no trial is stopped before."""
    figures: tuple[str, ...]
    """Names of the figures of a row, which also has `value`, the measure so far. Where one of them is `diverged` and
    not zero, the trial came to nothing."""
    headline: str
    """A line on what a trial starts from."""
    notes: tuple[str, ...]
    """What the user is to know of the data."""
    datasets: tuple[tuple[str, str, str], ...]
    """What the data are: name, digest, and what they are for."""
    start: dict[str, Any]
    """The settings of the first trial; one that the space has no place for is drawn."""

    def begin(self) -> None:
        """Keep in the folder of the search what it is to find there when it is resumed."""

    def trainable(self) -> Trainable:
        """Return what runs a trial."""

    def keep(self, trials: list[TrialRecord], best: TrialRecord, run_id: str) -> tuple[Found, list[Path]]:
        """Write what the best trial becomes, which says how it was found, to where it is used from, each file whole or
        not at all; return it and its files."""


def corners(space: Mapping[str, Axis], limit: int = 4096) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the corners of a space, and each in words for an error."""
    for corner in itertools.islice(itertools.product(*(axis.ends for axis in space.values())), limit):
        values = dict(zip(space, corner, strict=True))
        yield values, "space: " + ", ".join(f"{name} {value}" for name, value in values.items())


def start_point(space: Mapping[str, Axis], start: Mapping[str, Any]) -> dict[str, Any]:
    """Return a start's settings in the space, each moved to the nearest value of its range.

    A setting without a place there (no number, no listed choice) is left out, and drawn.
    """
    point = {}
    for name, axis in space.items():
        value = start[name]
        if axis.choices is None and value is not None:
            point[name] = axis.nearest(value)
        elif axis.choices is not None and value in axis.choices:
            point[name] = value
    return point
