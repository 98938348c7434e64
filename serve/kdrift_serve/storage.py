"""Jobs and their results. This one is a folder; another store needs the same methods."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kdrift.runs.config import parse, to_dict
from kdrift.runs.files import write_json
from kdrift.trust.verdict import Level

logger = logging.getLogger("ray.serve")

State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
ACTIVE = ("queued", "running")
OUTPUTS_ZIP = "outputs.zip"
"""The outputs of a job besides `reconstruction.h5`, where it asked for some."""
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class SliceVerdict:
    """Whether the image of a slice is to be believed; the numbers are in `Job.report`."""

    level: Level
    sentence: str
    """The verdict with its reasons, in plain words."""
    given: str = ""
    """The classical method whose image is given in place of the mean; empty: the mean is given."""


@dataclass(frozen=True)
class Job:
    """One request and what became of it."""

    id: str
    state: State
    name: str
    """Name of the file, for people."""
    owner: str
    """Ray name of the process that runs it; clients never see it."""
    request: dict[str, Any]
    prior: dict[str, Any]
    """Name, version and sha256; empty for a classical method."""
    config: dict[str, Any]
    """The resolved configuration, as results hold it."""
    sampling: str
    slices: list[int]
    created: float = field(default_factory=time.time)
    """When it was accepted, in seconds since 1970; `started` and `finished` alike."""
    started: float | None = None
    finished: float | None = None
    detail: str = ""
    """Why it has no result."""
    notes: list[str] = field(default_factory=list)
    """What was guessed, left out or is doubtful of the data; `report` adds what was found later."""
    verdicts: dict[str, SliceVerdict] = field(default_factory=dict)
    """By the number of the slice, once it is done; none of a classical method."""
    report: dict[str, Any] = field(default_factory=dict)
    """What metrics.json holds, once it is done."""


class JobFolder:
    """Jobs in a folder: `ID/job.json`, `ID/upload/`, `ID/result/`. Every file appears whole or not at all."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder).expanduser().resolve()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def put(self, job: Job) -> None:
        """Write or replace a job."""
        folder = self._folder / job.id
        folder.mkdir(mode=0o700, exist_ok=True)
        write_json(folder / "job.json", to_dict(job))

    def get(self, job_id: str) -> Job | None:
        """Return a job, None where there is none of this id."""
        if not _ID.fullmatch(job_id):
            return None
        try:
            return parse(Job, json.loads((self._folder / job_id / "job.json").read_text()), "job.json")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.error("job %s cannot be read: %s", job_id, error)
            return None

    def jobs(self) -> list[Job]:
        """Return all jobs, the oldest first."""
        ids = [entry.name for entry in os.scandir(self._folder) if entry.is_dir()]
        return sorted((job for job_id in ids if (job := self.get(job_id))), key=lambda job: job.created)

    def upload_folder(self, job_id: str) -> Path:
        """Make and return the folder for the data of a job."""
        folder = self._folder / job_id / "upload"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def drop_upload(self, job_id: str) -> None:
        """Delete the data of a job; its results stay."""
        shutil.rmtree(self._folder / job_id / "upload", ignore_errors=True)

    def result_folder(self, job_id: str) -> Path:
        """Return the folder of the results of a job."""
        return self._folder / job_id / "result"

    def result(self, job_id: str, name: str) -> Path | None:
        """Return the local path of a result file, None where there is none."""
        path = self.result_folder(job_id) / name
        return path if path.is_file() else None

    def remove(self, job_id: str) -> None:
        """Delete a job with everything it has."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._folder / job_id)

    def prune(self, keep: int) -> None:
        """Delete the oldest finished jobs beyond `keep`."""
        finished = [job for job in self.jobs() if job.state not in ACTIVE]
        for job in finished[: max(0, len(finished) - keep)]:
            self.remove(job.id)
