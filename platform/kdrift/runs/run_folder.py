"""The output folder of a long run: its configuration and its one MLflow run, created once and taken up again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from kdrift.runs import tracking
from kdrift.runs.config import flatten
from kdrift.runs.files import read_json, write_json, write_yaml


def open_run(
    out: Path,
    name: str,
    settings: dict[str, Any],
    *,
    what: str,
    resume: bool,
    tracking_uri: str | None,
    check: Callable[[dict[str, Any], dict[str, Any]], None],
) -> dict[str, str]:
    """Create or take up the run of `out` and return its `tracking_uri` and `run_id`.

    `what` is the word for it in errors, `settings` the resolved configuration; `check(saved, settings)` raises where
    it would not go on with the run that is there.

    Raises
    ------
    ValueError
        If `out` holds a run and `resume` is false, or one of another configuration or tracking URI.
    """
    run: dict[str, str] = read_json(out / "run.json")
    if run and not resume:
        raise ValueError(f"{out} already holds a {what}: pass --resume to continue it, or another --out")
    if run:
        check(yaml.safe_load((out / "config.yaml").read_text()), settings)
        if tracking_uri not in (None, run["tracking_uri"]):
            raise ValueError(f"the {what} in {out} is tracked at {run['tracking_uri']}, got {tracking_uri}")
        tracking.resume_run(run["tracking_uri"], run["run_id"])
    else:
        out.mkdir(parents=True, exist_ok=True)
        uri = tracking_uri or tracking.default_uri(out)
        run_id = tracking.start_run(uri, name, flatten(settings), out / "artifacts")
        run = {"tracking_uri": uri, "run_id": run_id}
    write_yaml(out / "config.yaml", settings)
    write_json(out / "run.json", run)
    tracking.log_file(run["tracking_uri"], run["run_id"], out / "config.yaml")
    return run
