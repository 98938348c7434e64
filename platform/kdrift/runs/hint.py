"""What errors say: a hint for a name that is not known, one line of what another library said."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ', did you mean X?' for the nearest known name, else the list of what is known."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f", did you mean {near[0]!r}?" if near else f"; known: {', '.join(known) or 'none'}"


def first_line(error: object) -> str:
    """Return the first line of an error's text that is not blank, or the name of its class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def one_line(error: object) -> str:
    """Return an error's text on one line, or the name of its class."""
    return " ".join(str(error).split()) or type(error).__name__
