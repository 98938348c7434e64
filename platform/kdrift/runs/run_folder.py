"""The output folder of a long run (train, tune, batch, evaluate): one driver at a time, one configuration, one MLflow
run, whether it is begun or taken up again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrift.runs import tracking
from kdrift.runs.config import flatten, parse, read_yaml, to_dict
from kdrift.runs.files import only_user, read_json, refuse_address, write_json, write_yaml
from kdrift.runs.hint import first_line
from kdrift.runs.outbox import Outbox, send_left

CONFIG = "config.yaml"
"""The configuration that a folder's run has now."""
RUN = "run.json"
"""Where it is tracked."""
OUTBOX = "mlflow"
"""What MLflow is yet to be told."""


@dataclass
class TrackedRun:
    """The MLflow run of a folder."""

    uri: str
    """MLflow tracking URI."""
    run_id: str
    outbox: Outbox
    """By which MLflow is told."""
    fault: str = ""
    """Why a run that came to its end has failed nevertheless."""


@contextlib.contextmanager
def run_folder(
    out: Path,
    settings: dict[str, Any],
    *,
    what: str,
    free: Sequence[str] = (),
    tables: Sequence[str] = (),
    kind: type | None = None,
    resume: bool = True,
) -> Iterator[None]:
    """Keep `out` to this process for the block, and see that it goes on with what began there.

    Parameters
    ----------
    settings
        The resolved configuration; `out/config.yaml` holds it from now on.
    what
        The word for the run in errors.
    free
        Dotted keys and sections that may differ from those that the run began with.
    tables
        Sections whose entries may be added and left out.
    kind
        Dataclass of the settings; options that are newer than the run then take their defaults.
    resume
        Go on with the run that `out` holds, if it holds one.

    Raises
    ------
    ValueError
        If another process works in `out`; if `out` holds a run and `resume` is false, or one of other settings.
    """
    refuse_address(out, f"output of the {what}:")
    out.mkdir(parents=True, exist_ok=True)
    with only_user(out, f"another {what} is writing to {out}"):
        saved = out / CONFIG
        if saved.is_file():
            if not resume:
                raise ValueError(f"{out} already holds a {what}: pass --resume to continue it, or another --out")
            before = read_yaml(saved)
            before = before if kind is None else to_dict(parse(kind, before, str(saved)))
            changed = [f"{t}.{name}" for t in tables for name in before.get(t, {}).keys() ^ settings[t].keys()]
            check_same(before, settings, (*free, *changed), out)
        write_yaml(saved, settings)
        yield


@contextlib.contextmanager
def tracked_run(
    out: Path, settings: Mapping[str, Any], *, what: str, name: str, tracking_uri: str | None,
    echo: Callable[[str], None] = print,
) -> Iterator[TrackedRun]:  # fmt: skip
    """Begin the MLflow run of a `run_folder`, or take it up, and end it with the block.

    It ends FINISHED, FAILED where the block raises or sets `fault`, KILLED on Ctrl-C. Without `tracking_uri` a new one
    is tracked in SQLite in `out`. An MLflow that stops answering stops nothing: what it is to be told is kept in
    `out/mlflow` and sent when it answers again, at the latest by `kdrift track`.

    Raises ValueError if the run is tracked somewhere else, or its tracking store does not know it; OSError if an MLflow
    does not answer that is to begin a run.
    """
    before: dict[str, str] = read_json(out / RUN)
    if before and tracking_uri not in (None, before["tracking_uri"]):
        raise ValueError(f"the {what} in {out} is tracked at {before['tracking_uri']}, got {tracking_uri}")
    if before:
        _check_known(before)
    found = before or _begun(tracking_uri or tracking.default_uri(out), name, settings, out)

    def note(line: str) -> None:
        echo(f"note: {line}")

    place = (out / OUTBOX, found["tracking_uri"], found["run_id"])
    run = TrackedRun(found["tracking_uri"], found["run_id"], Outbox(*place, echo=note))
    if before:
        run.outbox.resume()  # after what it could not send before, such as its end
    status, reason = "FINISHED", ""
    try:
        run.outbox.file(out / CONFIG)
        yield run
        status, reason = ("FAILED", run.fault) if run.fault else (status, reason)
    except BaseException as error:
        status, reason = end_status(error), str(error) or "interrupted"
        raise
    finally:
        run.outbox.finish(status, reason)
        left = run.outbox.close() or send_left(*place, echo=note)
        if left:
            note(f"MLflow is yet to be told {left} or more entries, which {out} keeps: kdrift track {out} sends them")


def _check_known(found: Mapping[str, str]) -> None:
    """Raise ValueError if MLflow answers that it has no such run. One that does not answer is told of by the outbox."""
    from mlflow.exceptions import MlflowException

    with contextlib.suppress(OSError, MlflowException):
        tracking.resume_run(found["tracking_uri"], found["run_id"])


def _begun(uri: str, name: str, settings: Mapping[str, Any], out: Path) -> dict[str, str]:
    """Begin a run and note in `out` where it is tracked."""
    try:
        run_id = tracking.start_run(uri, name, flatten(settings), out / "artifacts")
    except Exception as error:
        if tracking.is_refusal(error):
            raise
        raise OSError(
            f"MLflow at {uri} does not answer ({first_line(error)[:200]}): start it, or leave the tracking URI out and"
            f" the run is tracked in {out / 'mlflow.db'}"
        ) from None
    found = {"tracking_uri": uri, "run_id": run_id}
    write_json(out / RUN, found)
    return found


def end_status(error: BaseException) -> str:
    """Return how MLflow calls the end of a run that `error` ended."""
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"


def check_same(saved: Mapping[str, Any], settings: Mapping[str, Any], free: Sequence[str], out: Path) -> None:
    """Raise ValueError for the first setting that differs and is not among the keys and sections `free`."""
    old, new = flatten(saved), flatten(settings)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key) and not any(key == name or key.startswith(f"{name}.") for name in free):
            raise ValueError(
                f"cannot resume in {out}: {key} was {old.get(key)!r} and is now {new.get(key)!r}; restore it or choose"
                " another --out"
            )
