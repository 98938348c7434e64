"""`kdrift presets`: the presets of methods, and which is used where none is named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from cyclopts import Parameter

from kdrift.commands.common import print_rows

Method = Annotated[str, Parameter(name="METHOD")]


@dataclass(frozen=True, kw_only=True)
class List:
    """List presets, where they come from, and which are used by default."""

    method: Annotated[str | None, Parameter(name="METHOD")] = field(default=None, kw_only=False)
    """Method whose presets are listed; by default all."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class Show:
    """Print a preset: its settings, where it comes from and what it was found on."""

    method: Method = field(kw_only=False)
    """Method."""
    name: Annotated[str | None, Parameter(name="NAME")] = field(default=None, kw_only=False)
    """Preset; by default the one that is used where none is named."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """Use a preset of a method from now on where none is named."""

    method: Method = field(kw_only=False)
    """Method."""
    name: Annotated[str, Parameter(name="NAME")] = field(kw_only=False)
    """Preset: what kdrift tune found under this name, or a built-in one."""


@dataclass(frozen=True, kw_only=True)
class Reset:
    """Use a method's built-in preset again where none is named. Presets are kept."""

    method: Method = field(kw_only=False)
    """Method."""


VERBS = {"list": List, "show": Show, "use": Use, "reset": Reset}


def run(options: List | Show | Use | Reset) -> int:
    """List, print, choose or reset."""
    import yaml

    from kdrift.commands.cards import preset_rows
    from kdrift.methods.presets import choose_default, find_preset
    from kdrift.runs.config import to_dict

    if isinstance(options, List):
        print_rows(preset_rows(options.method), as_json=options.json)
    elif isinstance(options, Show):
        found = to_dict(find_preset(options.method, options.name))
        ordered = {key: found[key] for key in ("method", "name", "source", "settings", "provenance") if found[key]}
        print(yaml.safe_dump(ordered, sort_keys=False), end="")
    else:
        choose_default(options.method, options.name if isinstance(options, Use) else None)
        preset = find_preset(options.method)
        print(f"{options.method} uses preset {preset.name} ({preset.source}) where none is named")
    return 0
