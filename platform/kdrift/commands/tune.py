"""`kdrift tune`: search a method's settings on Ray Tune; the best become a preset."""

from __future__ import annotations

from dataclasses import dataclass

from kdrift.commands.common import RunOptions, load_run, run_resumable


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Search a method's settings on Ray Tune; log to MLflow; write the best as a preset under the search's name.

    It is used where it is named (--preset NAME), and by default only after kdrift presets use METHOD NAME.
    """


def run(options: Options) -> int:
    """Search and print what was found and where it is."""
    from kdrift.methods.presets import preset_folder
    from kdrift.runs.home import home_of
    from kdrift.runs.progress import format_seconds
    from kdrift.runs.tracking import ui_command
    from kdrift.tuning.outcome import pareto_front, table
    from kdrift.tuning.search import tune
    from kdrift.tuning.tune_config import TuneConfig

    config, out = load_run(options, "tune", TuneConfig)
    result = run_resumable(tune, config, out, options, "with the search")
    if result is None:
        return 130
    print(f"{len(result.trials)} trials in {format_seconds(result.seconds)}")
    if config.pareto:
        print(table(config, pareto_front(config, result.trials)), end="")
    first = result.trials[0]
    print(f"start:  {config.objective} {first.value:.5g}  {first.settings}")
    print(f"best:   {config.objective} {result.best.value:.5g}  {result.best.settings}")
    for path in result.written:
        print(f"written: {home_of(out).shown(path)}")
    print(f"runs:   {ui_command(result.tracking_uri)}")
    if preset_folder() is not None:
        print(f"use it: --method {config.method} --preset {result.preset.name}; by default after")
        print(f"        kdrift presets use {config.method} {result.preset.name}")
    return 0
