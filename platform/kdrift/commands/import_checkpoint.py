"""`kdrift import-checkpoint`: a published checkpoint becomes a prior bundle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from cyclopts import Parameter

from kdrift.commands.common import Overrides, echo


@dataclass(frozen=True, kw_only=True)
class Options:
    """Save a published checkpoint as a prior bundle: Score-MRI, HFS-SDE, NCSNv2, EDM and AK-Diffusion layouts.

    No code is unpickled, the network is inferred from the shapes, and every parameter must fit.
    """

    file: Annotated[str, Parameter(name="FILE")] = field(kw_only=False)
    """Checkpoint as it was published (.pth, .pt), or its URL."""
    out: Annotated[str, Parameter(metavar="BUNDLE|URL")]
    """Folder to write, or a URL such as s3://bucket/my-prior."""
    family: Annotated[str | None, Parameter(metavar="NAME")] = None
    """score-mri, hfs-sde, ncsnv2, edm or ak-diffusion; by default as recognised."""
    set: Overrides = ()
    """What the file does not say: weights, conditioning, noise, low.fraction, b_min, b_max, sigma_min, sigma_max,
    sigma_data, scale, quantile, image_scale, network.KEY."""


def run(options: Options) -> int:
    """Import the file and say what it was taken for."""
    from kdrift.prior.bundle import load_prior
    from kdrift.prior.bundle_home import bundle_home
    from kdrift.prior.published import ImportOptions, import_checkpoint
    from kdrift.runs.config import load_config
    from kdrift.runs.remote import copied

    settings = load_config(ImportOptions, None, options.set)
    with copied(options.file) as file, bundle_home(options.out, what="import", echo=echo) as folder:
        prior = load_prior(import_checkpoint(file, folder, options.family, settings))
    config, source = prior.network_config, prior.info.source
    assert source is not None
    count = sum(parameter.numel() for parameter in prior.network.parameters())
    levels = "{:.4g} to {:.4g}".format(*prior.sigma_range)
    print(f"{options.out}: {source.family}, {config.architecture} of {config.channels} channels, {count} parameters")
    print(f"weights {source.weights}, noise {prior.task}, sigma {levels}, sha256 {prior.sha256[:12]}")
    return 0
