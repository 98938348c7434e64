"""What a client sends: files, arrays and options as the service takes them."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


@contextlib.contextmanager
def opened(source: Any) -> Iterator[tuple[str, BinaryIO]]:
    """Yield name and content of what is uploaded."""
    if isinstance(source, (str, os.PathLike)):
        with Path(source).open("rb") as file:
            yield Path(source).name, file
        return
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(source), allow_pickle=False)
    yield "array.npy", buffer


def plain(values: Any) -> Any:
    """Return a plan or a mask as plain values, without what a request leaves at its default."""
    if not dataclasses.is_dataclass(values) or isinstance(values, type):
        return values
    if dataclasses.is_dataclass(getattr(values, "preset", None)):
        raise ValueError("a plan for the service names its preset, and does not hold it")
    default = {field.name: field.default for field in dataclasses.fields(values)}
    found = {name: value for name, value in vars(values).items() if value != default[name]}
    return {name: value for name, value in found.items() if value not in ({}, None)}


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the options of a query, nested ones with dots; what is None is left out."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value if _is_plain(value) else json.dumps(value, default=number)


def _is_plain(value: Any) -> bool:
    """Whether a text reads as itself, and not as a number or another value, where it stands in a query."""
    try:
        json.loads(value)
    except ValueError:
        return True
    except TypeError:
        pass
    return False


def number(value: Any) -> Any:
    """Return a number of NumPy as one of Python. Raises TypeError for anything else."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"an option of a request is text, a number, a list or a mapping, got {type(value).__name__}")
