"""What `kdrift info METHOD` says of a method."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any


def is_method(name: str) -> bool:
    """Whether there is a sampler or a classical method of this name."""
    from kdrift.methods import METHODS
    from kdrift.methods.classical import BASELINES

    return name in METHODS or name in BASELINES


def evaluations(name: str, settings: Mapping[str, Any]) -> int:
    """Return the network evaluations of one sample of a method with these settings."""
    from kdrift.methods import METHODS
    from kdrift.runs.config import parse

    method = METHODS[name]
    options = parse(method.options, dict(settings))
    count = getattr(method, "evaluations", None)
    if count is not None:
        return int(count(options))
    steps = getattr(options, "num_steps", 0) * (1 + getattr(options, "num_corrector_steps", 0))
    return int(getattr(options, "nfe", steps * getattr(options, "num_ode_steps", 1)))


def summary_of(name: str) -> str:
    """Return what a method is, in one line."""
    from kdrift.methods import METHODS

    return METHODS[name].summary if name in METHODS else (inspect.getdoc(_classical(name)) or "").partition("\n")[0]


def describe_method(name: str) -> dict[str, Any]:
    """Return what a method is, its source, settings, presets with their cost, and the prior that it needs."""
    from kdrift.methods import METHODS

    if name not in METHODS:
        return _describe_classical(name)
    method = METHODS[name]
    kind = "samples" if method.only is None else f"samples, of {method.only} images alone"
    module = inspect.getmodule(method.options)
    return {
        "what": f"method {name}",
        "summary": method.summary,
        "source": " ".join((inspect.getdoc(module) or "").partition("\n\n")[0].split()),
        "file": getattr(module, "__name__", ""),
        "prior": {"kind": kind, "noise": method.noise, "those shipped that serve": _priors(name)},
        "settings": {each.name: _setting(method.options, each) for each in dataclasses.fields(method.options)},
        "presets": _presets(name),
    }


def _priors(name: str) -> str:
    from kdrift.methods import METHODS
    from kdrift.prior.bundle import shipped_for
    from kdrift.recon.runner import default_prior

    able = shipped_for(METHODS[name].noise, METHODS[name].only)
    return ", ".join(f"{each} (used by default)" if each == default_prior(name) else each for each in able)


def _presets(name: str) -> dict[str, Any]:
    from kdrift.commands.tables import preset_rows
    from kdrift.methods import METHODS
    from kdrift.methods.presets import find_preset
    from kdrift.runs.config import parse, to_dict

    plain = {each.name: each.default for each in dataclasses.fields(METHODS[name].options)}
    found = {}
    for row in preset_rows(name):
        settings = to_dict(parse(METHODS[name].options, find_preset(name, row["preset"]).settings))
        differing = {key: value for key, value in settings.items() if value != plain[key]}
        used = ", used by default" if row["used_by_default"] else ""
        found[row["preset"]] = {
            "comes from": f"{row['comes_from']}{used}",
            "network evaluations a sample": row["evaluations"],
            "differs from the defaults": ", ".join(f"{k} {v}" for k, v in differing.items()) or "in nothing",
        }
    return found


def _setting(options: type, each: dataclasses.Field[Any]) -> str:
    from kdrift.runs.field_docs import field_docs

    kind = each.type if isinstance(each.type, str) else getattr(each.type, "__name__", str(each.type))
    default = "" if each.default is dataclasses.MISSING else f" = {each.default}"
    return f"{kind}{default}. {field_docs(options).get(each.name, '')}".strip()


def _classical(name: str) -> Any:
    from kdrift.methods.classical import BASELINES

    return BASELINES[name]


def _describe_classical(name: str) -> dict[str, Any]:
    function = _classical(name)
    taken = inspect.signature(function).parameters.values()
    return {
        "what": f"method {name}",
        "summary": summary_of(name),
        "source": " ".join((inspect.getdoc(inspect.getmodule(function)) or "").partition("\n\n")[0].split()),
        "file": function.__module__,
        "prior": "none: a classical method",
        "settings": {p.name: f"{p.annotation} = {p.default}" for p in taken if p.kind is p.KEYWORD_ONLY},
    }
