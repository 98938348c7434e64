"""The command that runs now, as it may be published: without the folders of this machine."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path, PurePath

_OF_THIS_MACHINE = re.compile(r"(/|~|\.\.?/|[A-Za-z][A-Za-z0-9+.-]*://)")
"""Absolute and parent folders, homes, and addresses, which may hold a user's name or key."""


def command_line(arguments: Sequence[str] | None = None) -> str:
    """Return a command (default: this process's) in shell syntax; paths and addresses are cut to their last name.

    Relative paths inside of the working folder stay: they say which configuration was used.
    """
    program, *rest = arguments or sys.argv
    return " ".join([_program(program), *(shlex.quote(_without_folders(word)) for word in rest)])


def _program(path: str) -> str:
    script = Path(path)
    if script.name == "__main__.py":
        return f"python -m {script.parent.name}"
    return f"python {script.name}" if script.suffix == ".py" else script.name


def _without_folders(word: str) -> str:
    """Cut each path in `--option=path` and in `key=[path, path]`; of an address, name, key and query go too."""
    if "://" in word:
        word = re.sub(r"://[^/@\s]*@", "://", re.sub(r"[?#][^,\]\s]*", "", word))
    return "".join(
        PurePath(part.rstrip("/")).name if _OF_THIS_MACHINE.match(part) else part
        for part in re.split(r"([=,\[\]'\"]\s*)", word)
    )
