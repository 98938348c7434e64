"""What an evaluation compares, and what a paper states for it: the configuration of `kdrift evaluate`.

A recipe (`configs/recipes`) is such a configuration of one table or figure of a paper, with the figures printed there.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from kdrift.data.store import SAFE_NAME, normalise_location
from kdrift.evaluation.pool import StoreOptions
from kdrift.measures.metrics import Per
from kdrift.recon.plan import Plan
from kdrift.recon.request import MaskRequest
from kdrift.runs.config import apply_overrides, parse, read_yaml
from kdrift.runs.hint import suggest

Value = int | float | str
"""What a sweep sets."""
Stated = tuple[float, float | None]
"""Mean and standard deviation as a paper prints them; null where it has no deviation."""
Size = Literal["full", "small"]


@dataclass(frozen=True)
class MethodPlan(Plan):
    """A plan of an evaluation: with its own prior, and the masks that it is for."""

    prior: str | None = None
    """Shipped prior or bundle folder of this method; null: that of the evaluation."""
    masks: list[str] | None = None
    """Masks that it runs under, by their names; null: all."""


@dataclass(frozen=True, kw_only=True)
class StoreChoice:
    """One of several stores."""

    store: str
    """Store to read, a folder or URL that all nodes see."""
    volumes: list[str] = field(default_factory=lambda: ["*"])
    """Volumes by name or pattern."""
    slices: tuple[int | None, int | None] | str | int | None = None
    """Slices as `slices` of the evaluation has them; null: those."""
    masks: list[str] | None = None
    """Masks that its volumes are undersampled by; null: all."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One setting that takes several values: steps, acceleration, a noise level."""

    key: str
    """Dotted key below an entry of `methods` or of `masks`, such as methods.settings.num_steps or masks.acceleration.
    """
    values: list[Value]
    """Its values; each is a row of the table and a point of a curve."""
    label: str
    """What it is for people, such as `steps N`."""
    entries: list[str] | None = None
    """Methods or masks that have it, by their names; null: all. Others run once, without it."""

    def __post_init__(self) -> None:
        if self.table not in ("methods", "masks") or not self.inner:
            raise ValueError(f"a sweep's key begins with methods. or masks., got {self.key!r}")
        if not self.values or len(set(map(str, self.values))) < len(self.values):
            raise ValueError(f"a sweep needs values that differ, got {self.values}")
        for value in self.values:
            if not SAFE_NAME.match(str(value)):
                raise ValueError(f"values of a sweep name folders: letters, digits, '.', '_' and '-', got {value!r}")

    @property
    def table(self) -> str:
        """`methods` or `masks`."""
        return self.key.partition(".")[0]

    @property
    def inner(self) -> str:
        """Key below an entry."""
        return self.key.partition(".")[2]


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a paper states for one row of the table, or of a method that is not run here."""

    where: str
    """Its place: paper and table or figure."""
    mask: str
    """Mask by its name in `masks`."""
    method: str | None = None
    """Method by its name in `methods`; else `other`."""
    other: str | None = None
    """Name of a method that is not run here."""
    store: str | None = None
    """Store by its name in `stores`."""
    value: Value | None = None
    """Value of the sweep."""
    psnr: Stated | None = None
    """PSNR in dB."""
    ssim: Stated | None = None
    """SSIM, between -1 and 1."""
    nmse: Stated | None = None
    """NMSE, a fraction."""

    def __post_init__(self) -> None:
        if (self.method is None) == (self.other is None):
            raise ValueError(f"{self.where}: give method, of those that run, or other, one that does not")
        if not self.where.strip() or (self.psnr, self.ssim, self.nmse) == (None, None, None):
            raise ValueError("a published row needs its place, where, and at least one of psnr, ssim and nmse")
        limits = {"psnr": (0, 100), "ssim": (-1, 1), "nmse": (0, 10)}
        for name, (low, high) in limits.items():
            stated = getattr(self, name)
            if stated and not (low <= stated[0] <= high and 0 <= (stated[1] or 0) <= high):
                raise ValueError(f"{self.where}: {name} lies between {low} and {high}, got {stated}")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(StoreOptions):
    """One evaluation; its stores hold fully sampled k-space."""

    store: str = ""
    """Store to read, a folder or URL that all nodes see; leave it out where there are `stores`."""
    stores: dict[str, StoreChoice] = field(default_factory=dict)
    """Several stores by the name they have in the table, instead of one."""
    methods: dict[str, MethodPlan]
    """Plans by the name they have in the table: samplers, and classical methods with their weights."""
    masks: dict[str, MaskRequest]
    """Undersampling by the name it has in the table."""
    sweep: Sweep | None = None
    """A setting of methods or of masks that takes several values."""
    per: Per = "volume"
    """What mean, deviation, tests and box plots are over: volumes, or slices, whose data range is then their own."""
    compare: str | None = None
    """Method that the others are tested against, pair by pair; null: no tests."""
    published: list[Published] = field(default_factory=list)
    """What a paper states, shown beside what is measured."""
    title: str = ""
    """Heading of the report."""
    notes: list[str] = field(default_factory=list)
    """Sentences that the report begins with."""
    small: dict[str, Any] = field(default_factory=dict)
    """Values by dotted key that `size: small` puts in the place of the others."""
    size: Size = "full"
    """`small`: with the values of `small`."""
    name: str = "evaluation"
    """Name of the MLflow run."""
    tracking_uri: str | None = None
    """MLflow tracking URI; null: SQLite in `out`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.methods or not self.masks or self.mask is not None:
            raise ValueError("an evaluation needs at least one of methods and of masks by its name, and no other mask")
        if bool(self.store) == bool(self.stores):
            raise ValueError("an evaluation reads one store, or several by their names: give one of store and stores")
        for name in (*self.methods, *self.masks, *self.stores):
            if not SAFE_NAME.match(name):
                raise ValueError(
                    f"names of methods, masks and stores are of letters, digits, '.', '_' and '-', got {name!r}"
                )
        for what, names, known in self._named():
            for name in names or ():
                if name not in known:
                    raise ValueError(f"{what}: {name!r} is not there{suggest(name, known)}")

    def _named(self) -> Iterable[tuple[str, Collection[str] | None, Mapping[str, Any]]]:
        """Yield what names entries of a table: the words for it, the names, the table."""
        for name, plan in self.methods.items():
            yield f"methods.{name}.masks", plan.masks, self.masks
        for name, choice in self.stores.items():
            yield f"stores.{name}.masks", choice.masks, self.masks
        if self.sweep:
            yield "sweep.entries", self.sweep.entries, getattr(self, self.sweep.table)
        if self.compare:
            yield "compare", [self.compare], self.methods
        for number, row in enumerate(self.published):
            where = f"published.{number} ({row.where})"
            yield f"{where}: mask", [row.mask], self.masks
            yield f"{where}: method", [row.method] if row.method else None, self.methods
            yield f"{where}: store", [row.store] if row.store else None, self.stores

    @property
    def choices(self) -> dict[str, StoreChoice]:
        """The stores by their names; one without a name is ''."""
        return self.stores or {"": StoreChoice(store=self.store, volumes=self.volumes)}

    @property
    def settings(self) -> dict[str, Any]:
        """All of it that must stay as it is while `out` does."""
        values = super().settings
        values["store"] = values["store"] if self.store else ""
        for name, choice in self.stores.items():
            values["stores"][name]["store"] = normalise_location(choice.store)
        return values


def load_evaluation(path: Path, overrides: Iterable[str] = ()) -> EvaluateConfig:
    """Read an evaluation; where its `size` is small, its values of `small` go in, and then the `overrides`.

    Raises ValueError for mistakes in the file or the overrides, and a small size where the file has none.
    """
    values, overrides = read_yaml(path), tuple(overrides)
    asked = copy.deepcopy(values)
    apply_overrides(asked, overrides)
    if asked.get("size") == "small":
        small = asked.get("small")
        if not isinstance(small, dict) or not small:
            raise ValueError(f"{path} has no section small: run it with size full, or write one")
        for key, value in small.items():
            *parents, last = str(key).split(".")
            section = values
            for parent in parents:
                if not isinstance(section.get(parent), dict):
                    raise ValueError(f"{path}: small sets {key}, but there is no section {parent}")
                section = section[parent]
            section[last] = value
    apply_overrides(values, overrides)
    return parse(EvaluateConfig, values, str(path))


def plain_plan(plan: MethodPlan) -> Plan:
    """Return what is run, without where and with which prior."""
    return Plan(**{each.name: getattr(plan, each.name) for each in fields(Plan)})
