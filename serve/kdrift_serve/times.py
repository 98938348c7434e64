"""How long each method is expected to take for data of some size, before they are sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from kdrift.methods import METHODS
from kdrift.prior.bundle import Prior
from kdrift_serve.job_request import JobRequest, check_cost, resolve_plan
from kdrift_serve.pace import Speeds, expected_seconds
from kdrift_serve.problems import Problem
from kdrift_serve.readers import Found
from kdrift_serve.serve_config import Limits


@dataclass(frozen=True)
class Expected:
    """What a method is expected to cost."""

    evaluations: int | None = None
    """Network images of all its slices and chains; 0 for a classical method."""
    seconds: float | None = None
    """Once a sampler is free; null where no job with this prior was measured here yet, and for classical methods."""
    measured: bool = False
    """Whether a job of this method was measured; else the slowest one with the same prior stands for it."""
    fault: str | None = None
    """Why the method cannot be used with these options, as a request would be told."""


def expected_times(
    request: JobRequest, found: Found, priors: Mapping[str, Prior], limits: Limits, speeds: Speeds, samplers: int
) -> dict[str, Expected]:
    """Return what each method would cost with the options of `request`, whose method alone is replaced.

    Options that a method does not have are left out, and a prior that is not for it; steps are those of `request`
    where it names them, else of the method's preset.
    """
    return {name: _expected(name, request, found, priors, limits, speeds, samplers) for name in METHODS}


def _expected(
    name: str, request: JobRequest, found: Found, priors: Mapping[str, Prior], limits: Limits, speeds: Speeds,
    samplers: int,
) -> Expected:  # fmt: skip
    try:
        plan = resolve_plan(_of_method(name, request), priors, limits)
        coils = min(found.coils, request.virtual_coils or found.coils)
        check_cost(plan, len(found.slices), coils, limits)
    except Problem as problem:
        return Expected(fault=problem.detail)
    except ValueError as error:
        return Expected(fault=str(error))
    evaluations = len(found.slices) * plan.evaluations(coils)
    if plan.prior is None:
        return Expected(evaluations)
    own = speeds.get(plan.prior.sha256, name)
    speed = own or speeds.slowest(plan.prior.sha256)
    if speed is None:
        return Expected(evaluations)
    return Expected(evaluations, round(expected_seconds(plan, found, coils, speed, samplers), 1), own is not None)


def _of_method(name: str, request: JobRequest) -> JobRequest:
    method = METHODS[name]
    known = {each.name for each in fields(method.options)}
    settings: dict[str, Any] = {key: value for key, value in request.plan.settings.items() if key in known}
    plan = replace(request.plan, method=name, preset=None, settings=settings)
    if not method.samples:
        plan = replace(plan, num_samples=1, check=None, start=None, start_prior=None)
    return replace(request, plan=plan, prior=None if name != request.plan.method else request.prior)
