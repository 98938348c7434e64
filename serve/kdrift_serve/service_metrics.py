"""What Prometheus may read of the service, beside Ray Serve's own metrics of requests and replicas.

Ray exports them on every node, at the port of its metrics (`kdrift serve --metrics-port`, 8080 on Kubernetes), with
the prefix `ray_`.
"""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Mapping
from typing import Any

from ray.serve.metrics import Counter, Gauge, Histogram

from kdrift.prior.shared_calls import Fill
from kdrift_serve.jobs import Job

SECONDS = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 5000.0, 20000.0]
ENDED: Any = ("state", "method")
JUDGED: Any = ("level", "method")
"""Ray's annotation is of a single key."""


class Metrics:
    """The metrics of one planner."""

    def __init__(self) -> None:
        self._jobs = Gauge("kdrift_jobs", "Jobs that wait and run.", tag_keys=("state",))
        self._work = Gauge(
            "kdrift_work", "Pieces of work that wait for a sampler, and that samplers do.", tag_keys=("state",)
        )
        self._ended = Counter("kdrift_jobs_ended", "Jobs by how they ended.", tag_keys=ENDED)
        self._seconds = Histogram(
            "kdrift_job_seconds", "Seconds from the request to the end.", boundaries=SECONDS, tag_keys=("method",)
        )
        self._waited = Histogram(
            "kdrift_job_waited_seconds", "Seconds from the request to its first sampler.", boundaries=SECONDS
        )
        self._evaluations = Counter(
            "kdrift_network_images", "Images that went through networks, by prior.", tag_keys=("prior",)
        )
        self._verdicts = Counter("kdrift_verdicts", "Slices by verdict.", tag_keys=JUDGED)
        self._diverged = Counter("kdrift_diverged", "Samples that diverged.", tag_keys=("method",))

    def now(self, jobs: Mapping[str, int], waiting: int, busy: int) -> None:
        """Tell how much there is to do."""
        for state, count in jobs.items():
            self._jobs.set(count, {"state": state})
        self._work.set(waiting, {"state": "waiting"})
        self._work.set(busy, {"state": "running"})

    def ended(self, job: Job) -> None:
        """Tell of a job that has ended."""
        method = str(job.config.get("method", ""))
        self._ended.inc(1, {"state": job.state, "method": method})
        if job.finished is not None:
            self._seconds.observe(max(0.0, job.finished - job.created), {"method": method})
        if job.started is not None:
            self._waited.observe(max(0.0, job.started - job.created))
        if job.report.get("network_images"):
            self._evaluations.inc(job.report["network_images"], {"prior": str(job.prior.get("name", ""))})
        for level, count in Count(each.level for each in job.verdicts.values()).items():
            self._verdicts.inc(count, {"level": level, "method": method})
        diverged = sum(len(found) for found in job.report.get("diverged", {}).values())
        if diverged:
            self._diverged.inc(diverged, {"method": method})


class BatchMetrics:
    """The metrics of one sampler."""

    def __init__(self) -> None:
        self._images = Counter("kdrift_batch_images", "Images in the batches that networks were asked for.")
        self._room = Counter("kdrift_batch_room", "Images that these batches had room for.")

    def add(self, fill: Fill) -> None:
        """Tell of the batches of one call."""
        if fill.room:
            self._images.inc(fill.images)
            self._room.inc(fill.room)
