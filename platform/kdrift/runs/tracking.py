"""MLflow: one run a training, whatever happens to its workers.

Only `MlflowClient` is used: no global state, so a worker that takes over a run cannot open a second one.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import json
import logging
import os
import re
import subprocess
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdrift import __version__
from kdrift.runs.command_line import command_line
from kdrift.runs.hint import first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "kdrift"
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Without it MLflow 3 opens runs in its pages for chat."""
DESCRIPTION = "mlflow.note.content"
"""Tag of a run or an experiment that MLflow shows as Markdown above all else."""
KIND = "kind"
"""Tag of a run: `training`, `search`, `trial` or `evaluation`, by which the pages of MLflow filter."""
MOST_TEXT = 5000
"""Characters of a description that every store of MLflow takes."""
MOST_PARAMS = 100
"""Parameters that MLflow takes at a time."""
MOST_METRICS = 1000
"""Metrics that it takes at a time."""
REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}
"""Its answers to what it will not take."""
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]", re.ASCII)


def default_uri(out: Path) -> str:
    """Return the tracking URI of the SQLite file in an output folder."""
    return f"sqlite:///{out.resolve() / 'mlflow.db'}"


def ui_command(uri: str) -> str:
    """Return the shell command that shows the runs of a tracking URI."""
    if _is_server(uri):
        return f"open {uri}"
    return f"MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --backend-store-uri {uri}"


def client(uri: str) -> MlflowClient:
    """Return a client for tracking and registry at one URI, without telemetry or database chatter."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the outbox tries again
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def start_run(uri: str, name: str, parameters: Mapping[str, Any], artifacts: Path, *, parent: str | None = None) -> str:
    """Create a run and return its id; a local database keeps the files of its runs in `artifacts`.

    With `parent`, the id of another run, it is shown as that run's child. In names of parameters an underscore stands
    for what MLflow does not take (commas, per cent).
    """
    from mlflow.entities import Param

    mlflow = client(uri)
    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        experiment_id = experiment.experiment_id
    else:
        place = None if _is_server(uri) else artifacts.resolve().as_uri()
        experiment_id = mlflow.create_experiment(EXPERIMENT, artifact_location=place, tags=EXPERIMENT_TAGS)
    tags = origin() | ({"mlflow.parentRunId": parent} if parent else {})
    run_id: str = mlflow.create_run(experiment_id, run_name=name, tags=tags).info.run_id
    params = [Param(_NOT_IN_NAMES.sub("_", key)[:250], str(value)[:6000]) for key, value in parameters.items()]
    for first in range(0, len(params), MOST_PARAMS):
        mlflow.log_batch(run_id, params=params[first : first + MOST_PARAMS])
    return run_id


def origin() -> dict[str, str]:
    """Return tags for what made a run: the command, the user, kdrift's version, the commit of a checkout."""
    tags = {
        "mlflow.source.name": command_line(),
        "mlflow.source.type": "JOB" if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else "LOCAL",
        "kdrift": __version__,
    }
    with contextlib.suppress(KeyError, OSError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    commit = _commit()
    return tags | ({"mlflow.source.git.commit": commit} if commit else {})


@functools.cache
def _commit() -> str | None:
    """The commit of the checkout that kdrift runs from; None where it is installed."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True, timeout=10, check=False,
        )  # fmt: skip
        if found.returncode:
            return None
        head = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip()


def log_dataset(uri: str, run_id: str, name: str, digest: str, context: str) -> None:
    """Name the data of a run, with a digest of them, by which MLflow finds all runs of the same data."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data = Dataset(name, digest[:36], "local", json.dumps({"uri": name}))
    client(uri).log_inputs(run_id, datasets=[DatasetInput(data, [InputTag("mlflow.data.context", context)])])


def resume_run(uri: str, run_id: str) -> None:
    """Mark an earlier run as running again.

    Raises ValueError if the tracking store answers that it does not know the run.
    """
    try:
        mlflow = client(uri)
        if "stopped" in mlflow.get_run(run_id).data.tags:
            mlflow.delete_tag(run_id, "stopped")
        mlflow.update_run(run_id, status="RUNNING")
    except Exception as error:
        if not is_refusal(error):
            raise
        raise ValueError(f"cannot resume MLflow run {run_id} at {uri}: {first_line(error)}") from None


def is_refusal(error: Exception) -> bool:
    """Whether a later try would end the same: MLflow will not take it, or a file is gone. Else it is away for now."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code in REFUSALS
    return isinstance(error, FileNotFoundError) or not isinstance(error, OSError)


def keep_children(uri: str, parent: str, known: Collection[str]) -> None:
    """Delete the children of a run that are not among `known`: a driver was killed before it took note of them."""
    mlflow = client(uri)
    experiment_id = mlflow.get_run(parent).info.experiment_id
    children = mlflow.search_runs([experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'", max_results=10_000)
    for child in children:
        if child.info.run_id not in known:
            mlflow.delete_run(child.info.run_id)


def log_metrics(
    uri: str, run_id: str, values: Mapping[str, float], step: int, *, unix_time: float | None = None
) -> None:
    """Log values at a step, which is the number of images seen, of a time, by default now. Replaying is harmless."""
    from mlflow.entities import Metric

    now = int((time.time() if unix_time is None else unix_time) * 1000)
    metrics = [Metric(key, float(value), now, step) for key, value in values.items()]
    for first in range(0, len(metrics), MOST_METRICS):
        client(uri).log_batch(run_id, metrics=metrics[first : first + MOST_METRICS])


def set_tag(uri: str, run_id: str, name: str, value: str) -> None:
    """Set a tag of a run, by which runs are searched, in place of the value that it had."""
    client(uri).set_tag(run_id, name, value)


def short_text(text: str, rest: str) -> str:
    """Return whole lines of a Markdown text that MLflow takes as a description; `rest` says where all of it is.

    A title is left out: MLflow shows the name above, and only the first lines of a description at once.
    """
    if text.startswith("# "):
        text = text.partition("\n")[2].lstrip("\n")
    if len(text) <= MOST_TEXT:
        return text
    end = f"\n\n{rest}"
    return text[: MOST_TEXT - len(end)].rpartition("\n")[0] + end


def log_file(uri: str, run_id: str, path: Path, folder: str | None = None) -> None:
    """Copy a file to the run's artifacts."""
    client(uri).log_artifact(run_id, str(path), folder)


def finish_run(uri: str, run_id: str, status: str, reason: str = "") -> None:
    """End a run as FINISHED, FAILED or KILLED; the reason becomes its tag `stopped`."""
    mlflow = client(uri)
    if reason:
        mlflow.set_tag(run_id, "stopped", reason[:5000])
    mlflow.set_terminated(run_id, status=status)


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))
