"""`kdrift phantom`: a simulated multi-coil head scan in the fastMRI layout."""

from __future__ import annotations

import argparse
import math
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = "Write a simulated multi-coil head phantom in the fastMRI layout, labelled simulated."
    parser.add_argument("--out", metavar="FILE.h5", required=True, help="file to write")
    parser.add_argument("--slices", type=int, default=8, help="number of slices (default 8)")
    parser.add_argument("--size", metavar="N|ROWSxCOLS", default="256", help="matrix size (default 256)")
    parser.add_argument("--coils", type=int, default=8, help="number of receive coils (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="anatomy, contrast, phase and noise (default 0)")
    parser.add_argument("--contrast", choices=("T1", "T2", "FLAIR", "PD"), help="default: by the seed")
    parser.add_argument("--snr", metavar="DB", default="35", help="dB in the coil-combined image, or none (default 35)")


def run(args: argparse.Namespace) -> int:
    """Write the file."""
    from kdrift.data.formats.fastmri import write_fastmri
    from kdrift.data.phantom import phantom_volume

    rows, cols = _size(args.size)
    snr_db = math.inf if args.snr == "none" else _decibels(args.snr)
    if args.seed < 0:
        raise ValueError(f"--seed is {args.seed}, expected 0 or more")
    phantom = phantom_volume(args.slices, rows, cols, args.coils, args.seed, snr_db, args.contrast)
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    write_fastmri(args.out, phantom.kspace, reference=phantom.reference, attrs=phantom.attrs)
    shape = " x ".join(str(n) for n in phantom.kspace.shape)
    print(f"{args.out}: simulated, {shape}, {phantom.attrs['acquisition']}, noise std {phantom.noise_std:.4g}")
    return 0


def _size(text: str) -> tuple[int, int]:
    rows, _, cols = text.partition("x")
    if not rows.isdigit() or not (cols or rows).isdigit():
        raise ValueError(f"--size is {text!r}, expected a number like 256 or two like 320x256")
    return int(rows), int(cols or rows)


def _decibels(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--snr is {text!r}, expected a number or none") from None
