"""`kdrift import-checkpoint`: a published checkpoint becomes a prior bundle."""

from __future__ import annotations

import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.description = (
        "Save a published checkpoint (Score-MRI, HFS-SDE, NCSNv2, EDM and AK-Diffusion layouts) as a prior bundle."
        " No code is unpickled, the network is inferred from the shapes, and every parameter must fit."
    )
    parser.add_argument("file", metavar="FILE", help="checkpoint as it was published (.pth, .pt)")
    parser.add_argument("--out", metavar="BUNDLE", required=True, help="folder to write")
    parser.add_argument(
        "--family", metavar="NAME", help="score-mri, hfs-sde, ncsnv2, edm, ak-diffusion (default: as recognised)"
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[],
        help="what the file does not say: weights, conditioning, noise, low.fraction, b_min, b_max, sigma_min,"
        " sigma_max, sigma_data, scale, quantile, image_scale, network.KEY",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Import the file and say what it was taken for."""
    from kdrift.prior.bundle import load_prior
    from kdrift.prior.published import ImportOptions, import_checkpoint
    from kdrift.runs.config import load_config

    folder = import_checkpoint(args.file, args.out, args.family, load_config(ImportOptions, None, args.set))
    prior = load_prior(folder)
    config, source = prior.network_config, prior.info.source
    assert source is not None
    count = sum(parameter.numel() for parameter in prior.network.parameters())
    levels = "{:.4g} to {:.4g}".format(*prior.sigma_range)
    print(f"{folder}: {source.family}, {config.architecture} of {config.channels} channels, {count} parameters")
    print(f"weights {source.weights}, noise {prior.noise}, sigma {levels}, sha256 {prior.sha256[:12]}")
    return 0
