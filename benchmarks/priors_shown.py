"""What priors make of the same real k-space: figures, and a picture of images and errors side by side.

    python -m benchmarks.priors_shown brain-complex-small brain-complex [--acceleration 4 8] [--out build/priors]

The 4-coil slice graz_t2_4ch on equispaced lines with 8 % of them in the centre, by the default method with all its
settings but the prior. PSNR and SSIM are fastMRI's; the last figure is how much of the object the 90 % intervals hold.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.held_out import DATA
from kdrift.measures.metrics import evaluate
from kdrift.recon.acquisition import load_acquisition
from kdrift.recon.plan import Plan
from kdrift.recon.reconstruct import reconstruct
from kdrift.recon.request import AcquisitionRequest, MaskRequest
from kdrift.trust.uncertainty import object_mask


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
    """Reconstruct with each prior, print a line for it, and draw."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    mask = MaskRequest("equispaced", acceleration=acceleration, acs_fraction=0.08)
    scan = load_acquisition(AcquisitionRequest(source=str(DATA / "kspace" / "graz_t2_4ch.h5"), mask=mask))
    assert scan.reference is not None
    top = float(scan.reference.max()) * 0.8
    figure, axes = plt.subplots(2, len(priors) + 1, figsize=(3.4 * (len(priors) + 1), 6.8), layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    axes[0, 0].imshow(scan.reference[0], cmap="gray", vmin=0, vmax=top)
    axes[0, 0].set_title("reference", fontsize=9)
    for column, prior in enumerate(priors, start=1):
        result = reconstruct(scan.kspace, scan.mask, plan=Plan(), prior=prior, slice_indices=scan.slice_indices)
        image, lower, upper = (scan.crop(each) for each in (result.mean, result.lower, result.upper))
        figures = evaluate(scan.reference, image)
        held = ((scan.reference >= lower) & (scan.reference <= upper))[object_mask(scan.reference)].float().mean()
        line = f"{figures['psnr']:.2f} dB, SSIM {figures['ssim']:.3f}, {100 * held:.0f} % within intervals"
        print(f"{acceleration:g}x  {prior}: {line}, {result.seconds:.0f} s", flush=True)
        axes[0, column].imshow(image[0], cmap="gray", vmin=0, vmax=top)
        axes[0, column].set_title(f"{prior}\n{figures['psnr']:.2f} dB, {figures['ssim']:.3f}", fontsize=9)
        axes[1, column].imshow(torch.abs(image - scan.reference)[0], cmap="inferno", vmin=0, vmax=top / 8)
        axes[1, column].set_title("error x 8", fontsize=8)
    figure.savefig(path, dpi=80)
    plt.close(figure)


if __name__ == "__main__":
    main()
