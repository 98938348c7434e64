"""What the service is told: `args` of configs/serve/*.yaml, all of it with defaults."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdrift.prior.bundle import shipped_priors
from kdrift.recon.plan import DEFAULT_PRIOR
from kdrift.runs.config import apply_overrides, load_config, parse, to_dict
from kdrift.runs.remote import is_url

DATABASE_VARIABLE = "KDRIFT_SERVE_DATABASE"


@dataclass(frozen=True)
class SamplerConfig:
    """The processes that run chains."""

    replicas: int = 1
    """Number of sampler processes; a request's chains are split into as many chunks as run."""
    max_replicas: int | None = None
    """Start more, up to so many, while work waits; null: always `replicas`."""
    idle_s: float = 300.0
    """Seconds after which samplers beyond `replicas` end that are not needed any more."""
    num_cpus: int = 1
    """CPUs, and torch threads, of each."""
    num_gpus: float = 0.0
    """GPUs of each."""
    device: str = "auto"
    """`auto`: the GPU where one is lent, else the CPU."""

    def __post_init__(self) -> None:
        if self.replicas < 1 or self.num_cpus < 1 or not self.num_gpus >= 0:
            raise ValueError(f"expected replicas and num_cpus of at least 1 and num_gpus of at least 0, got {self}")
        if self.most < self.replicas or not self.idle_s > 0:
            raise ValueError(f"expected max_replicas of at least replicas, or null, and idle_s above 0, got {self}")

    @property
    def most(self) -> int:
        """The most sampler processes."""
        return self.replicas if self.max_replicas is None else self.max_replicas

    @property
    def on_accelerator(self) -> bool:
        """Whether they compute on one, as far as their configuration tells."""
        return self.num_gpus > 0 or self.device not in ("auto", "cpu")


@dataclass(frozen=True)
class AuthConfig:
    """API keys, sent as `Authorization: Bearer KEY`."""

    keys_env: str = "KDRIFT_API_KEYS"
    """Environment variable of the service with the keys, separated by blanks or commas."""
    keys_file: str | None = None
    """YAML file of named keys, beside or instead of the variable; read again when it changes, so that keys come and go
    without a restart. Under `keys` a list: `name`, `sha256` of the key, `scopes` (`read`, `submit`, `admin`; by default
    the first two), `expires` (a day)."""
    keyless_on_loopback: bool = False
    """Where there are no keys: answer requests that reach the service on a loopback address, refuse all others. Without
    this, a service without keys does not start."""


@dataclass(frozen=True)
class Limits:
    """What one request may cost."""

    upload_mb: int = 4096
    """Size of an uploaded file in MiB, whether it comes in one request or in several."""
    uploads: int = 64
    """Uploads that an ingress receives at a time; one key may have half of them. A request beyond is answered 429."""
    uploads_a_key: int = 32
    """Uploads in several requests that are kept of an API key, finished or not; one more is answered 429."""
    upload_hours: float = 24.0
    """How long such an upload is kept after it was last written to, or used by a job."""
    upload_kb_s: float = 8.0
    """An upload that is slower than this, in KiB/s over any 10 s, is cut off (408)."""
    kspace_mb: int = 2048
    """k-space of the slices of a request in MiB, as its header declares it."""
    samples: int = 64
    """Samples of a request."""
    batch_samples: int = 16
    """Samples a batch; bounds the memory of a sampler."""
    evaluations: int = 20_000
    """Network evaluations of one chain, as the method states them for its settings."""
    job_evaluations: int = 5_000_000
    """Network evaluations of a request: of all its slices, and of all their chains, for samples, mean and check."""
    iterations: int = 5000
    """Largest whole number among the settings of a method: steps, iterations of a solver."""
    job_seconds: float = 86400.0
    """A job that runs longer is stopped."""
    read_seconds: float = 60.0
    """How long the data of a request may take to be read."""
    requests_a_minute: int = 6000
    """Requests of an API key that an ingress answers; beyond it is 429."""
    waiting: int = 1000
    """Requests of an API key that wait for the end of a job, at one ingress."""
    jobs: int = 17
    """Jobs that are read, wait or run; a request beyond them is answered 429."""
    jobs_a_key: int = 16
    """How many of these may be of one API key."""
    key_mb: int = 100_000
    """What jobs and uploads of an API key may hold in storage, in MiB; a request beyond is answered 429."""
    retries: int = 3
    """How often work whose sampler died is done again."""
    kept_jobs: int = 1000
    """Finished jobs that are kept; the oldest are deleted with their results."""
    kept_days: float = 30.0
    """How long they are kept."""
    kept_mb: int = 100_000
    """What they may hold together, in MiB."""

    def __post_init__(self) -> None:
        least_1 = (
            self.upload_mb, self.uploads, self.kspace_mb, self.samples, self.batch_samples, self.evaluations,
            self.job_evaluations, self.iterations, self.requests_a_minute, self.waiting, self.jobs, self.jobs_a_key,
            self.key_mb, self.kept_jobs, self.kept_mb, self.uploads_a_key,
        )  # fmt: skip
        above_0 = self.job_seconds, self.read_seconds, self.kept_days, self.upload_kb_s, self.upload_hours
        if min(least_1) < 1 or self.retries < 0 or not min(above_0) > 0:
            raise ValueError(f"expected limits of at least 1 (retries 0), got {self}")


