"""`kdrift serve`: the reconstruction service on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from kdrift.commands.common import ConfigName, Overrides, echo


@dataclass(frozen=True, kw_only=True)
class Options:
    """Serve reconstructions over HTTP on this machine: start Ray and the service, and print its address.

    Ctrl-C or SIGTERM stops both. On a cluster: serve run configs/serve/local.yaml.
    """

    config: ConfigName | None = None
    """Configuration: a file, or the name of one that comes with kdrift; by default the defaults of all settings."""
    set: Overrides = ()
    """Override one value of the configuration's `args`."""
    host: str | None = None
    """Address to listen on; by default 127.0.0.1."""
    port: int | None = None
    """Port to listen on; by default 8000."""
    prior: Annotated[str | None, Parameter(metavar="NAME|PATH")] = None
    """Shipped prior, bundle folder or models:/NAME@ALIAS."""
    tracking_uri: Annotated[str | None, Parameter(metavar="URI")] = None
    """MLflow registry of a models: prior."""
    samplers: Annotated[int | None, Parameter(metavar="N")] = None
    """Sampler processes; by default 1."""
    storage: Annotated[str | None, Parameter(metavar="DIR|URL")] = None
    """Where jobs and results are."""
    metrics_port: Annotated[int | None, Parameter(metavar="N")] = None
    """Port at which Prometheus may read metrics; by default one of Ray's choice."""
    mrd_port: Annotated[int | None, Parameter(metavar="N")] = None
    """Take MRD streams of scanners on this port too; 9002 is the Gadgetron's. By default none are taken."""
    mrd_config: Annotated[Path | None, Parameter(metavar="FILE")] = None
    """Configuration of MRD streams: who may connect, presets, time-outs."""


def run(options: Options) -> int:
    """Serve until told to stop."""
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    from kdrift.runs.config_names import find_config
    from kdrift_serve.local import serve_here
    from kdrift_serve.mrd.mrd_config import load_mrd_config
    from kdrift_serve.serve_config import load_serve_file

    overrides = list(options.set)
    if options.samplers is not None:
        overrides.append(f"samplers.replicas={options.samplers}")
    http, config = load_serve_file(find_config("serve", options.config) if options.config else None, overrides)
    address: dict[str, Any] = {"host": options.host, "port": options.port}
    prior = options.prior
    given: dict[str, Any] = {
        "priors": prior and {Path(prior.removeprefix("models:/")).name.partition("@")[0]: prior},
        "tracking_uri": options.tracking_uri,
        "storage": options.storage,
    }
    serve_here(
        replace(http, **{key: value for key, value in address.items() if value is not None}),
        replace(config, **{key: value for key, value in given.items() if value is not None}),
        mrd=load_mrd_config(options.mrd_config, options.mrd_port),
        metrics_port=options.metrics_port,
        echo=echo,
    )
    return 0
