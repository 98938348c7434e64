"""A search of a method's settings: its trials reconstruct slices, its winner is a preset."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kdrift import __version__
from kdrift.methods import METHODS
from kdrift.methods.presets import Preset, check_free, find_preset, read_preset, save_preset, write_preset
from kdrift.prior.bundle import Prior
from kdrift.recon.plan import Plan, load_prior_of
from kdrift.recon.sampling import choose_device
from kdrift.runs.config import parse, to_dict
from kdrift.runs.files import read_json
from kdrift.runs.hardware import keep_freed_memory
from kdrift.tuning.journal import TrialRecord
from kdrift.tuning.objective import Case, describe_data, digest, evaluate_slices, load_cases
from kdrift.tuning.outcome import figures_of
from kdrift.tuning.search_config import Trainable, start_point
from kdrift.tuning.tune_config import TuneConfig, check_space

START = "start.yaml"
"""The preset that a search in an output folder started from."""


class MethodSubject:
    """A method on the slices of a search."""

    unit = "slices"
    figures: tuple[str, ...] = ("psnr", "ssim", "nmse", "heldout", "seconds", "nfe", "slices")

    def __init__(self, config: TuneConfig, out: Path) -> None:
        self._config, self._out = config, out
        check_free(config.method, config.name, read_json(out / "run.json").get("run_id"))
        plan = _plan(config, out)
        self._prior = load_prior_of(config.method, config.prior)
        self._resolved = plan.resolve(self._prior).mean_alone()
        self._cases = load_cases(config, self._resolved, self._prior)
        self.length = len(self._cases)
        self.grace = config.grace_slices
        self.headline = self._resolved.headline(config.device)
        self.notes = tuple(f"{case.volume}: {note}" for case in self._cases for note in case.notes)
        names = ", ".join(Path(each).name for each in config.data.sources)
        self.datasets: tuple[tuple[str, str, str], ...] = ((names, digest(self._cases), "search"),)
        preset = self._resolved.preset
        options = parse(METHODS[config.method].options, {**preset.settings, **config.settings})
        self.start = start_point(config.space, {name: getattr(options, name) for name in config.space})

    def begin(self) -> None:
        """Keep the preset that the search starts from: the default may be another one by the time it goes on."""
        write_preset(self._resolved.preset, self._out / START)

    def trainable(self) -> Trainable:
        """Return `run_trial` with what it takes in Ray's object store, once."""
        from ray import tune as ray_tune

        shared: Trainable = ray_tune.with_parameters(
            run_trial, plan=self._resolved.plan, prior=self._prior, cases=self._cases, config=self._config
        )
        return shared

    def keep(self, trials: list[TrialRecord], best: TrialRecord, run_id: str) -> tuple[Preset, list[Path]]:
        """Write the preset to the user's folder and to that of the search."""
        preset = self._preset(trials, best, run_id)
        kept = save_preset(preset)
        return preset, [*([kept] if kept else []), write_preset(preset, self._out / f"{preset.method}.yaml")]

    def _preset(self, trials: list[TrialRecord], best: TrialRecord, run_id: str) -> Preset:
        """Return the winner as a preset that says how it was found; names only, no folders."""
        config, start, first = self._config, self._resolved.preset, trials[0]
        provenance: dict[str, Any] = {
            "date": datetime.date.today().isoformat(),
            "kdrift": __version__,
            "objective": config.objective,
            "figures": figures_of(best, self.figures),
            "started_from": {
                "preset": start.name,
                "settings": first.settings,
                "figures": figures_of(first, self.figures),
            },
            "search": {
                "name": config.name,
                "trials": len(trials),
                "best": best.number,
                "seed": config.seed,
                "num_samples": config.num_samples,
                "space": {name: _given(to_dict(axis)) for name, axis in config.space.items()},
            },
            "data": describe_data(config, self._cases),
            "prior": {"name": self._prior.name, "sha256": self._prior.sha256} if self._prior else None,
            "mlflow_run": run_id,
        }
        if config.objective == "heldout":
            provenance["search"]["heldout_fraction"] = config.heldout_fraction
        settings = {**start.settings, **config.settings, **best.settings}
        return Preset(config.method, settings, config.name, provenance)


def run_trial(
    settings: dict[str, Any], *, plan: Plan, prior: Prior | None, cases: list[Case], config: TuneConfig
) -> None:
    """Ray Tune's trainable: the means after each slice go to the scheduler, which may end the trial there."""
    from ray import tune as ray_tune

    keep_freed_memory()
    torch.set_num_threads(max(1, int(config.cpus_per_trial)))
    device = choose_device(config.device)
    prior = replace(prior, network=prior.network.to(device)) if prior else None
    resolved = replace(plan, settings={**plan.settings, **settings}).resolve(prior)
    on_device = [replace(case, data=case.data.to(device)) for case in cases]
    for row in evaluate_slices(resolved, prior, on_device, config.objective):
        ray_tune.report(row)


def _plan(config: TuneConfig, out: Path) -> Plan:
    """Return the plan of a trial but for its searched settings, with the preset that the search starts from."""
    if (out / START).is_file():
        start = read_preset(out / START, config.method)
    elif str(config.preset).endswith((".yaml", ".yml")):
        start = read_preset(str(config.preset), config.method)
    else:
        start = find_preset(config.method, config.preset)
    check_space(config, start)
    return Plan(config.method, start, config.settings, num_samples=config.num_samples, seed=config.seed)


def _given(axis: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in axis.items() if value is not None and value is not False}
