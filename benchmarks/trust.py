"""How true the uncertainty and the verdicts of the default are, on scans with a reference that none of it uses.

    python -m benchmarks.trust run OUT.jsonl [--scans NAME,...] [--masks NAME,...]    # goes on where it stopped
    python -m benchmarks.trust show OUT.jsonl [--diagram OUT.png]

Each scan of `benchmarks.trust_scans` under each mask is reconstructed by default with the fallback on. `before` are the
deviations of the chains of the mean alone, which was the default's. Real and simulated scans are never averaged.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from benchmarks.table import machine
from benchmarks.trust_scans import SCANS, TrustScan
from kdrift.measures.metrics import psnr, ssim
from kdrift.prior.bundle import load_prior
from kdrift.recon.check import CLASSICAL, classical_image
from kdrift.recon.merge import merge_chunks
from kdrift.recon.plan import DEFAULT_PRIOR, Plan
from kdrift.recon.request import MaskRequest
from kdrift.recon.sampling import run_chunk
from kdrift.runs.files import whole_file
from kdrift.runs.seeds import torch_generator
from kdrift.trust.uncertainty import coverage, object_mask, summary

MASKS = {
    "own": None,
    "lines 2x": MaskRequest("equispaced", acceleration=2, acs_fraction=0.08),
    "lines 4x": MaskRequest("equispaced", acceleration=4, acs_fraction=0.08),
    "lines 8x": MaskRequest("equispaced", acceleration=8, acs_fraction=0.04),
    "random 4x": MaskRequest("random", acceleration=4, acs_fraction=0.08),
    "poisson 4x": MaskRequest("poisson", acceleration=4, acs_fraction=0.08),
    "poisson 8x": MaskRequest("poisson", acceleration=8, acs_fraction=0.08),
}
"""`own`: what the scan expects to be judged by."""
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)

CEILING = 5.0
"""Standard deviation in pixels of the Gaussian over which `ceiling` averages the squares of the true errors."""


def ceiling(mean: Tensor, reference: Tensor, draws: int = 8) -> float:
    """Return the rank correlation with its errors of a deviation that is right, at a resolution of `CEILING` pixels.

    The deviation is the local root mean square of the true errors; errors are drawn from it that have the texture of
    the true ones, taken from another place. Mean over draws.
    """
    error = mean - reference
    local = torch.from_numpy(gaussian_filter(error.square().numpy(), CEILING)).sqrt()
    local = local.clamp(min=1e-6 * float(local.max()))
    generator, found = torch_generator("test", 0), []
    for _ in range(draws):
        rows, cols = (int(torch.randint(n // 4, 3 * n // 4, (1,), generator=generator)) for n in error.shape)
        drawn = local * (error / local).roll((rows, cols), (0, 1))
        found.append(summary(reference + drawn, local, reference)["std_error_rank_correlation"])
    return statistics.fmean(found)


def measure(scan: TrustScan, mask: MaskRequest | None) -> dict[str, Any]:
    """Return the figures of one scan under one mask, as plain values."""
    raw, reference = scan.load(mask or scan.mask)
    prior = load_prior(DEFAULT_PRIOR)
    plan = Plan(on_mistrust="fallback").resolve(prior)
    data = plan.prepare(raw, prior)
    chunks = [run_chunk(plan, prior, data, chunk) for chunk in plan.split(len(data.kspace))]
    result = merge_chunks(chunks)
    own = merge_chunks([chunk for chunk in chunks if chunk.chunk.part != "check"])
    spread = next(chunk.moments for chunk in chunks if chunk.chunk.part == "mean" and chunk.moments is not None).std
    verdict, unit = result.verdict, data.unit
    assert verdict is not None
    classical = {name: classical_image(data, name).image * unit for name in CLASSICAL}

    def figures(mean: Tensor, std: Tensor) -> dict[str, Any]:
        inside, curve = object_mask(reference), {}
        if bool((std > 0).any()):
            curve = coverage(mean, std, reference, LEVELS, mask=inside)
        return {**summary(mean, std, reference), "curve": list(curve.values())}

    return {
        "scan": scan.name,
        "group": scan.group,
        "split": scan.split,
        "expected": scan.expected,
        "before": figures(own.mean * unit, spread * unit),
        "after": figures(result.mean * unit, result.std * unit),
        "psnr": {"sampler": psnr(reference, own.mean * unit), "given": psnr(reference, result.mean * unit)}
        | {name: psnr(reference, image) for name, image in classical.items()},
        "ssim": {"sampler": ssim(reference, own.mean * unit), "given": ssim(reference, result.mean * unit)},
        "level": verdict.level,
        "reasons": list(verdict.reasons),
        "given": verdict.given,
        "factor": verdict.factor,
        "known": verdict.evidence.known,
        "ceiling": ceiling(own.mean * unit, reference),
        "residual": [verdict.evidence.residual, verdict.evidence.excess],
        "predictions": verdict.evidence.predictions,
        "noise": verdict.evidence.part("noise"),
        "map_sets": data.smaps.shape[:-3].numel(),
        "machine": machine(),
    }


def run(path: Path, scans: Sequence[TrustScan], masks: Sequence[str]) -> None:
    """Add a line for each scan and mask that the file lacks."""
    done = {(row["scan"], row["mask"]) for row in rows_of(path)}
    for mask in masks:
        for scan in scans:
            if (scan.name, mask) in done:
                continue
            row = {"mask": mask, **measure(scan, MASKS[mask])}
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row["mask"], row["scan"], f"{row['psnr']['given']:.2f} dB", row["level"], flush=True)


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Return what was measured so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def show(rows: Iterable[dict[str, Any]]) -> str:
    """Return the figures as Markdown: uncertainty, then verdicts."""
    rows = sorted(rows, key=lambda row: (row["group"], row["split"], row["mask"], row["scan"]))
    lines = [
        "| data | mask | scan | held of 90 %: before, after | std/error | rank correlation | of a right deviation |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        pairs = [
            ", ".join(f"{row[when].get(name, float('nan')):{form}}" for when in ("before", "after"))
            for name, form in (("coverage", ".1%"), ("std_error_ratio", ".2f"), ("std_error_rank_correlation", ".2f"))
        ]
        cells = [f"{row['group']}, {row['split']}", row["mask"], row["scan"], *pairs, f"{row['ceiling']:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "| data | mask | scan | verdict | sampler | best of TV, CG-SENSE, zero-filled | given |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        best = max(CLASSICAL, key=lambda name: row["psnr"][name])
        wrong = row["level"] == "trusted" and row["psnr"]["sampler"] < row["psnr"][best] - 0.5
        short = row["psnr"]["given"] < row["psnr"][best] - 0.3
        cells = [
            f"{row['group']}, {row['split']}", row["mask"], row["scan"],
            f"{'**' * wrong}{row['level']}{'**' * wrong}: {'; '.join(row['reasons'])}",
            f"{row['psnr']['sampler']:.2f} dB", f"{row['psnr'][best]:.2f} dB ({best})",
            f"{'**' * short}{row['psnr']['given']:.2f} dB{'**' * short} {row['given']}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def diagram(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draw nominal level against what intervals hold, before and after, real and simulated apart."""
    from matplotlib.figure import Figure

    kinds = {
        "real": [r for r in rows if r["group"] == "real"],
        "simulated": [r for r in rows if r["group"] == "simulated"],
    }
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    for axis, (kind, chosen) in zip(figure.subplots(1, 2), kinds.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=1)
        for when, colour in (("before", "tab:red"), ("after", "tab:blue")):
            curves = [row[when]["curve"] for row in chosen if row[when]["curve"]]
            for curve in curves:
                axis.plot(LEVELS, curve, color=colour, alpha=0.25, linewidth=0.8)
            if curves:
                mean = [statistics.fmean(values) for values in zip(*curves, strict=True)]
                axis.plot(LEVELS, mean, "o-", color=colour, label=f"{when}, mean of {len(curves)}")
        axis.set(
            title=kind, xlabel="nominal level", ylabel="share of the object's pixels held", xlim=(0, 1), ylim=(0, 1)
        )
        axis.set_aspect("equal")
        axis.legend()
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "show"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--scans", default="", help="names with commas; by default all")
    parser.add_argument("--masks", default="own", help=f"with commas, of {', '.join(MASKS)}")
    parser.add_argument("--diagram", type=Path, help="picture to write, .png")
    args = parser.parse_args()
    names = args.scans.split(",") if args.scans else [scan.name for scan in SCANS]
    if args.what == "run":
        torch.set_grad_enabled(False)
        run(args.file, [scan for scan in SCANS if scan.name in names], args.masks.split(","))
    rows = [row for row in rows_of(args.file) if row["scan"] in names]
    print(show(rows))
    if args.diagram:
        diagram(args.diagram, rows)


if __name__ == "__main__":
    main()
