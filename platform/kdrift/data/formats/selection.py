"""What is selected of a file that holds several, checked against what there is, and the note on what was taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kdrift.data.volume import BadVolume, ReadOptions

_MOST_NAMED = 12


def check_names(path: str, how: ReadOptions, known: Sequence[str]) -> None:
    """Raise BadVolume where something is selected by a name that this kind of file does not know."""
    if unknown := sorted(set(how.select) - set(known)):
        expected = f"one of {', '.join(known)}" if known else "nothing: there is nothing to choose"
        raise BadVolume(path, f"cannot select {', '.join(unknown)} here, expected {expected}")


def selected_index(path: str, how: ReadOptions, name: str, count: int) -> int:
    """Return which of `count` is selected by `name`, 0 by default. Raises BadVolume for what is no number below it."""
    value = how.select.get(name, "0")
    if not (value.isascii() and value.isdigit() and len(value) < 10 and int(value) < count):
        there = "there is 1, number 0" if count == 1 else f"there are {count}, numbers 0 to {count - 1}"
        raise BadVolume(path, f"select {name}={value[:20]}: {there}")
    return int(value)


def taken_note(name: str, taken: object, there: object, detail: str = "", value: str = "N") -> str:
    """Return the sentence on what was taken of several: `echo 0 of 3 was taken; --select echo=N takes another`.

    `there` is how many there are, or which; `detail` says more of what was taken, `value` what selects another.
    """
    return f"{name} {taken} of {there}{detail} was taken; --select {name}={value} takes another"


def ranges(values: npt.NDArray[Any]) -> str:
    """Return sorted whole numbers as `0-2, 5`."""
    runs = np.split(values, np.flatnonzero(np.diff(values.astype(np.int64)) != 1) + 1) if len(values) else []
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs[:_MOST_NAMED]]
    return ", ".join([*texts, "..."] if len(runs) > _MOST_NAMED else texts)
