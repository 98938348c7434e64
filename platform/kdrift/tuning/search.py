"""`kdrift tune`: search settings on Ray Tune, of a method or of a training, and keep the best."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from kdrift.runs import tracking
from kdrift.runs.cluster import ray_session
from kdrift.runs.config import to_dict
from kdrift.runs.home import at_home
from kdrift.runs.progress import progress
from kdrift.runs.run_folder import end_status, run_folder, tracked_run
from kdrift.tuning.journal import Journal, TrialRecord
from kdrift.tuning.outcome import choose_best, description, leave_tables
from kdrift.tuning.search_config import MAY_CHANGE, SearchConfig, Subject, Winner

if TYPE_CHECKING:
    from kdrift.tuning.record import Recorder


@dataclass(frozen=True)
class TuneResult(Generic[Winner]):
    """Where a finished search left its things."""

    winner: Winner
    """What the best trial became: a preset, or the configuration of a training."""
    written: list[Path]
    """Its files, in the output folder the last one, and with `pareto` those of the front."""
    best: TrialRecord
    trials: list[TrialRecord]
    """In order of their numbers, the first with the settings that the search started from."""
    figures: tuple[str, ...]
    """Names of the figures that a trial may have."""
    seconds: float
    tracking_uri: str
    run_id: str


def tune(
    config: SearchConfig[Winner],
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    address: str | None = None,
    tracking_uri: str | None = None,
    quiet: bool = False,
    echo: Callable[[str], None] = print,
) -> TuneResult[Winner]:
    """Search on Ray Tune and keep the winner in `out`, a folder or a URL; a preset in the user's folder too, under the
    search's name.

    With `resume`, a search that `out` holds goes on: finished trials are kept, unfinished ones run again.

    Raises ValueError if settings, space, data or prior cannot serve, if `out` holds a search and `resume` is false, or
    one of another configuration or that goes on in another process, and if the cluster is too small; OSError if no
    trial came to its end, or `out` is a URL and not all could be sent; KeyboardInterrupt on Ctrl-C, after which the
    search can be resumed.
    """
    with at_home(out, what="search", echo=echo, keep=True) as home:
        return _tune(config, home.folder, resume, address, tracking_uri, quiet, home.telling(echo))


def _tune(
    config: SearchConfig[Winner], out: Path, resume: bool, address: str | None, tracking_uri: str | None, quiet: bool,
    echo: Callable[[str], None],
) -> TuneResult[Winner]:  # fmt: skip
    began = time.monotonic()
    subject = config.subject(out)
    settings, what = to_dict(config), "search"
    if not (out / "run.json").is_file():
        (out / "trials.jsonl").unlink(missing_ok=True)
    with (
        run_folder(out, settings, what=what, free=MAY_CHANGE, kind=type(config), resume=resume),
        tracked_run(out, settings, what=what, name=config.name, tracking_uri=tracking_uri, echo=echo) as run,
    ):
        subject.begin()
        run.outbox.tag(tracking.KIND, "search")
        for dataset in subject.datasets:
            run.outbox.dataset(*dataset)
        journal = Journal(out / "trials.jsonl")
        if resume:
            run.outbox.keep_children()
        echo(f"starting from {subject.headline}")
        trials_of = f"{config.num_trials} trials of {subject.length} {subject.unit}"
        echo(f"search {config.name}: {trials_of}, by {config.measure}")
        echo(f"output in {out}")
        for note in dict.fromkeys(subject.notes):
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
                    recorder = Recorder(config, subject, journal, run.outbox, out / "artifacts", meter, echo)
                    _search(config, subject, journal, recorder, out)
            trials = [journal.trials[number] for number in sorted(journal.trials)]
            best = choose_best(config, trials)
            winner, written = subject.keep(trials, best, run.run_id)
            written = [*written, *leave_tables(config, subject.figures, trials, out)]
            for path in (*(file for file in written if file.parent == out), *sorted(out.glob("trials.csv"))):
                run.outbox.file(path)
            run.outbox.metrics({f"best_{config.measure}": best.value}, len(trials))
            text = description(config, subject.headline, subject.figures, trials)
            run.outbox.describe(text, "All of it: `trials.csv`.")
        except BaseException as error:
            for trial in journal.trials.values():
                if trial.state == "unfinished":
                    run.outbox.finish(end_status(error), "the search ended before it", trial.key)
            raise
    seconds = time.monotonic() - began
    return TuneResult(winner, written, best, trials, subject.figures, seconds, run.uri, run.run_id)


def _calm_tune() -> None:
    """Set what Ray Tune reads when it is imported."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # the journal and MLflow are the log
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # prints a header however quiet it is asked to be
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C ends the search at once
    os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"  # the recorder says so in a line


def _search(
    config: SearchConfig[Winner], subject: Subject[Winner], journal: Journal, recorder: Recorder, out: Path
) -> None:
    """Run the trials that are yet to finish."""
    import ray
    from ray import tune as ray_tune
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    from kdrift.tuning.searcher import searcher

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    lent = {"cpu": config.cpus_per_trial} | ({"gpu": config.gpus_per_trial} if config.gpus_per_trial else {})
    _check_room(config, ray.cluster_resources())
    mode = "max" if config.higher_is_better else "min"
    asha = ASHAScheduler(
        time_attr=subject.unit, metric="value", mode=mode, max_t=subject.length,
        grace_period=min(subject.grace, subject.length), reduction_factor=config.reduction_factor,
    )  # fmt: skip
    done = sum(trial.is_done for trial in journal.trials.values())
    tuner = ray_tune.Tuner(
        ray_tune.with_resources(subject.trainable(), lent),
        tune_config=ray_tune.TuneConfig(
            search_alg=searcher(config, subject.start, journal),
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


def _check_room(config: SearchConfig[Any], cluster: dict[str, float]) -> None:
    for name, needed in (("CPU", config.cpus_per_trial), ("GPU", config.gpus_per_trial)):
        if needed > cluster.get(name, 0):
            raise ValueError(f"a trial needs {needed:g} {name}, the Ray cluster has {cluster.get(name, 0):g}")
