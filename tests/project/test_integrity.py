"""Nothing that was damaged is read in silence: the quick half of `python -m benchmarks.integrity`."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.integrity import KINDS, flip_bits, remove_files, run


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits_and_missing_files_are_found(kind: str, tmp_path: Path) -> None:
    write, read = KINDS[kind]
    place = write(tmp_path / kind)
    read(place)
    assert flip_bits(place, read, 30, seed=1) == []
    if kind != "checkpoint":  # those of older versions have no digest, and one without it is taken for such
        assert remove_files(place, read, 10, seed=1) == []
    read(place)


@pytest.mark.slow
def test_in_full_and_for_at_most_a_tenth_of_reading() -> None:
    rows = run()
    assert [row["value"] for row in rows if "silence" in row["name"]] == [0] * 4
    assert all(row["ratio"] < 1.1 for row in rows if "checks" in row["name"])
