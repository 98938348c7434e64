"""Presets: named settings of a method, from the table of samplers or from a YAML file with their provenance.

`kdrift tune` writes the file METHOD.yaml to the user's folder; from then on it is the method's `tuned` preset.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kdrift.methods import METHODS
from kdrift.runs.config import parse, suggest, to_dict
from kdrift.runs.files import write_yaml

TUNED = "tuned"


@dataclass(frozen=True)
class Preset:
    """Settings of a method, and how they came about."""

    method: str
    """A method of `kdrift.methods.METHODS`."""
    settings: dict[str, Any]
    """By name; what is left out has the method's default."""
    name: str = TUNED
    """What results call it."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Data, volumes, mask, seed, date, objective, figures, version, prior; empty for the presets of the table."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"no method {self.method!r}{suggest(self.method, METHODS)}")
        parse(METHODS[self.method].options, self.settings, f"preset {self.name} of {self.method}")


def preset_folder() -> Path | None:
    """Return the folder of the user's presets: `$KDRIFT_PRESETS`, by default ~/.kdrift/presets; None if it is empty."""
    named = os.environ.get("KDRIFT_PRESETS")
    if named is not None:
        return Path(named) if named else None
    return Path.home() / ".kdrift" / "presets"


def find_preset(method: str, name: str | None = None) -> Preset:
    """Return a method's preset: by name, or where none is named `tuned` if there is one, else `paper`.

    A `tuned` preset in the user's folder goes before one in the table. Raises ValueError for a name that there is not,
    and for a file that does not fit the method.
    """
    folder = preset_folder()
    if name in (None, "", TUNED) and folder is not None and (folder / f"{method}.yaml").is_file():
        return read_preset(folder / f"{method}.yaml", method)
    found, options = METHODS[method].preset(name)
    return Preset(method, to_dict(options), found)


def read_preset(path: str | Path, method: str | None = None) -> Preset:
    """Read a preset file; with `method` it must be one of that method. Raises ValueError or OSError naming the file."""
    try:
        values = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"preset {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"preset {path}: expected a mapping with method and settings, got {type(values).__name__}")
    preset = parse(Preset, values, f"preset {path}")
    if method not in (None, preset.method):
        raise ValueError(f"preset {path} is of method {preset.method}, asked for {method}")
    return preset


def write_preset(preset: Preset, path: Path) -> Path:
    """Write a preset file, whole or not at all."""
    write_yaml(path, to_dict(preset))
    return path
