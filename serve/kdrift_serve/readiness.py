"""Whether a job that is sent now would be run: what it needs besides this process."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from kdrift_serve.job_files import JobFiles
from kdrift_serve.job_table import JobTable, StateLost

logger = logging.getLogger("ray.serve")
LOOK_S = 1.0
"""How long an answer stands, so that asking often costs nothing."""


class Readiness:
    """Looks for the table of jobs, the storage, the planner of this service, and its samplers."""

    def __init__(self, table: JobTable, files: JobFiles, service: str) -> None:
        self._table, self._files, self._service = table, files, service
        self._looked, self._found, self._looking = 0.0, dict[str, str](), asyncio.Lock()

    async def missing(self) -> dict[str, str]:
        """Return what is missing, by its name: a sentence on each."""
        async with self._looking:
            if time.monotonic() - self._looked > LOOK_S:
                self._found = await asyncio.to_thread(self._look)
                self._looked = time.monotonic()
            return self._found

    def _look(self) -> dict[str, str]:
        found = {}
        try:
            if self._service not in self._table.services():
                found["planner"] = "the planner of this service has not said for 10 s that it lives"
        except StateLost as error:
            found["table"] = str(error)
        try:
            self._files.check()
        except StateLost as error:
            found["storage"] = str(error)
        try:
            if not running_samplers():
                found["sampler"] = "no sampler runs yet, or any more"
        except (RayError, RayServeException, KeyError) as error:
            logger.error("Ray Serve does not tell of its samplers: %s", error)
            found["sampler"] = "Ray Serve does not tell of its samplers"
        return found


def running_samplers() -> int:
    """Return how many samplers Ray Serve says to run."""
    application = serve.status().applications[serve.get_replica_context().app_name]
    states: Any = application.deployments["Sampler"].replica_states  # by the names of states, as Serve gives them
    return int(states.get("RUNNING", 0))
