"""Whether a job that is sent now would be run: what it needs besides this process."""

from __future__ import annotations

import asyncio
import time

from ray import serve

from kdrift_serve.job_table import JobTable, StateLost

LOOK_S = 1.0
"""How long an answer stands, so that asking often costs nothing."""


class Readiness:
    """Looks for the table of jobs, the planner of this service, and its samplers."""

    def __init__(self, table: JobTable, service: str) -> None:
        self._table, self._service = table, service
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
        if not running_samplers():
            found["sampler"] = "no sampler runs yet, or any more"
        return found


def running_samplers() -> int:
    """Return how many samplers Ray Serve says to run."""
    application = serve.status().applications[serve.get_replica_context().app_name]
    states = application.deployments["Sampler"].replica_states
    return sum(count for state, count in states.items() if state.value == "RUNNING")
