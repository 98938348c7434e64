"""`kdrift config`: the configurations that come with kdrift."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kdrift.commands.common import Row
from kdrift.commands.options import Misuse

Name = Annotated[str, Parameter(name="NAME")]


@dataclass(frozen=True, kw_only=True)
class List:
    """List the names that --config takes, by verb, and the recipes of kdrift evaluate."""


@dataclass(frozen=True, kw_only=True)
class Show:
    """Print a configuration."""

    name: Name = field(kw_only=False)
    """NAME, or VERB/NAME where several verbs have one of that name."""


@dataclass(frozen=True, kw_only=True)
class Init:
    """Copy a configuration to a file of your own, to edit."""

    name: Name = field(kw_only=False)
    """NAME, or VERB/NAME where several verbs have one of that name."""
    out: Annotated[Path | None, Parameter(metavar="FILE")] = None
    """File to write; by default NAME.yaml here. One that is there is left as it is."""


VERBS = {"list": List, "show": Show, "init": Init}


def run(options: List | Show | Init) -> int:
    """List, print or copy."""
    from kdrift.runs.config_names import RECIPES, config_names, verbs_with_configs
    from kdrift.runs.files import refuse_address

    if isinstance(options, List):
        for verb in verbs_with_configs():
            print(f"{verb}: {', '.join(config_names(verb))}")
        return 0
    verb, path = _find(options.name)
    if isinstance(options, Show):
        print(path.read_text(), end="")
        return 0
    out = options.out or Path(path.name)
    refuse_address(out, "--out")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with out.open("x") as stream:
            stream.write(path.read_text())
    except FileExistsError:
        raise ValueError(f"{out} is there already: remove it, or name another file with --out") from None
    print(f"written: {out}")
    use = "evaluate --recipe" if verb == RECIPES else f"{verb} --config"
    print(f"use it:  kdrift {use} {out if out.suffix else out.resolve()}")
    return 0


def config_rows() -> list[Row]:
    """Return one row for each configuration that comes with kdrift."""
    rows: list[Row] = []
    for verb, path in _configs():
        first = path.read_text().partition("\n")[0]
        about = first.removeprefix("# ").partition(": kdrift")[0] if first.startswith("#") else None
        rows.append({"config": path.stem, "verb": verb, "what_it_is": about})
    return rows


def _configs() -> list[tuple[str, Path]]:
    """Return the verb and the file of every configuration."""
    from kdrift.runs.config_names import config_names, configs_folder, verbs_with_configs

    verbs = verbs_with_configs()
    return [(verb, configs_folder() / verb / f"{name}.yaml") for verb in verbs for name in config_names(verb)]


def _find(text: str) -> tuple[str, Path]:
    """Return the verb and the file of NAME or VERB/NAME."""
    from kdrift.runs.hint import suggest

    known = {f"{verb}/{path.stem}": (verb, path) for verb, path in _configs()}
    found = [full for full, (_, path) in known.items() if text in (full, path.stem)]
    if not found:
        names = [*known, *(path.stem for _, path in known.values())]
        raise ValueError(f"no configuration {text!r}{suggest(text, names)}")
    if len(found) > 1:
        raise Misuse(f"{len(found)} verbs have a configuration {text!r}: say {', '.join(found)}")
    return known[found[0]]
