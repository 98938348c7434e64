"""`kdrift tune`: search a method's settings on Ray Tune and keep the best as a preset under the search's name."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kdrift.methods.presets import Preset, check_free, find_preset, read_preset, write_preset
from kdrift.prior.bundle import Prior
from kdrift.recon.plan import Plan, load_prior_of
from kdrift.recon.resolved import ResolvedPlan
from kdrift.recon.sampling import choose_device
from kdrift.runs.cluster import ray_session
from kdrift.runs.config import to_dict
from kdrift.runs.files import read_json
from kdrift.runs.hardware import keep_freed_memory
from kdrift.runs.home import at_home
from kdrift.runs.progress import progress
from kdrift.runs.run_folder import end_status, run_folder, tracked_run
from kdrift.tuning.journal import Journal, TrialRecord
from kdrift.tuning.objective import Case, evaluate_slices, load_cases
from kdrift.tuning.outcome import choose_best, leave_results, make_preset
from kdrift.tuning.tune_config import MAY_CHANGE, TuneConfig, check_space, start_point

if TYPE_CHECKING:
    from kdrift.tuning.record import Recorder

START = "start.yaml"
"""The preset that a search in an output folder started from."""


@dataclass(frozen=True)
class TuneResult:
    """Where a finished search left its things."""

    preset: Preset
    written: list[Path]
    """The preset's files: in the user's folder and in the output folder."""
    best: TrialRecord
    trials: list[TrialRecord]
    """In order of their numbers, the first with the settings that the search started from."""
    seconds: float
    tracking_uri: str
    run_id: str


def tune(
    config: TuneConfig,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    address: str | None = None,
    tracking_uri: str | None = None,
    quiet: bool = False,
    echo: Callable[[str], None] = print,
) -> TuneResult:
    """Search on Ray Tune and keep the winner as a preset under the search's name, in the user's folder and in `out`,
    a folder or a URL.

    With `resume`, a search that `out` holds goes on: finished trials are kept, unfinished ones run again.

    Raises ValueError if settings, space, data or prior cannot serve, if `out` holds a search and `resume` is false, or
    one of another configuration or that goes on in another process, and if the cluster is too small; OSError if no
    trial saw all slices, or `out` is a URL and not all could be sent; KeyboardInterrupt on Ctrl-C, after which the
    search can be resumed.
    """
    with at_home(out, what="search", echo=echo, keep=True) as home:
        return _tune(config, home.folder, resume, address, tracking_uri, quiet, home.telling(echo))


def _tune(
    config: TuneConfig, out: Path, resume: bool, address: str | None, tracking_uri: str | None, quiet: bool,
    echo: Callable[[str], None],
) -> TuneResult:  # fmt: skip
    began = time.monotonic()
    check_free(config.method, config.name, read_json(out / "run.json").get("run_id"))
    plan = _plan(config, out)
    prior = load_prior_of(config.method, config.prior)
    resolved = plan.resolve(prior).mean_alone()
    cases = load_cases(config, resolved, prior)
    settings, what = to_dict(config), "search"
    if not (out / "run.json").is_file():
        (out / "trials.jsonl").unlink(missing_ok=True)
    with (
        run_folder(out, settings, what=what, free=MAY_CHANGE, kind=TuneConfig, resume=resume),
        tracked_run(out, settings, what=what, name=config.name, tracking_uri=tracking_uri, echo=echo) as run,
    ):
        write_preset(resolved.preset, out / START)
        journal = Journal(out / "trials.jsonl")
        if resume:
            run.outbox.keep_children()
        echo(f"starting from {resolved.headline(config.device)}")
        echo(f"search {config.name}: {config.num_trials} trials of {len(cases)} slices, by {config.objective}")
        echo(f"output in {out}")
        for note in dict.fromkeys(f"{case.volume}: {note}" for case in cases for note in case.notes):
            echo(f"note: {note}")
        try:
            done = sum(trial.is_done for trial in journal.trials.values())
            if done < config.num_trials:
                _calm_tune()
                from kdrift.tuning.record import Recorder

                with (
                    ray_session(address, echo=echo),
                    progress(config.num_trials, "trials", done=done, quiet=quiet, echo=echo) as meter,
                ):
                    recorder = Recorder(config, journal, run.outbox, out / "artifacts", len(cases), meter, echo)
                    _search(config, resolved, prior, cases, journal, recorder, out)
            trials = [journal.trials[number] for number in sorted(journal.trials)]
            best = choose_best(config, trials)
            preset = make_preset(config, resolved.preset, prior, cases, trials, best, run.run_id)
            written = leave_results(config, preset, trials, out)
            for path in (*(file for file in written if file.parent == out), *sorted(out.glob("trials.csv"))):
                run.outbox.file(path)
            run.outbox.metrics({"best": best.value}, len(trials))
        except BaseException as error:
            for trial in journal.trials.values():
                if trial.state == "unfinished":
                    run.outbox.finish(end_status(error), "the search ended before it", trial.key)
            raise
    seconds = time.monotonic() - began
    return TuneResult(preset, written, best, trials, seconds, run.uri, run.run_id)


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
    if (out / START).is_file():  # the default may be another one by now
        start = read_preset(out / START, config.method)
    elif str(config.preset).endswith((".yaml", ".yml")):
        start = read_preset(str(config.preset), config.method)
    else:
        start = find_preset(config.method, config.preset)
    check_space(config, start)
    return Plan(config.method, start, config.settings, num_samples=config.num_samples, seed=config.seed)


def _calm_tune() -> None:
    """Set what Ray Tune reads when it is imported."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # the journal and MLflow are the log
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # prints a header however quiet it is asked to be
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C ends the search at once
    os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"  # the recorder says so in a line


