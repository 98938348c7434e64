"""`kdrift calibrate`: a method on scans with references; what its deviations are off by is written into a prior."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import kdrift
from kdrift.data.store import SAFE_NAME, open_store
from kdrift.data.store_check import array_digest
from kdrift.evaluation.factors import Factors, find_factors
from kdrift.evaluation.pool import BatchReport, StoreOptions, run_tasks
from kdrift.evaluation.residuals import Residual, read_residuals
from kdrift.evaluation.work import VolumeTask, volume_tasks
from kdrift.mri.mask_family import MaskFamily
from kdrift.prior.bundle import SHIPPED, Prior, add_calibrations, check_target, find_prior, load_prior
from kdrift.prior.bundle_home import bundle_home
from kdrift.prior.calibration import CalibratedScan, Calibration
from kdrift.recon.plan import Plan, default_prior
from kdrift.recon.request import MaskRequest
from kdrift.recon.resolved import ResolvedPlan
from kdrift.runs.command_line import command_line
from kdrift.runs.config import to_dict
from kdrift.runs.home import Home, at_home
from kdrift.runs.run_folder import run_folder

FREE = (
    "pool",
    "store",
    "volumes",
    "prior",
    "families",
    "anatomy",
    "probability",
    "region_size",
    "least_slices",
    "bundle",
)
"""May change when a calibration is resumed: what was reconstructed is used again wherever it is the same."""
PATHS = ("store", "smaps", "noise_cov", "noise_scan")
"""Options whose folders are left out of what a prior says."""


@dataclass(frozen=True, kw_only=True)
class FamilyConfig(MaskFamily):
    """One family of masks, and those that stand for it."""

    masks: list[MaskRequest]
    """Masks that are drawn; each must be of the family."""

    @property
    def plain(self) -> MaskFamily:
        """The family alone."""
        return MaskFamily(self.unit, self.net_acceleration, self.acs, self.extent)


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(StoreOptions):
    """One calibration; its store holds fully sampled k-space of scans that the prior was not trained on."""

    anatomy: str
    """What the scans show, in a word, such as brain."""
    families: dict[str, FamilyConfig]
    """Families of masks by their names."""
    plan: Plan = field(default_factory=Plan)
    """Method, preset, settings, samples, seed; its `level` is the one that intervals hold."""
    probability: float = 0.9
    """Share of slices whose PSNR and SSIM are to lie above their bounds."""
    region_size: int = 16
    """Rows and columns of the regions whose means are calibrated."""
    least_slices: int = 4
    """A family of which fewer slices could be used is not calibrated."""
    bundle: str | None = None
    """Folder or URL of the prior that gets the calibration; null: that of `prior`. One that is not there becomes a copy
    of the prior; one that comes with kdrift or is of a registry is not written to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.families or self.mask is not None or not all(each.masks for each in self.families.values()):
            raise ValueError("a calibration needs families of masks by their names, each with masks, and no other mask")
        for name in self.families:
            if not SAFE_NAME.match(name):
                raise ValueError(f"names of families are of letters, digits, '.', '_' and '-', got {name!r}")
        numbers = 0 < self.probability < 1 and self.region_size >= 2 and self.least_slices >= 1
        if not self.anatomy.strip() or not numbers:
            raise ValueError(
                "a calibration needs a word for anatomy, probability between 0 and 1, region_size of 2 and least_slices"
                f" of 1 and more, got {self.anatomy!r}, {self.probability:g}, {self.region_size} and"
                f" {self.least_slices}"
            )


@dataclass(frozen=True)
class CalibrateResult:
    """What a calibration found, and where it is."""

    calibrations: tuple[Calibration, ...]
    bundle: str | None
    """The prior that has them now; None where volumes failed, and nothing was written."""
    batch: BatchReport


def calibrate(
    config: CalibrateConfig, *, address: str | None = None, quiet: bool = False, echo: Callable[[str], None] = print
) -> CalibrateResult:
    """Reconstruct every volume under every mask, compare with the references, and write what follows into the prior.

    Each cell lies in `out/cells/FAMILY.N/METHOD/VOLUME`, as `kdrift reconstruct` writes it. What is done is not done
    again; masks, families and volumes may be added later.

    Raises ValueError for mistakes in the configuration, scans that the prior was trained on, a mask that is not of its
    family, too few slices that could be used, a bundle that cannot be written to, or another driver in `out`;
    OSError where `out` or the bundle is at a URL and not all could be sent.
    """
    with at_home(config.out, what="calibration", echo=echo) as home:
        return _calibrate(config, home, address, quiet, home.telling(echo))


