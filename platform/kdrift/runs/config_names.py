"""Configurations that come with kdrift, by name: `kdrift train --config tiny`."""

from __future__ import annotations

from pathlib import Path

import kdrift
from kdrift.runs.hint import suggest

RECIPES = "recipes"
"""The folder of evaluations of published tables and figures, which `kdrift evaluate --recipe` takes by name."""


def configs_folder() -> Path:
    """Return the folder of configurations, one folder a verb: in the installed package, or `configs/` of a checkout."""
    package = Path(kdrift.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parents[1] / "configs"


def config_names(verb: str) -> list[str]:
    """Return the names that `kdrift VERB --config` takes."""
    return sorted(path.stem for path in (configs_folder() / verb).glob("*.yaml"))


def verbs_with_configs() -> list[str]:
    """Return the verbs that have configurations."""
    return sorted(path.name for path in configs_folder().iterdir() if any(path.glob("*.yaml")))


def find_config(verb: str, text: str) -> Path:
    """Return the file that `--config TEXT` means: a path, else the name of a configuration of `verb`.

    For the verb `recipes` it is what `--recipe TEXT` means. A text with a slash or a suffix is a path whether or not it
    is there. Raises ValueError for an unknown name.
    """
    path = Path(text)
    if path.is_file() or path.suffix or path.parent != Path():
        return path
    named = configs_folder() / verb / f"{text}.yaml"
    if named.is_file():
        return named
    raise ValueError(
        f"no file and no {'recipe' if verb == RECIPES else f'configuration of kdrift {verb}'} is called"
        f" {text!r}{suggest(text, config_names(verb))}"
    )
