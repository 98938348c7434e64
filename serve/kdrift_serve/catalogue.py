"""What a service has: samplers with the priors they can use, classical methods, masks, priors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from kdrift.methods import METHODS, Method
from kdrift.methods.presets import find_preset
from kdrift.mri.masks import KINDS
from kdrift.prior.bundle import Prior
from kdrift.prior.pinned import PinnedPrior
from kdrift_serve.forms import FORMS
from kdrift_serve.job_request import serving, without_folders


def list_methods(priors: Mapping[str, Prior]) -> dict[str, Any]:
    """Return methods and masks that a request may name; each sampler with the priors it can use, classical methods with
    none; and which methods draw samples, which are a trained network, and which need none."""
    methods = {
        name: {
            "summary": method.summary,
            "source": _source(method),
            **_default_preset(name),
            "presets": {preset: asdict(options) for preset, options in method.presets.items()},
            "evaluations": {preset: options.evaluations for preset, options in method.presets.items()},
            "needs": method.needs,
            "samples": method.samples,
            "priors": serving(method, priors) if method.needs_prior else [],
        }
        for name, method in METHODS.items()
    }
    kinds = {
        "samplers": [name for name, method in METHODS.items() if method.samples],
        "learned": [name for name, method in METHODS.items() if method.needs_prior and not method.samples],
        "classical": [name for name, method in METHODS.items() if not method.needs_prior],
    }
    masks = {name: f"{kind.definition} ({kind.dims}-D)" for name, kind in KINDS.items()}
    return {"methods": methods, **kinds, "masks": masks, "forms": FORMS}


def _source(method: Method) -> str:
    """Return the first paragraph of the module of a method, which names its paper."""
    text = inspect.getdoc(inspect.getmodule(method.function)) or ""
    return " ".join(text.partition("\n\n")[0].split())


def _default_preset(method: str) -> dict[str, Any]:
    """Return the name of the preset that is used where none is named; where it cannot be read, why."""
    try:
        return {"default_preset": find_preset(method).name}
    except ValueError as error:
        return {"default_preset": None, "fault": without_folders(str(error))}


def list_priors(priors: Mapping[str, Prior], pinned: Mapping[str, PinnedPrior]) -> list[dict[str, Any]]:
    """Return the priors that are served, each with its range of levels and the samplers it can serve."""
    rows: list[dict[str, Any]] = []
    for name, prior in priors.items():
        low, high = prior.info.sigma_range or (None, None)
        serves = [each for each, method in METHODS.items() if method.needs_prior and name in serving(method, priors)]
        row = {"name": name, "prior": pinned[name].describe(), "sigma_min": low, "sigma_max": high}
        rows.append(row | {"trained_for": prior.task, "serves": serves, "default": not rows})
    return rows
