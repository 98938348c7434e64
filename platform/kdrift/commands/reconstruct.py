"""`kdrift reconstruct`: posterior mean and uncertainty of one k-space volume."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `kdrift reconstruct`."""
    from kdrift.mri.masks import KINDS

    parser.description = (
        "Reconstruct k-space: mean and standard deviation of posterior samples. Full data are undersampled first by the"
        " --mask options; data measured undersampled are taken as they are."
    )
    parser.add_argument("input", nargs="?", metavar="INPUT", help="k-space file or URL, or X.zarr/VOLUME of a store")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the results")
    batch = parser.add_argument_group("a whole store on Ray, instead of INPUT")
    batch.add_argument("--config", metavar="YAML", help="batch configuration, see configs/reconstruct/")
    batch.add_argument("--address", help="Ray cluster, e.g. auto (default: RAY_ADDRESS, else a private one)")
    parser.add_argument("--method", default="annealed", help="sampler or classical method (default: annealed)")
    parser.add_argument("--preset", help="named settings of the method: tuned, paper, released, or FILE.yaml")
    parser.add_argument(
        "--prior", metavar="NAME|PATH", help="shipped prior or bundle folder (default: the method's shipped prior)"
    )
    parser.add_argument("--steps", type=int, metavar="N", help="steps of the sampler (the setting num_steps)")
    parser.add_argument("--samples", type=int, default=8, metavar="K", help="posterior samples (default: 8)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the samples (default: 0)")
    parser.add_argument("--start", metavar="NAME", help="classical method to start from, with --set start_time=T0")
    parser.add_argument("--slices", metavar="A:B", help="slices A to B - 1 (default: all)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one setting")
    mask = parser.add_argument_group("retrospective undersampling")
    mask.add_argument("--mask", choices=sorted(KINDS), help="kind of mask")
    mask.add_argument("--acceleration", type=float, default=4.0, metavar="R", help="factor (default: 4)")
    acs = mask.add_mutually_exclusive_group()
    acs.add_argument("--acs-fraction", type=float, metavar="F", help="ACS as a fraction of the width")
    acs.add_argument("--acs-lines", type=int, metavar="L", help="ACS in lines")
    mask.add_argument("--mask-seed", type=int, default=0, metavar="S", help="seed of the mask (default: 0)")
    mask.add_argument("--mask-released", action="store_true", help="draw as the published code does")
    parser.add_argument("--map-sets", type=int, default=1, choices=(1, 2), help="ESPIRiT map sets (default: 1)")
    parser.add_argument(
        "--map-crop", type=float, default=0.0, help="ESPIRiT eigenvalue below which maps are 0 (default: 0)"
    )
    parser.add_argument("--smaps", metavar="FILE|store", help="coil maps made elsewhere, or the store's own")
    parser.add_argument("--noise-cov", metavar="FILE", help="noise covariance (coil, coil) to whiten by, .npy")
    parser.add_argument("--virtual-coils", type=int, metavar="N", help="compress to N coils first")
    parser.add_argument("--batch-samples", type=int, default=8, metavar="B", help="samples at a time; bounds memory")
    parser.add_argument(
        "--precision", choices=("auto", "float32"), default="auto", help="of the network (default: auto)"
    )
    parser.add_argument(
        "--on-divergence", choices=("error", "fallback"), default="error",
        help="where all samples of a slice diverge: stop, or put CG-SENSE there, labelled (default: error)",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    parser.add_argument("--save-samples", action="store_true", help="store every sample in reconstruction.h5")
    parser.add_argument("--save-smaps", action="store_true", help="store the coil maps in reconstruction.h5")
    parser.add_argument("--nifti", action="store_true", help="also write mean.nii.gz and std.nii.gz")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> int:
    """Reconstruct, write the results and print the figures; a batch names every volume that failed."""
    if args.config:
        return _run_batch(args)
    if not args.input or not args.out:
        raise ValueError("give INPUT and --out DIR, or --config YAML")
    from kdrift.methods.presets import read_preset
    from kdrift.recon.acquisition import load_acquisition
    from kdrift.recon.plan import Plan
    from kdrift.recon.reconstruct import reconstruct
    from kdrift.recon.report import save_result
    from kdrift.recon.request import AcquisitionOptions, MaskRequest
    from kdrift.recon.result import divergence_lines
    from kdrift.runs.config import parse_override
    from kdrift.runs.hardware import keep_freed_memory
    from kdrift.runs.progress import progress

    keep_freed_memory()
    settings: dict[str, Any] = dict(parse_override(text) for text in args.set)
    if args.steps is not None:
        settings["num_steps"] = args.steps
    request = None
    if args.mask:
        request = MaskRequest(
            args.mask,
            args.acceleration,
            args.acs_fraction,
            args.acs_lines,
            args.mask_seed,
            args.mask_released,
        )
    options = AcquisitionOptions(
        slices=_slices(args.slices),
        mask=request,
        virtual_coils=args.virtual_coils,
        smaps=args.smaps,
        noise_cov=args.noise_cov,
    )
    acquisition = load_acquisition(options.of(args.input))
    plan = Plan(
        method=args.method,
        preset=read_preset(args.preset) if str(args.preset).endswith((".yaml", ".yml")) else args.preset,
        settings=settings,
        num_samples=args.samples,
        seed=args.seed,
        batch_samples=args.batch_samples,
        keep_samples=args.save_samples,
        on_divergence=args.on_divergence,
        precision=args.precision,
        num_map_sets=args.map_sets,
        map_crop=args.map_crop,
        start=args.start,
    )
    slices = len(acquisition.slice_indices)
    with progress(0, "steps", quiet=args.quiet, echo=lambda line: print(line, file=sys.stderr, flush=True)) as meter:

        def show(position: int, done: int, steps: int) -> None:
            meter.update(position * steps + done, total=slices * steps, note=f"slice {position + 1}/{slices}")

        result = reconstruct(
            acquisition.kspace,
            acquisition.mask,
            plan=plan,
            prior=args.prior,
            smaps=acquisition.smaps,
            slice_indices=acquisition.slice_indices,
            device=args.device,
            progress=show,
        )
    report = save_result(args.out, acquisition, result, keep_smaps=args.save_smaps, nifti=args.nifti)
    for line in divergence_lines(result.diverged, result.fallback):
        print(f"kdrift: {line}", file=sys.stderr)
    print(f"{acquisition.info.name}: {acquisition.sampling}")
    if "metrics" in report:
        figures = report["metrics"]
        print(f"PSNR {figures['psnr']:.2f} dB  SSIM {figures['ssim']:.4f}  NMSE {figures['nmse']:.5f}", end="  ")
    print(f"{result.nfe} evaluations, {result.seconds:.1f} s")
    print(f"written: {args.out}/reconstruction.h5 metrics.json panel.png")
    return 0


def _run_batch(args: argparse.Namespace) -> int:
    from kdrift.commands.common import refuse_beside_config
    from kdrift.evaluation.batch import BatchConfig, reconstruct_batch
    from kdrift.runs.config import load_config
    from kdrift.runs.progress import format_seconds

    refuse_beside_config(args, configure, {"out", "address", "quiet"})
    overrides = [*args.set, *([f"out={args.out}"] if args.out else [])]
    config = load_config(BatchConfig, args.config, overrides)
    report = reconstruct_batch(
        config, address=args.address, quiet=args.quiet, echo=lambda line: print(line, flush=True)
    )
    print(f"{config.out}: {report.volumes} volumes written, {len(report.failed)} failed;", end=" ")
    print(f"{report.slices} slices in {format_seconds(report.seconds)}, {report.slices_before} were done before")
    for folder, reason in report.failed.items():
        print(f"kdrift: failed: {folder.name}: {reason}", file=sys.stderr)
    return 1 if report.failed else 0


def _slices(text: str | None) -> tuple[int | None, int | None] | None:
    if text is None:
        return None
    start, separator, stop = text.partition(":")
    try:
        if not separator:
            return int(start), int(start) + 1 or None
        return int(start) if start else None, int(stop) if stop else None
    except ValueError:
        raise ValueError(f"--slices takes A:B or one number, got {text!r}") from None
