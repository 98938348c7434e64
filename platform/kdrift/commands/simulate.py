"""`kdrift simulate`: multi-coil k-space from magnitude volumes."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        "Simulate multi-coil k-space from magnitude volumes (NIfTI, DICOM, ...): coil maps, phase, noise."
        " What it makes is labelled simulated."
    )
    parser.add_argument("sources", nargs="+", metavar="SRC", help="magnitude volume: file, folder, glob or URL")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--out", metavar="FILE.h5|DIR", help="fastMRI HDF5 file, or a folder for one file a volume")
    where.add_argument("--store", metavar="X.zarr", help="store to add the volumes to")
    parser.add_argument(
        "--coils", type=int, default=None, help="coils, or virtual coils of --maps (default: 8, or all)"
    )
    parser.add_argument("--maps", metavar="FILE.npy", default=None, help="measured coil maps (coil, row, col)")
    parser.add_argument("--snr", default="30", metavar="DB", help="dB in the coil-combined image, or none (default 30)")
    parser.add_argument("--phase-order", type=int, default=3, help="order of the smooth phase (default 3)")
    parser.add_argument("--phase-rad", type=float, default=1.0, help="spread of the phase in radians (default 1)")
    parser.add_argument("--size", metavar="ROWSxCOLS", default=None, help="crop or pad the images to this size")
    parser.add_argument(
        "--matrix", metavar="ROWSxCOLS", default=None, help="lower the resolution to this, over the same field of view"
    )
    parser.add_argument("--slices", metavar="A:B", default=None, help="slices to use (default: all)")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Simulate every source; a fault stops the run and names its source."""
    from kdrift.data.convert_sources import assign_names, find_all, fingerprint
    from kdrift.data.formats import open_volume
    from kdrift.data.simulate import SimulationConfig, simulated, write_simulated
    from kdrift.data.store import open_store
    from kdrift.data.store_write import write_volume

    config = SimulationConfig(
        num_coils=args.coils,
        maps=args.maps,
        snr_db=None if args.snr == "none" else _number(args.snr, "--snr"),
        phase_order=args.phase_order,
        phase_rad=args.phase_rad,
        size=_pair(args.size, "x", "--size") if args.size else None,
        matrix=_pair(args.matrix, "x", "--matrix") if args.matrix else None,
        seed=args.seed,
    )
    first, last = _pair(args.slices, ":", "--slices") if args.slices else (0, None)
    sources = find_all(args.sources)
    names = assign_names(sources, {})
    single_file = args.out is not None and args.out.endswith((".h5", ".hdf5"))
    if single_file and len(sources) > 1:
        raise ValueError(f"--out {args.out} is one file, there are {len(sources)} sources; name a folder")
    store = open_store(args.store, "a") if args.store else None
    for source in sources:
        name = f"{names[source.path]}_sim"
        with open_volume(source.path) as volume:
            made = simulated(volume, config, first, last)
            if store is not None:
                digest = fingerprint(source.path, with_hash=True)["sha256"]
                write_volume(store, name, made, source={"simulated_from": source.path, "sha256": digest})
                where = f"{args.store}/{name}"
            else:
                path = Path(args.out) if single_file else Path(args.out) / f"{name}.h5"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_simulated(made, path)
                where = str(path)
        info = made.info
        size = f"{info.num_slices} x {info.num_coils} x {info.rows} x {info.cols}"
        print(f"{where}: simulated, {size}, noise std {info.attrs['simulation_noise_std']:.4g}")
    return 0


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{option} is {text!r}, expected a number or none") from None


def _pair(text: str, separator: str, option: str) -> tuple[int, int]:
    first, found, second = text.partition(separator)
    if not found or not first.isdigit() or not second.isdigit():
        raise ValueError(f"{option} is {text!r}, expected two whole numbers like 320{separator}320")
    return int(first), int(second)
