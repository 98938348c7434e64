"""One set of coil maps or two, which is chosen, and what true maps would give: the table of docs/reconstruct.md.

    python -m benchmarks.map_sets                   # all of `NAMES` at 4x, equispaced, 8 % of calibration lines
    python -m benchmarks.map_sets p09_fov_75 --acceleration 8 --acs-fraction 0.04

Each scan of `trust_scans` is reconstructed by the default sampler with maps fitted together with the image, 2 samples;
a small field of view also as the whole field from as many lines.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.held_out import FOUR
from benchmarks.trust_scans import SCANS, TrustScan
from kdrift.measures.metrics import evaluate
from kdrift.mri.map_sets import CROP, see_sets
from kdrift.mri.masks import make_mask
from kdrift.mri.noise import coil_noise_sigma
from kdrift.prior.bundle import Prior, load_prior
from kdrift.recon.plan import DEFAULT_PRIOR, Plan
from kdrift.recon.reconstruct import reconstruct_slices
from kdrift.recon.request import MaskRequest
from kdrift.recon.slices import RawSlice

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
    sets: int
    """Sets that are chosen."""
    measured: tuple[tuple[float, float] | None, ...]
    """PSNR (dB) and SSIM with one set, two, those that are chosen, true maps, and of the whole field of view."""

    def __str__(self) -> str:
        shown = ["" if each is None else f"{each[0]:.2f} / {each[1]:.3f}" for each in self.measured]
        kind = self.scan.group.split(",")[0]
        return (
            f"| {self.scan.split}, {kind} | {self.scan.name} | {self.share:.3f} | {self.sets} | {' | '.join(shown)} |"
        )


def compare(scan: TrustScan, mask: MaskRequest, prior: Prior) -> Row:
    """Reconstruct a scan with one set, with two, with those that are chosen, and with true ones."""
    raw, reference = scan.load(mask)
    seen = see_sets(raw.kspace, noise_sigma=float(coil_noise_sigma(raw.kspace, raw.mask).max()))

    def measure(raw: RawSlice, reference: Tensor, sets: int | None = None) -> tuple[tuple[float, float], int]:
        plan = Plan(num_samples=2, num_map_sets=sets, check=False)
        result = reconstruct_slices([raw], plan=plan, prior=prior, device="cpu")
        values = evaluate(reference[None], result.mean)
        assert result.smaps is not None
        return (values["psnr"], values["ssim"]), result.smaps.shape[1:-3].numel()

    true, whole, base = scan.true_maps, None, scan.base()
    if base.kspace.shape != raw.kspace.shape:
        rows, cols = base.kspace.shape[-2:]
        fewer = raw.kspace.shape[-1] / cols
        lines = make_mask(mask.kind or "", (rows, cols), **wider(mask, fewer).draw).mask
        as_many = RawSlice(0, torch.where(lines, base.kspace, 0), lines, coils=base.coils)
        whole, _ = measure(as_many, base.reference)
    one, two = (measure(raw, reference, sets)[0] for sets in (1, 2))
    chosen, sets = measure(raw, reference)
    with_true = None if true is None else measure(replace(raw, smaps=true), reference)[0]
    return Row(scan, seen.second, sets, (one, two, chosen, with_true, whole))


def wider(mask: MaskRequest, fewer: float) -> MaskRequest:
    """Return a mask of a wider matrix that has as many lines."""
    return MaskRequest(mask.kind, (mask.acceleration or 1) / fewer, (mask.acs_fraction or 0) * fewer)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, help="scans of trust_scans")
    parser.add_argument("--acceleration", type=float, default=FOUR.acceleration)
    parser.add_argument("--acs-fraction", type=float, default=FOUR.acs_fraction)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    mask, prior = MaskRequest("equispaced", args.acceleration, args.acs_fraction), load_prior(DEFAULT_PRIOR)
    scans = {scan.name: scan for scan in SCANS}
    print(f"| split, data | scan | second > {CROP:g} | sets | one set | two sets | chosen | true maps | whole field |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in args.names:
        print(compare(scans[name], mask, prior), flush=True)


if __name__ == "__main__":
    main()
