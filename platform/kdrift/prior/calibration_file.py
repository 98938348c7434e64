"""The file of a prior's bundle that holds its calibrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from kdrift.prior.calibration import CALIBRATION, Calibration
from kdrift.runs.config import parse, to_dict
from kdrift.runs.files import write_yaml


def read_calibrations(folder: Path, sha256: str) -> tuple[Calibration, ...]:
    """Read the calibrations of a bundle whose weights have this SHA-256, none where there is no such file.

    Raises ValueError for a file that is no list of them, and for calibrations of other weights.
    """
    file, where = folder / CALIBRATION, f"prior {folder.name}: {CALIBRATION}"
    if not file.is_file():
        return ()
    try:
        values = yaml.safe_load(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{where} cannot be read: {str(error).splitlines()[0]}") from None
    entries = values.get("calibrations") if isinstance(values, Mapping) else None
    if not isinstance(entries, list):
        raise ValueError(f"{where}: expected a list called calibrations; calibrate again, or delete the file")
    found = tuple(parse(Calibration, entry, f"{where}: calibrations.{i}") for i, entry in enumerate(entries))
    for entry in found:
        if entry.prior_sha256 != sha256:
            raise ValueError(
                f"{where}: {entry.name} is of weights {entry.prior_sha256[:12]}, these are {sha256[:12]}: calibrate"
                " again, or delete the file"
            )
    return found


def write_calibrations(folder: Path, calibrations: Sequence[Calibration]) -> None:
    """Write the file of a bundle."""
    write_yaml(folder / CALIBRATION, {"calibrations": [to_dict(each) for each in calibrations]})
