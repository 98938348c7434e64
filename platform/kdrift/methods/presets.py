"""Presets: named settings of a method, built in or from a YAML file with their provenance.

`kdrift tune` writes what it found to the user's folder, as METHOD/NAME.yaml. It is used where it is named, and where
none is named only after `kdrift presets use METHOD NAME`.
"""

from __future__ import annotations

import copy
import functools
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from kdrift.methods import METHODS, TUNED
from kdrift.runs.config import parse, to_dict
from kdrift.runs.files import write_yaml
from kdrift.runs.hint import suggest

BUILT_IN, OWN, DEFAULT, FILE = "built in", "your preset", "your default", "a file"
DEFAULTS = "defaults.yaml"
"""File of the user's folder: the preset that each method uses where none is named."""


@dataclass(frozen=True)
class Preset:
    """Settings of a method, and how they came about."""

    method: str
    """A method of `kdrift.methods.METHODS`."""
    settings: dict[str, Any]
    """Values by the name of the setting; a setting that is left out has the method's default."""
    name: str = "unnamed"
    """What results call it."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Data, volumes, mask, seed, date, objective, figures, version, prior; empty for built-in presets that
    no search found."""
    source: str = field(default=BUILT_IN, compare=False)
    """Where it was found: `built in`, `your preset`, `your default` or `a file`; not written to files."""

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


def own_presets(method: str) -> dict[str, Path]:
    """Return the files of the user's presets of a method, by name."""
    folder = preset_folder()
    return {} if folder is None else {path.stem: path for path in sorted((folder / method).glob("[!.]*.yaml"))}


def find_preset(method: str, name: str | None = None) -> Preset:
    """Return a method's preset by name; where none is named the user's default, else the built-in default.

    Raises ValueError for an unknown method or preset, and for a file that does not fit the method.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}{suggest(method, METHODS)}")
    if not name:
        _refuse_old_place(method)
    chosen = name or default_presets().get(method)
    source = OWN if name else DEFAULT
    files, built_in = own_presets(method), METHODS[method].presets
    if chosen in files:
        return replace(read_preset(files[chosen], method), name=chosen, source=source)
    if chosen is not None and chosen not in built_in:
        if not name:
            raise ValueError(
                f"preset {chosen!r}, the default of {method} since kdrift presets use, is gone:"
                f" kdrift presets reset {method}"
            )
        raise ValueError(f"no preset {chosen!r}; there are {', '.join([*built_in, *files])}")
    found, options = METHODS[method].preset(chosen)
    provenance = copy.deepcopy(_searched(method)) if found == "tuned" else {}
    return Preset(method, to_dict(options), found, provenance, source=DEFAULT if chosen and not name else BUILT_IN)


@functools.cache  # files of the package
def _searched(method: str) -> dict[str, Any]:
    """Return what the search of a method's built-in preset `tuned` says of itself; {} where no search found it."""
    path = TUNED / f"{method}.yaml"
    return read_preset(path).provenance if path.is_file() else {}


def _refuse_old_place(method: str) -> None:
    """Raise ValueError for a file METHOD.yaml, which was the method's default without being asked for."""
    folder = preset_folder()
    old = None if folder is None else folder / f"{method}.yaml"
    if old is not None and old.is_file():
        raise ValueError(
            f"{old} is no longer used by default: move it to {old.with_suffix('') / 'NAME.yaml'}"
            f" and run kdrift presets use {method} NAME, or delete it"
        )


def list_presets(method: str) -> list[Preset]:
    """Return all presets of a method, built in and the user's own. Raises ValueError for an unknown method."""
    if method not in METHODS:
        raise ValueError(f"no method {method!r}{suggest(method, METHODS)}")
    return [find_preset(method, name) for name in dict.fromkeys([*METHODS[method].presets, *own_presets(method)])]


def default_presets() -> dict[str, str]:
    """Return the presets that the user chose with `kdrift presets use`, by method."""
    folder = preset_folder()
    if folder is None or not (folder / DEFAULTS).is_file():
        return {}
    values = yaml.safe_load((folder / DEFAULTS).read_text())
    if not isinstance(values, dict):
        raise ValueError(f"{folder / DEFAULTS}: expected methods with the names of presets, got {values!r}")
    return {str(method): str(name) for method, name in values.items()}


def choose_default(method: str, name: str | None) -> Path:
    """Make a preset the one that a method uses where none is named; None: the built-in one again. Return the file.

    Raises ValueError for an unknown method or preset.
    """
    folder = preset_folder()
    if folder is None:
        raise ValueError("KDRIFT_PRESETS is empty, which means no presets of your own: set it to a folder, or unset it")
    if name is not None:
        find_preset(method, name)
    elif method not in METHODS:
        raise ValueError(f"no method {method!r}{suggest(method, METHODS)}")
    values = {**default_presets(), method: name}
    write_yaml(folder / DEFAULTS, {key: value for key, value in values.items() if value is not None})
    return folder / DEFAULTS


def check_free(method: str, name: str, mlflow_run: str | None) -> None:
    """Raise ValueError where a search cannot keep its find under `name`: a built-in name, or that of another find."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(f"a search is named with letters, digits, '.', '_' and '-', got {name!r}")
    if name in METHODS[method].presets:
        raise ValueError(f"{name!r} is a built-in preset of {method}: give the search another name")
    file = own_presets(method).get(name)
    if file is not None and read_preset(file, method).provenance.get("mlflow_run") != mlflow_run:
        raise ValueError(f"you have a preset {name!r} of {method} already, {file}: give the search another name")


def save_preset(preset: Preset) -> Path | None:
    """Write a preset into the user's folder under its name; None where there is no such folder."""
    folder = preset_folder()
    return None if folder is None else write_preset(preset, folder / preset.method / f"{preset.name}.yaml")


def read_preset(path: str | Path, method: str | None = None) -> Preset:
    """Read a preset file; with `method` it must be one of that method. Raises ValueError or OSError naming the file."""
    try:
        values = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"preset {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"preset {path}: expected a mapping with method and settings, got {type(values).__name__}")
    preset = replace(parse(Preset, {"name": Path(path).stem, **values}, f"preset {path}"), source=FILE)
    if method not in (None, preset.method):
        raise ValueError(f"preset {path} is of method {preset.method}, asked for {method}")
    return preset


def write_preset(preset: Preset, path: Path) -> Path:
    """Write a preset file, whole or not at all."""
    values = to_dict(preset)
    del values["source"]
    write_yaml(path, values)
    return path