@dataclass(frozen=True)
class ServeConfig:
    """The whole service."""

    priors: dict[str, str] = field(default_factory=lambda: {name: name for name in (DEFAULT_PRIOR, *shipped_priors())})
    """Served name to a shipped name, the folder of a bundle, `models:/NAME@ALIAS` or `models:/NAME/VERSION`. Where a
    request names none, the first is used that serves its method, of the images the method was made for if there is
    one. Resolved when the service is deployed, and pinned."""
    tracking_uri: str | None = None
    """MLflow registry of `models:` priors; by default that of MLFLOW_TRACKING_URI where the service is deployed."""
    storage: str = "~/.kdrift/serve"
    """Where the data of jobs and their results are: a folder, on a cluster one that all nodes share, or a URL such as
    s3://bucket/serve."""
    database: str | None = None
    """Where the table of jobs is: postgresql+psycopg://USER@HOST/NAME (the password in PGPASSWORD), for services on
    several machines; null: what the environment variable KDRIFT_SERVE_DATABASE says, and where it is not set an SQLite
    file in `storage`, for services on one."""
    ingresses: int = 1
    """Processes that answer HTTP and read data."""
    roots: list[str] = field(default_factory=list)
    """Folders whose files a request may name by path."""
    samplers: SamplerConfig = field(default_factory=SamplerConfig)
    auth: AuthConfig = field(default_factory=AuthConfig)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.priors:
            raise ValueError("priors is empty: name at least one, such as {default: brain-complex}")
        if self.ingresses < 1:
            raise ValueError(f"expected ingresses of at least 1, got {self.ingresses}")
        if self.server is None and is_url(self.storage):
            raise ValueError(
                f"storage is at {self.storage}: name a database, such as postgresql+psycopg://kdrift@db/kdrift"
            )

    @property
    def server(self) -> str | None:
        """The server that has the table of jobs, None where it is a file."""
        return self.database or os.environ.get(DATABASE_VARIABLE) or None

    @property
    def database_url(self) -> str:
        """Where the table of jobs is."""
        return self.server or f"sqlite:///{Path(self.storage).expanduser().resolve() / 'jobs.sqlite'}"


@dataclass(frozen=True)
class HttpOptions:
    """Ray Serve's `http_options`, those that kdrift uses."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on."""
    request_timeout_s: float | None = 600.0
    """Seconds that an HTTP request may take, its upload included; a longer one is answered 408. A job may run
    longer: it is no request."""


@dataclass(frozen=True)
class ServeApplication:
    """One of Ray Serve's `applications`."""

    name: str
    import_path: str
    args: ServeConfig
    route_prefix: str = "/"
    runtime_env: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ServeFile:
    """A configuration of Ray Serve, of those keys that kdrift uses. Ray itself accepts unknown keys in silence."""

    applications: list[dict[str, Any]]
    proxy_location: str = "HeadOnly"
    http_options: HttpOptions = field(default_factory=HttpOptions)

    @property
    def application(self) -> ServeApplication:
        """The one application. Raises ValueError for an unknown key in it, or several."""
        if len(self.applications) != 1:
            raise ValueError(f"expected one application, got {len(self.applications)}")
        return parse(ServeApplication, self.applications[0], "applications.0")


def load_serve_file(path: str | Path | None, overrides: Iterable[str] = ()) -> tuple[HttpOptions, ServeConfig]:
    """Read a configuration of `serve run` (none: all defaults); dotted `key=value` overrides belong to its `args`.

    Raises ValueError if it is no such file, or has an unknown key.
    """
    default = ServeFile([{"name": "kdrift", "import_path": "kdrift_serve.app:build", "args": {}}])
    file = default if path is None else load_config(ServeFile, path)
    args = to_dict(file.application.args)
    apply_overrides(args, overrides)
    return file.http_options, parse(ServeConfig, args, str(path or "args"))
