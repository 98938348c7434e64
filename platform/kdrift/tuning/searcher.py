"""What to try next: Optuna's TPE on the axes of the configuration, told of every trial of the journal."""

from __future__ import annotations

from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from kdrift.runs.seeds import derive_seed
from kdrift.tuning.journal import Journal
from kdrift.tuning.search_config import Axis, SearchConfig

STARTUP = 8
"""Trials drawn at random before TPE has enough to go by, at most a third of all."""


def searcher(config: SearchConfig[Any], start: dict[str, Any], journal: Journal) -> OptunaSearch:
    """Return the search algorithm: the start first, then unfinished trials, then what Optuna suggests."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {name: distribution(axis) for name, axis in config.space.items()}
    quality = "max" if config.higher_is_better else "min"
    metrics, modes = (["value", "seconds"], [quality, "min"]) if config.pareto else (["value"], [quality])
    trials = list(journal.trials.values())
    storage, study = optuna.storages.InMemoryStorage(), config.name
    better = {"max": optuna.study.StudyDirection.MAXIMIZE, "min": optuna.study.StudyDirection.MINIMIZE}
    done = [trial for trial in trials if trial.is_done]
    optuna.create_study(storage=storage, study_name=study, directions=[better[mode] for mode in modes]).add_trials(
        [
            optuna.trial.create_trial(
                params=trial.settings, distributions=space, values=[trial.rows[-1][metric] for metric in metrics]
            )
            for trial in done
        ]
    )
    waiting = [trial.settings for trial in trials if not trial.is_done]
    first = [start, *waiting] if journal.lacks_start else waiting
    sampler = optuna.samplers.TPESampler(
        # it takes 32 bits; a resumed search must not draw its first points again
        seed=derive_seed("search", config.seed, len(done)) % 2**32,
        n_startup_trials=min(STARTUP, max(1, config.num_trials // 3)),
        constant_liar=not config.pareto,  # trials at once are suggested apart from each other
    )
    return OptunaSearch(
        space, metric=metrics if config.pareto else metrics[0], mode=modes if config.pareto else modes[0],
        points_to_evaluate=first, sampler=sampler, study_name=study, storage=storage,
    )  # fmt: skip


def distribution(axis: Axis) -> optuna.distributions.BaseDistribution:
    """Return the axis as Optuna's distribution."""
    if axis.choices is not None:
        return optuna.distributions.CategoricalDistribution(axis.choices)
    low, high = axis.ends
    if axis.integer:
        return optuna.distributions.IntDistribution(low, high, log=axis.log)
    return optuna.distributions.FloatDistribution(low, high, log=axis.log)
