"""Sources that are the same scan, or parts of one, by content or by what they say of themselves."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from kdrift.data.paths import files_of, split_series

_SAMPLE = 64 << 10
_MOST_PLACES = 8


def same_content(sources: Sequence[str]) -> list[str]:
    """Return a sentence for each group of local sources that have the same content byte for byte.

    Sizes are compared first, then a few samples; only what still looks the same is read as a whole.
    """
    groups: list[list[str]] = [
        [source for source in sources if "://" not in source and split_series(source)[1] is None]
    ]
    for key in (_sizes, _samples, _digest):
        finer: dict[Any, list[str]] = {}
        for number, group in enumerate(groups):
            for source in group:
                try:
                    finer.setdefault((number, key(files_of(source))), []).append(source)
                except OSError:  # opening it says what is wrong
                    continue
        groups = [group for group in finer.values() if len(group) > 1]
    return [f"{', '.join(group)} are the same, byte for byte: keep them in one split" for group in groups]


def same_series(series: Mapping[str, str]) -> list[str]:
    """Return a sentence for each DICOM series that lies in several places; `series` has the UID of each source."""
    places: dict[str, list[str]] = {}
    for source, uid in series.items():
        places.setdefault(uid, []).append(source)
    said = []
    for uid, found in places.items():
        if len(found) > 1:
            shown = ", ".join(found[:_MOST_PLACES]) + (", ..." if len(found) > _MOST_PLACES else "")
            said.append(
                f"{shown} have files of one DICOM series ({uid}), and each is read as a scan of its own: put the parts"
                " of a scan into one folder, and copies into one split"
            )
    return said


def _sizes(files: Sequence[str]) -> Any:
    return tuple(os.path.getsize(file) for file in files)


def _samples(files: Sequence[str]) -> Any:
    samples = []
    for file in files:
        size = os.path.getsize(file)
        with open(file, "rb") as stream:
            for place in (0, size // 2, max(0, size - _SAMPLE)):
                stream.seek(place)
                samples.append(hashlib.sha256(stream.read(_SAMPLE)).digest())
    return tuple(samples)


def _digest(files: Sequence[str]) -> Any:
    digests = []
    for file in files:
        with open(file, "rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").digest())
    return tuple(digests)
