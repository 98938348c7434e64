"""What is selected of a file that holds several images, checked against what there is."""

from __future__ import annotations

from collections.abc import Sequence

from kdrift.data.volume import BadVolume, ReadOptions


def check_names(path: str, how: ReadOptions, known: Sequence[str]) -> None:
    """Raise BadVolume where something is selected by a name that this kind of file does not know."""
    if unknown := sorted(set(how.select) - set(known)):
        raise BadVolume(path, f"cannot select {', '.join(unknown)} here, expected one of {', '.join(known)}")


def selected_index(path: str, how: ReadOptions, name: str, count: int) -> int:
    """Return which of `count` is selected by `name`, 0 by default. Raises BadVolume for what is no number below it."""
    value = how.select.get(name, "0")
    if not (value.isascii() and value.isdigit() and len(value) < 10 and int(value) < count):
        there = "there is 1, number 0" if count == 1 else f"there are {count}, numbers 0 to {count - 1}"
        raise BadVolume(path, f"select {name}={value[:20]}: {there}")
    return int(value)
