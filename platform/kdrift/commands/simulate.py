"""`kdrift simulate`: multi-coil k-space from magnitude volumes."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from kdrift.commands.common import decibels
from kdrift.commands.options import Misuse

if TYPE_CHECKING:
    from kdrift.data.simulate import SimulationConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """Simulate multi-coil k-space from magnitude volumes (NIfTI, DICOM, ...): coil maps, phase, noise.

    What it makes is labelled simulated.
    """

    sources: Annotated[tuple[str, ...], Parameter(name="SRC")] = field(kw_only=False)
    """Magnitude volumes: files, folders, globs or URLs."""
    out: Annotated[str | None, Parameter(metavar="FILE.h5|DIR|URL")] = None
    """fastMRI HDF5 file, or a folder for one file a volume; or a URL of one of the two, such as s3://bucket/x.h5."""
    store: Annotated[str | None, Parameter(metavar="X.zarr")] = None
    """Folder or URL of a store to add the volumes to; give this or --out."""
    coils: int | None = None
    """Coils, or virtual coils of --maps; by default 8, or all."""
    maps: Annotated[str | None, Parameter(metavar="FILE.npy|URL")] = None
    """Measured coil maps (coil, row, col)."""
    snr: Annotated[str, Parameter(metavar="DB")] = "30"
    """Signal-to-noise ratio in dB, in the coil-combined image; none: no noise."""
    phase_order: int = 3
    """Order of the smooth phase."""
    phase_rad: float = 1.0
    """Spread of the phase in radians; 0: none."""
    size: Annotated[str | None, Parameter(metavar="ROWSxCOLS")] = None
    """Crop or pad the images to this size."""
    matrix: Annotated[str | None, Parameter(metavar="ROWSxCOLS")] = None
    """Lower the resolution to this, over the same field of view."""
    slices: Annotated[str | None, Parameter(metavar="A:B")] = None
    """Slices to use; by default all."""
    seed: int = 0
    """Seed of coil maps, phase and noise."""


def run(options: Options) -> int:
    """Simulate every source; a fault stops the run and names its source."""
    from kdrift.runs.remote import copied

    if (options.out is None) == (options.store is None):
        raise Misuse("give --out or --store, one of the two")
    with copied(options.maps) if options.maps else contextlib.nullcontext() as maps:
        return _simulate(options, _config(options, None if maps is None else str(maps)))


def _simulate(options: Options, config: SimulationConfig) -> int:
    from kdrift.data.convert_sources import assign_names, find_all, fingerprint
    from kdrift.data.formats import open_volume
    from kdrift.data.simulate import simulated, write_simulated
    from kdrift.data.store import open_store
    from kdrift.data.store_write import write_volume
    from kdrift.runs.home import file_at

    first, last = _pair(options.slices, ":", "--slices") if options.slices else (0, None)
    sources = find_all(options.sources, lambda sentence: print(f"note: {sentence}", file=sys.stderr))
    names = assign_names(sources, {})
    single_file = options.out is not None and options.out.endswith((".h5", ".hdf5"))
    if single_file and len(sources) > 1:
        raise ValueError(f"--out {options.out} is one file, there are {len(sources)} sources; name a folder")
    store = open_store(options.store, "a") if options.store else None
    for source in sources:
        name = f"{names[source.path]}_sim"
        with open_volume(source.path) as volume:
            made = simulated(volume, config, first, last)
            if store is not None:
                digest = fingerprint(source.path, with_hash=True)["sha256"]
                write_volume(store, name, made, source={"simulated_from": source.path, "sha256": digest})
                where = f"{options.store}/{name}"
            else:
                where = str(options.out) if single_file else os.path.join(str(options.out), f"{name}.h5")
                with file_at(where, what="simulation") as path:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_simulated(made, path)
        info = made.info
        size = f"{info.num_slices} x {info.num_coils} x {info.rows} x {info.cols}"
        print(f"{where}: simulated, {size}, noise std {info.attrs['simulation_noise_std']:.4g}")
    return 0


def _config(options: Options, maps: str | None) -> SimulationConfig:
    from kdrift.data.simulate import SimulationConfig

    return SimulationConfig(
        num_coils=options.coils,
        maps=maps,
        snr_db=decibels(options.snr),
        phase_order=options.phase_order,
        phase_rad=options.phase_rad,
        size=_pair(options.size, "x", "--size") if options.size else None,
        matrix=_pair(options.matrix, "x", "--matrix") if options.matrix else None,
        seed=options.seed,
    )


def _pair(text: str, separator: str, option: str) -> tuple[int, int]:
    first, found, second = text.partition(separator)
    if not found or not first.isdigit() or not second.isdigit():
        raise ValueError(f"{option} is {text!r}, expected two whole numbers like 320{separator}320")
    return int(first), int(second)
