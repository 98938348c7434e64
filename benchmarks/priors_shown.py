"""What priors make of the same real k-space: figures, and a panel of their images and errors.

    python -m benchmarks.priors_shown brain-complex-small brain-complex [--acceleration 4 8] [--out build/priors]

The 4-coil slice graz_t2_4ch on equispaced lines with 8 % of them in the centre, by the default method with all its
settings but the prior. PSNR and SSIM are fastMRI's; the last figure is how much of the object the 90 % intervals hold.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from benchmarks.held_out import DATA, FOUR
from kdrift.measures.metrics import evaluate
from kdrift.recon.acquisition import load_acquisition
from kdrift.recon.panel import save_panel
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.recon.request import AcquisitionRequest
from kdrift.trust.uncertainty import summary


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("priors", nargs="+", metavar="PRIOR")
    parser.add_argument("--acceleration", nargs="+", type=float, default=[4.0])
    parser.add_argument("--out", type=Path, default=Path("build/priors"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for acceleration in arguments.acceleration:
        show(arguments.priors, acceleration, arguments.out / f"graz{acceleration:g}.png")


def show(priors: list[str], acceleration: float, path: Path) -> None:
    """Reconstruct with each prior, print a line for it, and draw them."""
    source, mask = str(DATA / "kspace" / "graz_t2_4ch.h5"), replace(FOUR, acceleration=acceleration)
    scan = load_acquisition(AcquisitionRequest(source=source, mask=mask))
    assert scan.reference is not None
    images = dict[str, Tensor]()
    for prior in priors:
        result = reconstruct(scan.kspace, scan.mask, plan=Plan(), prior=prior, slice_indices=scan.slice_indices)
        image, std = (scan.crop(each) for each in (result.mean, result.std))
        figures = evaluate(scan.reference, image) | summary(image, std, scan.reference)
        line = f"{figures['psnr']:.2f} dB, SSIM {figures['ssim']:.3f}, {figures['coverage']:.0%} within intervals"
        print(f"{acceleration:g}x  {prior}: {line}, {result.seconds:.0f} s", flush=True)
        images[prior] = image[0]
    last = images.pop(priors[-1])
    save_panel(
        path, zero_filled=scan.crop(result.zero_filled)[0], baselines=images, mean=last, mean_title=priors[-1],
        reference=scan.reference[0], mask=scan.mask, title=scan.sampling,
    )  # fmt: skip


if __name__ == "__main__":
    main()
