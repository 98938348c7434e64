"""One set of coil maps or two, and which of them is chosen: the table of docs/reconstruct.md.

    python -m benchmarks.map_sets                   # all of `NAMES` at 4x, equispaced, 8 % of calibration lines
    python -m benchmarks.map_sets p09_fov_75 --acceleration 8 --acs-fraction 0.04

Each scan of `trust_scans` is reconstructed by the default sampler with maps fitted together with the image, 2 samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.held_out import FOUR
from benchmarks.trust_scans import SCANS, TrustScan
from kdrift.measures.metrics import evaluate
from kdrift.mri.map_sets import CROP, choose_sets, see_sets
from kdrift.mri.noise import coil_noise_sigma
from kdrift.prior.bundle import Prior, load_prior
from kdrift.recon.plan import DEFAULT_PRIOR, Plan
from kdrift.recon.reconstruct import reconstruct_slices
from kdrift.recon.request import MaskRequest

NAMES = (
    "p09_middle", "p09_high", "p09_fov_90", "p09_fov_75", "p09_steep",
    "graz_t2", "graz_t2_fov_85", "graz_t2_fov_70", "p12_flair", "p12_t2", "p12_flair_fov_85", "p12_flair_fov_70",
    "p12_t2_steep",
)  # fmt: skip
"""Scans inside of the field of view, wider than it, and with coils that turn the phase fast."""


@dataclass(frozen=True)
class Row:
    """What came of a scan."""

    scan: TrustScan
    share: float
    """Share of the energy with a second eigenvalue above `CROP`."""
    chosen: int
    measured: dict[int, tuple[float, float]]
    """PSNR (dB) and SSIM by the number of sets."""

    def __str__(self) -> str:
        shown = [f"{psnr:.2f} / {ssim:.3f}" for psnr, ssim in (*self.measured.values(), self.measured[self.chosen])]
        kind = self.scan.group.split(",")[0]
        return (
            f"| {self.scan.split}, {kind} | {self.scan.name} | {self.share:.3f} | {self.chosen} | {' | '.join(shown)} |"
        )


def compare(scan: TrustScan, mask: MaskRequest, prior: Prior) -> Row:
    """Reconstruct a scan with one set and with two."""
    raw, reference = scan.load(mask)
    seen = see_sets(raw.kspace, noise_sigma=float(coil_noise_sigma(raw.kspace, raw.mask).max()))
    measured = {}
    for sets in (1, 2):
        plan = Plan(num_samples=2, num_map_sets=sets, check=False)
        values = evaluate(reference[None], reconstruct_slices([raw], plan=plan, prior=prior, device="cpu").mean)
        measured[sets] = values["psnr"], values["ssim"]
    return Row(scan, seen.second, choose_sets(seen)[0], measured)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, help="scans of trust_scans")
    parser.add_argument("--acceleration", type=float, default=FOUR.acceleration)
    parser.add_argument("--acs-fraction", type=float, default=FOUR.acs_fraction)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    mask, prior = MaskRequest("equispaced", args.acceleration, args.acs_fraction), load_prior(DEFAULT_PRIOR)
    scans = {scan.name: scan for scan in SCANS}
    print(f"| split, data | scan | second > {CROP:g} | chosen | one set | two sets | chosen |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name in args.names:
        print(compare(scans[name], mask, prior), flush=True)


if __name__ == "__main__":
    main()
