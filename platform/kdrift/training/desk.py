"""What the first worker of a training leaves: checkpoints, previews, journal, progress, what MLflow is told.

It is written where the output is: by the worker itself, or, where the output is on the disk of another node, by an
actor there.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from kdrift.runs.files import write_json
from kdrift.runs.nodes import actor_on, on_node, this_node
from kdrift.runs.outbox import Outbox
from kdrift.runs.run_folder import OUTBOX
from kdrift.training.checkpoint import load_checkpoint, load_newest, save_checkpoint
from kdrift.training.preview import save_sheet


class Desk:
    """Writes into the output folder of a job `{out, tracking_uri, run_id, ...}`, which has one desk at a time."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._out, self._job = Path(job["out"]), job
        self._notes: list[str] = []
        self._outbox: Outbox | None = None

    def load(self) -> tuple[str, dict[str, Any]] | None:
        """Return the path of the newest sound checkpoint and what it holds, None where there is none."""
        found = load_newest(self._out / "checkpoints", self._notes.append)
        return None if found is None else (str(found[0]), found[1])

    def begin(self, start: int, workers: list[dict[str, Any]]) -> None:
        """Note from which image on the workers train, and what each runs on."""
        uri, run_id = self._job["tracking_uri"], self._job["run_id"]
        self._outbox = Outbox(self._out / OUTBOX, uri, run_id, echo=self._notes.append)
        write_json(self._out / "workers.json", {"from_image": start, "workers": workers})
        self._outbox.file(self._out / "workers.json")

    def progress(self, values: dict[str, Any]) -> None:
        """Let the driver know how far the training is; not durable, as it does not wait for the disk."""
        write_json(self._out / "progress.json", {**values, "notes": list(self._notes)}, durable=False)

    def metrics(self, images: int, values: dict[str, float]) -> None:
        """Log figures after so many images."""
        if self._outbox is not None:
            self._outbox.metrics(values, images)
        with (self._out / "log.jsonl").open("a") as stream:  # a line is whole or the last: nothing needs it at once
            stream.write(json.dumps({"images": images, "unix_time": round(time.time(), 1), **values}) + "\n")

    def preview(self, name: str, number: int, images: Tensor, columns: int) -> None:
        """Write a sheet of images `(image, channel, row, col)` as it is after `number` images of training."""
        path = self._out / "previews" / f"{name}_{number:012d}.png"
        save_sheet(path, images, columns)
        if self._outbox is not None:
            self._outbox.file(path, "previews")

    def checkpoint(self, content: dict[str, Any], images: int, keep: int) -> None:
        """Write a checkpoint, and remove all but the `keep` newest ones. The only call that may run beside another."""
        save_checkpoint(self._out / "checkpoints", content, images=images, keep=keep)

    def close(self) -> None:
        """Send what MLflow is yet to be told, as long as it answers."""
        if self._outbox is not None:
            self._outbox.close()


class _Far:
    """A desk on another node: each call waits for it. What it is given is on the CPU: that node may have no GPU."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        import ray

        return lambda *words: ray.get(getattr(self._actor, name).remote(*words))


def desk_of(job: dict[str, Any]) -> Desk:
    """Return the desk of a job: here, or on the node `job["node"]` whose disk the output is on. None: all see it."""
    if job["node"] in (None, this_node()):
        return Desk(job)
    # two calls at once: figures and progress do not wait while a checkpoint is written
    return cast("Desk", _Far(actor_on(job["node"], Desk, job, max_concurrency=2)))


def checkpoint_of(job: dict[str, Any], path: str) -> dict[str, Any]:
    """Return what a checkpoint of a job holds, wherever it is."""
    if job["node"] in (None, this_node()):
        return load_checkpoint(Path(path))
    return on_node(job["node"], load_checkpoint, Path(path))
