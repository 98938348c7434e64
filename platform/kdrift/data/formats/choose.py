"""Choosing one of several (times, echoes, variables) that a file holds, and saying which was taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kdrift.data.volume import BadVolume, ReadOptions


def check_select(path: str, how: ReadOptions, names: Iterable[str]) -> None:
    """Raise `BadVolume` where something is selected by a name that a format does not have."""
    known = list(names)
    unknown = [name for name in how.select if name not in known]
    if unknown:
        raise BadVolume(path, f"select names {', '.join(unknown)}; here {', '.join(known) or 'nothing'} can be chosen")


def choose_index(path: str, name: str, count: int, select: Mapping[str, str]) -> tuple[int, tuple[str, ...]]:
    """Return which of `count` is chosen, from 0, by default the first, and a note where there are several.

    Raises BadVolume for what is no number, or none of them.
    """
    text = select.get(name, "0")
    if not text.isdecimal() or int(text) >= count:
        raise BadVolume(path, f"{name} is {text!r}, expected a number from 0 to {count - 1}")
    note = f"{name} {int(text)} of {count} was taken (from 0); --select {name}=N takes another"
    return int(text), (note,) if count > 1 else ()
