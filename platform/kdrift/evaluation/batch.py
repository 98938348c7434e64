"""`kdrift reconstruct --config`: all or some volumes of a store, by a pool of Ray actors, resumable a slice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from kdrift.evaluation.pool import BatchReport, StoreOptions, run_tasks
from kdrift.evaluation.work import volume_tasks
from kdrift.recon.outputs import read_outputs
from kdrift.recon.plan import Plan, load_prior_of
from kdrift.runs.home import Home, at_home
from kdrift.runs.run_folder import run_folder

FREE = ("pool", "store", "volumes", "prior", "plan.batch_samples")
"""May change when a batch is resumed: the pool, where things lie (their checksums count), and what to add to it."""


@dataclass(frozen=True, kw_only=True)
class BatchConfig(StoreOptions):
    """One batch reconstruction; the results of a volume are in a folder of its name."""

    plan: Plan = field(default_factory=Plan)
    """Method, preset, settings, samples, seed."""
    output: str = "h5"
    """What is written besides reconstruction.h5: some of nifti, dicom, ismrmrd, bart, such as h5,nifti,dicom."""


def reconstruct_batch(
    config: BatchConfig, *, address: str | None = None, quiet: bool = False, echo: Callable[[str], None] = print
) -> BatchReport:
    """Reconstruct the volumes of a store; every slice as `kdrift.reconstruct` would, whichever actor does it.

    A slice that is done is written under `out/.partial`, a volume by `save_result`: a batch that was killed and is
    started again goes on after the last slice. `seconds` of a volume is the time of all actors together.

    Raises ValueError for mistakes in the configuration, another one than `out` began with, or another driver in `out`;
    OSError where `out` is a URL and not all could be sent.
    """
    with at_home(config.out, what="batch", echo=echo) as home:
        return _reconstruct(config, home, address, quiet, home.telling(echo))


def _reconstruct(
    config: BatchConfig, home: Home, address: str | None, quiet: bool, echo: Callable[[str], None]
) -> BatchReport:
    out = home.folder
    prior = load_prior_of(config.plan.method, config.prior)
    plan = config.plan.resolve(prior)
    outputs = read_outputs(config.output)
    tasks = [replace(task, outputs=outputs) for task in volume_tasks(config.store, config.volumes, config, plan, out)]
    settings = {**config.settings, "resolved": plan.config}
    free = (*FREE, "resolved.prior.name", "resolved.preset_source")
    with run_folder(out, settings, what="batch", free=free):
        echo(plan.headline(config.pool.device))
        priors = [] if prior is None else [prior]
        return run_tasks(tasks, priors, config.pool, home, address=address, quiet=quiet, echo=echo)
