"""What `kdrift list`, `kdrift info METHOD` and `kdrift presets list` say of methods, presets, priors and masks."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from kdrift.commands.common import Row
from kdrift.methods import METHODS, Options, methods_for
from kdrift.methods.presets import Preset, find_preset, list_presets
from kdrift.mri.masks import KINDS
from kdrift.prior.bundle import find_prior, read_config, shipped_for, shipped_priors, task_of
from kdrift.recon.plan import default_prior
from kdrift.runs.config import parse, to_dict
from kdrift.runs.field_docs import field_docs


def method_rows() -> list[Row]:
    """Return one row for each method, samplers first."""
    rows = []
    for name, method in METHODS.items():
        preset = find_preset(name)
        cost = _options(preset).evaluations
        rows.append({"method": name, "preset": preset.name, "evaluations": cost, "what_it_is": method.summary})
    return rows


def preset_rows(method: str | None = None) -> list[Row]:
    """Return one row for each preset, of one method or of all."""
    rows = []
    for name in [method] if method else METHODS:
        default = find_preset(name)
        for preset in list_presets(name):
            row = {"method": name, "preset": preset.name, "comes_from": preset.source}
            used = default.source if preset.name == default.name else None
            rows.append({**row, "used_by_default": used, "evaluations": _options(preset).evaluations})
    return rows


def prior_rows() -> list[Row]:
    """Return one row for each shipped prior."""
    rows = []
    for name in shipped_priors():
        network, info = read_config(find_prior(name))
        task, images = task_of(network, info), network.images
        serves = methods_for(task, images)
        sigma = "-" if info.sigma_range is None else "{:.4g} to {:.4g}".format(*info.sigma_range)
        row = {"prior": name, "trained_for": task, "images": images, "sigma": sigma}
        rows.append({**row, "serves": f"{serves[0]} and {len(serves) - 1} more" if len(serves) > 1 else serves[0]})
    return rows


def mask_rows() -> list[Row]:
    """Return one row for each kind of mask."""
    return [{"mask": n, "keeps": ["columns", "points"][k.dims - 1], "how": k.definition} for n, k in KINDS.items()]


def describe_method(name: str) -> dict[str, Any] | None:
    """Return a method's source, settings, presets with their cost, and the prior that it needs; None for no method."""
    if name not in METHODS:
        return None
    method = METHODS[name]
    module = inspect.getmodule(method.function)
    options: type = method.options
    docs, settings = field_docs(options), {}
    for each in dataclasses.fields(options):
        kind = each.type if isinstance(each.type, str) else getattr(each.type, "__name__", str(each.type))
        default = "" if each.default is dataclasses.MISSING else f" = {each.default}"
        settings[each.name] = f"{kind}{default}. {docs.get(each.name, '')}".strip()
    return {
        "what": f"method {name}",
        "summary": method.summary,
        "source": " ".join((inspect.getdoc(module) or "").partition("\n\n")[0].split()),
        "file": getattr(module, "__name__", ""),
        "prior": _prior(name),
        "settings": settings,
        "presets": _presets(name),
    }


def _prior(name: str) -> dict[str, Any] | str:
    method = METHODS[name]
    if method.needs is None:
        return "none: a classical method"
    able = shipped_for(method.needs, method.only)
    shipped = [f"{each} (used by default)" if each == default_prior(name) else each for each in able]
    kind = "samples" if method.samples else "one image"
    kind += "" if method.only is None else f", of {method.only} images alone"
    return {"kind": kind, "needs": method.wanted, "those shipped that serve": ", ".join(shipped)}


def _presets(name: str) -> dict[str, Any]:
    default = find_preset(name)
    plain = {each.name: each.default for each in dataclasses.fields(METHODS[name].options)}
    found = {}
    for preset in list_presets(name):
        options = _options(preset)
        differing = [f"{key} {value}" for key, value in to_dict(options).items() if value != plain[key]]
        used = ", used by default" if preset.name == default.name else ""
        found[preset.name] = {
            "comes from": f"{preset.source}{used}",
            "network evaluations a sample": options.evaluations,
            "differs from the defaults": ", ".join(differing) or "in nothing",
        }
    return found


def _options(preset: Preset) -> Options:
    return parse(METHODS[preset.method].options, preset.settings)
