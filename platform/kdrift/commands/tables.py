"""Tables of what there is, for `kdrift list` and `kdrift presets list`."""

from __future__ import annotations

import json
from typing import Any

Row = dict[str, Any]


def print_rows(rows: list[Row], *, as_json: bool) -> None:
    """Print rows of the same columns as a table that fits the terminal, or as one JSON list."""
    if as_json:
        print(json.dumps(rows, indent=2, default=str))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    names = list(rows[0]) if rows else []
    for name in names:
        table.add_column(name.replace("_", " "), no_wrap=name != names[-1], overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row.values()))
    try:
        Console().print(table)
    except SystemExit:  # what rich makes of a pipe that was closed
        raise BrokenPipeError from None


def method_rows() -> list[Row]:
    """Return one row for each method, samplers first."""
    from kdrift.commands.method_card import evaluations
    from kdrift.methods import METHODS
    from kdrift.methods.presets import find_preset

    rows: list[Row] = []
    for name, method in METHODS.items():
        preset = find_preset(name)
        cost = evaluations(name, preset.settings)
        rows.append({"method": name, "preset": preset.name, "evaluations": cost, "what_it_is": method.summary})
    return rows


def preset_rows(method: str | None = None) -> list[Row]:
    """Return one row for each preset, of one method or of all."""
    from kdrift.commands.method_card import evaluations
    from kdrift.methods import METHODS
    from kdrift.methods.presets import find_preset, list_presets

    rows: list[Row] = []
    for name in [method] if method else METHODS:
        default = find_preset(name)
        for preset in list_presets(name):
            row = {"method": name, "preset": preset.name, "comes_from": preset.source}
            used = default.source if preset.name == default.name else None
            rows.append({**row, "used_by_default": used, "evaluations": evaluations(name, preset.settings)})
    return rows


def prior_rows() -> list[Row]:
    """Return one row for each shipped prior."""
    from kdrift.methods import METHODS
    from kdrift.prior.bundle import load_prior, shipped_priors

    rows: list[Row] = []
    for name in shipped_priors():
        prior = load_prior(name)
        images = prior.network_config.images
        serves = [each for each, method in METHODS.items() if not method.refusal(name, prior.noise, images)]
        low, high = prior.sigma_range
        row = {"prior": name, "noise": prior.noise, "images": images, "sigma": f"{low:.4g} to {high:.4g}"}
        rows.append({**row, "serves": ", ".join(serves)})
    return rows


def mask_rows() -> list[Row]:
    """Return one row for each kind of mask."""
    from kdrift.mri.masks import KINDS

    return [{"mask": n, "keeps": ["columns", "points"][k.dims - 1], "how": k.definition} for n, k in KINDS.items()]


def config_rows() -> list[Row]:
    """Return one row for each configuration that comes with kdrift."""
    from kdrift.runs.config_names import config_names, configs_folder, verbs_with_configs

    rows: list[Row] = []
    for verb in verbs_with_configs():
        for name in config_names(verb):
            first = (configs_folder() / verb / f"{name}.yaml").read_text().partition("\n")[0]
            about = first.removeprefix("# ").partition(": kdrift")[0] if first.startswith("#") else None
            rows.append({"config": name, "verb": verb, "what_it_is": about})
    return rows