def _calibrate(
    config: CalibrateConfig, home: Home, address: str | None, quiet: bool, echo: Callable[[str], None]
) -> CalibrateResult:
    out, source = home.folder, find_prior(config.prior or default_prior(config.plan.method))
    target, prior = _target(config, source), load_prior(source)
    resolved = config.plan.resolve(prior)
    plan = replace(resolved, calibrations=())  # what is to be found must not be in what it is found from
    if not plan.method.samples:
        raise ValueError(f"{config.plan.method} draws no samples, so that there is no deviation to calibrate")
    if plan.num_samples < 2:
        raise ValueError(f"a calibration needs a spread: give plan.num_samples 2 or more, got {plan.num_samples}")
    if not plan.checks:
        raise ValueError(
            f"a calibration is of slices that are checked: give plan.check true (method {config.plan.method},"
            f" {plan.num_samples} samples)"
        )
    with bundle_home(target, what="calibration", echo=echo) as folder:
        check_target(folder, prior.sha256)
    tasks = _tasks(config, plan, out)
    checksums = _checksums(config, prior, sorted({task.out.name for cell in tasks.values() for task in cell}))
    settings = {**config.settings, "resolved": plan.config}
    free = (*FREE, "resolved.prior.name", "resolved.preset_source")
    with run_folder(out, settings, what="calibration", free=free):
        echo(plan.headline(config.pool.device))
        every = [task for cell in tasks.values() for task in cell]
        batch = run_tasks(every, [prior], config.pool, home, address=address, quiet=quiet, echo=echo)
        if batch.failed:
            return CalibrateResult((), None, batch)
        found = [
            made for name in config.families
            if (made := _family(name, config, plan, tasks[name], checksums, echo)) is not None
        ]  # fmt: skip
        if not found:
            raise ValueError("too few slices could be used, so nothing is calibrated; the reasons are above")
        with bundle_home(target, what="calibration", echo=echo) as folder:
            add_calibrations(source, folder, found)
    return CalibrateResult(tuple(found), target, batch)


def _target(config: CalibrateConfig, source: Path) -> str:
    """Return the path or URL of the prior that is written to."""
    if config.bundle is not None:
        return config.bundle
    if source.parent == SHIPPED or config.prior is None or config.prior.startswith("models:"):
        where = "comes with kdrift" if source.parent == SHIPPED else "is of a registry"
        raise ValueError(
            f"{source.name} {where} and is not written to: name with bundle the folder of a copy, which"
            " --prior then takes"
        )
    return config.prior


def _tasks(config: CalibrateConfig, plan: ResolvedPlan, out: Path) -> dict[str, list[VolumeTask]]:
    """Return the volumes to reconstruct for each family, by its name."""
    return {
        name: [
            task
            for number, mask in enumerate(family.masks)
            for task in volume_tasks(
                config.store, config.volumes, config.of("", mask=mask), plan,
                out / "cells" / f"{name}.{number}" / plan.plan.method,
            )
        ]
        for name, family in config.families.items()
    }  # fmt: skip


def _checksums(config: CalibrateConfig, prior: Prior, volumes: Sequence[str]) -> dict[str, str]:
    """Return a checksum of each volume's k-space. Raises ValueError for one that the prior was trained on."""
    store, found = open_store(config.store), {}
    trained = {volume.checksum for source in prior.info.data for volume in source.train if volume.checksum}
    for name in volumes:
        arrays = store.attributes(name)["arrays"]
        digests = {key: array_digest(array) for key, array in arrays.items()}
        if trained & set(digests.values()):
            raise ValueError(f"{prior.name} was trained on {name}: calibrate on scans that it has not seen")
        found[name] = digests["kspace"]
    return found


def _family(
    name: str, config: CalibrateConfig, plan: ResolvedPlan, tasks: Sequence[VolumeTask], checksums: Mapping[str, str],
    echo: Callable[[str], None],
) -> Calibration | None:  # fmt: skip
    """Return the calibration of one family, None where no slice could be used; what is left out is said."""
    family, scans, left_out = config.families[name], dict[str, list[Residual]](), 0
    for task in tasks:
        residuals, faults = read_residuals(task)
        left_out += len(faults)
        for where, why in faults.items():
            echo(f"left out of {name}: {where}: {why}")
        for each in residuals:
            if differences := family.differences(each.mask):
                raise ValueError(
                    f"families.{name}: its mask of {each.scan} is not of {family.plain}: {' and '.join(differences)};"
                    " change one of the two, what is reconstructed already is used again"
                )
            scans.setdefault(each.scan, []).append(each)
    if (count := sum(map(len, scans.values()))) < config.least_slices:
        asked = f"at least {config.least_slices} are asked for (least_slices)"
        echo(f"{name}: {count} slices could be used, {asked}: it is not calibrated")
        return None
    found = find_factors(scans, level=config.plan.level, probability=config.probability, region_size=config.region_size)
    assert plan.prior is not None  # only samplers are checked
    return Calibration(
        name=name, family=family.plain, anatomy=config.anatomy, settings=plan.calibrated_settings,
        num_samples=plan.num_samples, level=config.plan.level, pixel=found.pixel, region=found.region,
        region_size=config.region_size, scans=_scans(scans, checksums, found), left_out=left_out,
        regions=found.regions, figures=found.figures, masks=tuple(to_dict(mask) for mask in family.masks),
        config=_portable(config), prior_sha256=plan.prior.sha256, kdrift_version=kdrift.__version__,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(), command=command_line(),
    )  # fmt: skip


def _scans(
    scans: Mapping[str, Sequence[Residual]], checksums: Mapping[str, str], found: Factors
) -> tuple[CalibratedScan, ...]:
    return tuple(
        CalibratedScan(
            name, checksums[name], len(slices), slices[0].simulated, found.of_scans[name], found.coverage.get(name)
        )
        for name, slices in scans.items()
    )


def _portable(config: CalibrateConfig) -> dict[str, Any]:
    """Return the configuration without the folders of this machine, and without the families, which stand beside it."""
    values = to_dict(config)
    for key in ("out", "bundle", "families", "pool", "prior"):
        del values[key]
    return values | {key: PurePath(values[key]).name for key in PATHS if values[key]}