def _search(
    config: TuneConfig, resolved: ResolvedPlan, prior: Prior | None, cases: list[Case], journal: Journal,
    recorder: Recorder, out: Path,
) -> None:  # fmt: skip
    """Run the trials that are yet to finish."""
    import ray
    from ray import tune as ray_tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    from kdrift.tuning.searcher import searcher

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    lent = {"cpu": config.cpus_per_trial} | ({"gpu": config.gpus_per_trial} if config.gpus_per_trial else {})
    _check_room(config, ray.cluster_resources())
    mode = "max" if config.higher_is_better else "min"
    grace = min(config.grace_slices, len(cases))
    asha = ASHAScheduler(
        time_attr="slices", metric="value", mode=mode, max_t=len(cases), grace_period=grace,
        reduction_factor=config.reduction_factor,
    )  # fmt: skip
    done = sum(trial.is_done for trial in journal.trials.values())
    shared = ray_tune.with_parameters(run_trial, plan=resolved.plan, prior=prior, cases=cases, config=config)
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(shared, lent),
        tune_config=ray_tune.TuneConfig(
            search_alg=searcher(config, start_point(config, resolved.preset), journal),
            scheduler=FIFOScheduler() if config.pareto else asha,
            num_samples=config.num_trials - done,
            max_concurrent_trials=config.most_at_once,
            reuse_actors=True,
        ),
        run_config=ray_tune.RunConfig(
            # a new name each time: the journal says what is done, not Ray's files
            name=f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}",
            storage_path=str(out / "ray"),
            failure_config=ray_tune.FailureConfig(max_failures=config.max_failures),
            callbacks=[recorder],
            verbose=0,
        ),
    )
    try:
        with warnings.catch_warnings():  # a trial that starts again reports the same values again
            warnings.filterwarnings("ignore", message="The reported value is ignored")
            tuner.fit()
    except SystemExit:  # what Ray's own handler makes of SIGTERM
        raise KeyboardInterrupt from None


def _check_room(config: TuneConfig, cluster: dict[str, float]) -> None:
    for name, needed in (("CPU", config.cpus_per_trial), ("GPU", config.gpus_per_trial)):
        if needed > cluster.get(name, 0):
            raise ValueError(f"a trial needs {needed:g} {name}, the Ray cluster has {cluster.get(name, 0):g}")
