"""The cells of an evaluation: each store under each mask by each method, at each value of the sweep."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kdrift.evaluation.evaluate_config import EvaluateConfig, MethodPlan, Sweep, Value, plain_plan
from kdrift.evaluation.table import Cell
from kdrift.evaluation.work import VolumeTask, volume_tasks
from kdrift.methods import METHODS
from kdrift.prior.bundle import Prior, find_prior, load_prior
from kdrift.recon.plan import default_prior
from kdrift.recon.report import MARK
from kdrift.recon.request import MaskRequest
from kdrift.recon.resolved import ResolvedPlan, UsedPrior
from kdrift.runs.config import parse, to_dict

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """An entry of `methods` or `masks`, at one value of the sweep where it has one."""

    base: str
    """Its name in the configuration."""
    value: Value | None = None
    """Value of the sweep."""

    def __str__(self) -> str:
        return self.base if self.value is None else f"{self.base}-{self.value}"


@dataclass(frozen=True)
class CellName:
    """Which cell it is."""

    store: str
    """'' where there is one store."""
    mask: Entry
    method: Entry

    @property
    def value(self) -> Value | None:
        """Value of the sweep; one of the two entries has it at most."""
        return self.mask.value if self.method.value is None else self.method.value

    @property
    def path(self) -> str:
        """Its folder below `cells`, and its name among metrics."""
        return "/".join(filter(None, (self.store, str(self.mask), str(self.method))))


def method_entries(config: EvaluateConfig) -> dict[Entry, MethodPlan]:
    """Return the plans, those that the sweep changes once a value. Raises ValueError for a key that there is not."""
    return _swept("methods", config.methods, config.sweep, MethodPlan)


def mask_entries(config: EvaluateConfig) -> dict[Entry, MaskRequest]:
    """Return the masks, those that the sweep changes once a value."""
    return _swept("masks", config.masks, config.sweep, MaskRequest)


def _swept(table: str, entries: Mapping[str, T], sweep: Sweep | None, kind: type[T]) -> dict[Entry, T]:
    found: dict[Entry, T] = {}
    for name, entry in entries.items():
        if sweep is None or sweep.table != table or (sweep.entries is not None and name not in sweep.entries):
            found[Entry(name)] = entry
            continue
        for value in sweep.values:
            values = to_dict(entry)
            *parents, last = sweep.inner.split(".")
            section = values
            for parent in parents:
                section = section.setdefault(parent, {})
            section[last] = value
            found[Entry(name, value)] = parse(kind, values, f"{table}.{name} at {sweep.key} {value}")
    twice = sorted({str(entry) for entry in found if [str(each) for each in found].count(str(entry)) > 1})
    if twice:
        raise ValueError(f"two entries of {table} are called {', '.join(twice)}: the sweep appends its value to a name")
    return found


def resolve_methods(config: EvaluateConfig) -> tuple[dict[Entry, ResolvedPlan], list[Prior]]:
    """Return the plans with everything looked up, and the priors, each loaded once."""
    loaded: dict[str, Prior] = {}
    plans = {}
    for entry, method in method_entries(config).items():
        plan = plain_plan(method)
        prior = None
        if plan.method in METHODS and METHODS[plan.method].needs_prior:
            for name in filter(None, (method.prior, config.prior, default_prior(plan.method))):
                prior = loaded[name] = loaded.get(name) or load_prior(name)
                if method.prior or prior.is_score == METHODS[plan.method].samples:
                    break  # the prior of all is for methods of its kind
        elif method.prior is not None:
            raise ValueError(f"methods.{entry.base}: {plan.method} takes no prior, leave {method.prior!r} out")
        plans[entry] = plan.resolve(prior)
    used = {plan.prior for plan in plans.values()}
    if config.prior in loaded and UsedPrior.of(loaded[config.prior]) not in used:
        raise ValueError(f"prior {config.prior}: none of the methods takes it; leave it out, or name it at a method")
    known: dict[UsedPrior, str] = {}
    for name, prior in loaded.items():
        first = known.setdefault(UsedPrior.of(prior), name)
        if first != name and find_prior(first) != find_prior(name):
            raise ValueError(f"priors {first} and {name} have one name and the same weights: rename one of the folders")
    return plans, [loaded[name] for name in known.values()]


def cell_tasks(
    config: EvaluateConfig, plans: Mapping[Entry, ResolvedPlan], out: Path
) -> dict[CellName, list[VolumeTask]]:
    """Return the volumes to reconstruct for each cell. Raises ValueError where there is none at all."""
    found = {}
    for store, choice in config.choices.items():
        for mask, request in mask_entries(config).items():
            for method, plan in plans.items():
                wanted = (choice.masks, config.methods[method.base].masks)
                if any(names is not None and mask.base not in names for names in wanted):
                    continue
                name = CellName(store, mask, method)
                slices = config.slices if choice.slices is None else choice.slices
                options = config.of("", mask=request, slices=slices)
                found[name] = volume_tasks(choice.store, choice.volumes, options, plan, out / "cells" / name.path)
    if not found:
        raise ValueError("no method runs under a mask of any store: see masks of the methods and of the stores")
    return found


def read_cell(name: CellName, tasks: Sequence[VolumeTask]) -> Cell:
    """Read the figures of a cell's finished volumes."""
    files = [task.out / "metrics.json" for task in tasks if (task.out / MARK).is_file()]
    reports = [json.loads(file.read_text()) for file in files]
    return Cell(name.mask.base, name.method.base, reports, name.store, name.value, name.path)
