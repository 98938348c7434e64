"""What `kdrift info METHOD` says of a method."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any


def is_method(name: str) -> bool:
    """Whether there is a method of this name."""
    from kdrift.methods import METHODS

    return name in METHODS


def evaluations(name: str, settings: Mapping[str, Any]) -> int:
    """Return the network evaluations of one chain of a method with these settings."""
    from kdrift.methods import METHODS
    from kdrift.runs.config import parse

    return parse(METHODS[name].options, dict(settings)).evaluations


def describe_method(name: str) -> dict[str, Any]:
    """Return what a method is, its source, settings, presets with their cost, and the prior that it needs."""
    from kdrift.methods import METHODS

    method = METHODS[name]
    module = inspect.getmodule(method.function)
    return {
        "what": f"method {name}",
        "summary": method.summary,
        "source": " ".join((inspect.getdoc(module) or "").partition("\n\n")[0].split()),
        "file": getattr(module, "__name__", ""),
        "prior": _prior(name),
        "settings": {each.name: _setting(method.options, each) for each in dataclasses.fields(method.options)},
        "presets": _presets(name),
    }


def _prior(name: str) -> dict[str, Any] | str:
    from kdrift.methods import METHODS
    from kdrift.prior.bundle import shipped_for
    from kdrift.recon.plan import default_prior

    method = METHODS[name]
    if method.noise is None:
        return "none: a classical method"
    able = shipped_for(method.noise, method.only)
    shipped = [f"{each} (used by default)" if each == default_prior(name) else each for each in able]
    kind = "samples" if method.only is None else f"samples, of {method.only} images alone"
    return {"kind": kind, "noise": method.noise, "those shipped that serve": ", ".join(shipped)}


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
