"""`kdrift tune`: search settings on Ray Tune, of a method or of a training, and keep the best."""

from __future__ import annotations

from dataclasses import dataclass

from kdrift.commands.common import RunOptions, load_run, run_resumable


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Search settings on Ray Tune, of a method or of a training (a configuration with a section train); log to MLflow.

    A method's best become a preset under the search's name. It is used where it is named (--preset NAME), and by
    default only after kdrift presets use METHOD NAME. A training's best become a configuration for kdrift train.
    """


def run(options: Options) -> int:
    """Search and print what was found and where it is."""
    from kdrift.methods.presets import preset_folder
    from kdrift.runs.home import home_of
    from kdrift.runs.progress import format_seconds
    from kdrift.runs.tracking import ui_command
    from kdrift.tuning.load import load_search
    from kdrift.tuning.outcome import pareto_front, table
    from kdrift.tuning.search import tune
    from kdrift.tuning.tune_config import TuneConfig

    config, out = load_run(options, "tune", load_search)
    result = run_resumable(tune, config, out, options, "with the search")
    if result is None:
        return 130
    print(f"{len(result.trials)} trials in {format_seconds(result.seconds)}")
    if config.pareto:
        print(table(config, result.figures, pareto_front(config, result.trials)), end="")
    first = result.trials[0]
    print(f"start:  {config.measure} {f'{first.value:.5g}' if first.rows else 'failed'}  {first.settings}")
    print(f"best:   {config.measure} {result.best.value:.5g}  {result.best.settings}")
    for path in result.written:
        print(f"written: {home_of(out).shown(path)}")
    print(f"runs:   {ui_command(result.tracking_uri)}")
    if not isinstance(config, TuneConfig):
        print(f"use it: kdrift train --config {result.written[0]}")
    elif preset_folder() is not None:
        print(f"use it: --method {config.method} --preset {config.name}; by default after")
        print(f"        kdrift presets use {config.method} {config.name}")
    return 0
