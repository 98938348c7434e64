"""How long each method is expected to take for data of some size, before they are sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from kdrift.methods import METHODS
from kdrift.prior.bundle import Prior
from kdrift_serve.job_request import JobRequest, check_cost, options_of, resolve_plan
from kdrift_serve.pace import Speeds, expected_seconds
from kdrift_serve.problems import Problem
from kdrift_serve.readers import Found
from kdrift_serve.serve_config import Limits

MOST = 100_000
"""Slices and coils, at most."""


@dataclass(frozen=True)
class Expected:
    """What a method is expected to cost."""

    evaluations: int | None = None
    """Network images of all its slices and chains; 0 for a classical method."""
    seconds: float | None = None
    """Once a sampler is free; null where no job with this prior, or of this classical method, and of images that are
    not far smaller, was measured here yet."""
    measured: bool = False
    """Whether a job of this method was measured; else the slowest one with the same prior stands for it."""
    fault: str | None = None
    """Why the method cannot be used with these options, as a request would be told."""


class Size(BaseModel):
    """Data of some size, and options that change how long they take: those of a query."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid")

    shape: str = Field(pattern=r"^[1-9]\d{0,4}x[1-9]\d{0,4}$")
    """Rows and columns of k-space, such as 320x320."""
    coils: int = Field(ge=1, le=MOST)
    """How many there are."""
    slices: int = Field(default=1, ge=1, le=MOST)
    """How many are reconstructed."""
    samples: int | None = Field(default=None, ge=1)
    """Samples a slice; by default those of a plan."""
    steps: int | None = Field(default=None, ge=1)
    """Steps, for methods that have some; by default those of the preset."""
    method: str | None = None
    """Whose prior `prior` is."""
    prior: str | None = None
    """Served name of the prior of `method`."""

    @property
    def found(self) -> Found:
        """The size, as what was read has it."""
        rows, cols = (int(size) for size in self.shape.split("x"))
        return Found(list(range(self.slices)), self.coils, [rows, cols], "", [])

    @property
    def request(self) -> JobRequest:
        """The options, as a request. Raises `Problem` (422)."""
        plan: dict[str, Any] = {"method": self.method, "num_samples": self.samples}
        plan = {name: value for name, value in plan.items() if value is not None}
        plan |= {"settings": {"num_steps": self.steps}} if self.steps is not None else {}
        return options_of({"plan": plan, "prior": self.prior})


@dataclass(frozen=True)
class Times:
    """Tells how long methods are expected to take."""

    priors: Mapping[str, Prior]
    limits: Limits
    speeds: Speeds
    samplers: int

    def of(self, size: Size) -> dict[str, Expected]:
        """Return what each method would cost with data of some size.

        Options that a method does not have are left out, and a prior that is not for it; steps are those that are
        named, else of the method's preset.
        """
        request, found = size.request, size.found
        return {name: self._expected(name, request, found) for name in METHODS}

    def _expected(self, name: str, request: JobRequest, found: Found) -> Expected:
        try:
            plan = resolve_plan(_of_method(name, request), self.priors, self.limits)
            check_cost(plan, len(found.slices), found.coils, self.limits)
        except Problem as problem:
            return Expected(fault=problem.detail)
        except ValueError as error:
            return Expected(fault=str(error))
        evaluations = len(found.slices) * plan.evaluations(found.coils)
        prior = plan.prior.sha256 if plan.prior else ""
        own = self.speeds.get(prior, name, found.pixels)
        speed = own or (self.speeds.slowest(prior, found.pixels) if prior else None)
        if speed is None:
            return Expected(evaluations)
        seconds = expected_seconds(plan, found, found.coils, speed, self.samplers)
        return Expected(evaluations, round(seconds, 1), own is not None)


def _of_method(name: str, request: JobRequest) -> JobRequest:
    method = METHODS[name]
    known = {each.name for each in fields(method.options)}
    settings: dict[str, Any] = {key: value for key, value in request.plan.settings.items() if key in known}
    plan = replace(request.plan, method=name, preset=None, settings=settings)
    if not method.samples:
        plan = replace(plan, num_samples=1, check=None, start=None, start_prior=None)
    return replace(request, plan=plan, prior=None if name != request.plan.method else request.prior)
