"""What answers hold, for the description of the service: made of the classes that hold it where there is one."""

from __future__ import annotations

from dataclasses import fields
from types import GenericAlias
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from kdrift.runs.field_docs import field_docs
from kdrift_serve.answers import BRIEF, INTERNAL
from kdrift_serve.jobs import Job

ShownState = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
"""States that a client sees."""


class View(BaseModel):
    """An answer whose fields are documented under them."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="forbid")


class ProgressView(View):
    """How far a job is."""

    evaluations_done: int | None = None
    """Network evaluations, of samples, mean and check together."""
    evaluations_total: int | None = None
    slices_done: int | None = None
    slices_total: int | None = None
    fraction: float | None = None
    """0 to 1."""
    seconds_left: float | None = None
    preview: int | None = None
    """Version of the preview that its events send; 0 before the first."""
    jobs_ahead: int | None = None
    """Jobs that wait longer, while it waits itself."""


class NextLink(View):
    """Where a list goes on."""

    next: str | None
    """Address of those before the last one here; null where there are none."""


class PreviewView(View):
    """What a job's images look like so far: data of the event `preview`."""

    version: int
    slice: int
    """Number of the slice in its volume."""
    mean: str
    """PNG in a data address, of at most 384 rows and columns, not cropped."""
    std: str
    """Likewise; the samples' deviation, not calibrated."""
    chains: int
    """Chains that are in either."""
    data_residual: float
    """|M (y - A x)| / |y|."""


class PriorView(View):
    """A prior that is served."""

    name: str
    """What a request calls it."""
    prior: dict[str, Any]
    """Name, reference, sha256 of its weights, version."""
    sigma_min: float | None
    sigma_max: float | None
    trained_for: str
    serves: list[str]
    """Methods that can use it."""
    default: bool


class MethodView(View):
    """A method that a request may name."""

    summary: str
    default_preset: str | None
    """Preset that is used where none is named; null where it cannot be read: `fault` says why."""
    fault: str | None = None
    presets: dict[str, dict[str, Any]]
    """Settings by preset."""
    evaluations: dict[str, int]
    """Network evaluations of a chain by preset."""
    needs: str | None
    """Noise or kind of network that its prior must be trained for; null: it needs none."""
    samples: bool
    """Whether it draws samples."""
    priors: list[str]
    """Served priors that it can use, the first by default."""


class CatalogueView(View):
    """What a request may name."""

    methods: dict[str, MethodView]
    samplers: list[str]
    learned: list[str]
    classical: list[str]
    masks: dict[str, str]
    """Kinds of undersampling, and what they are."""


class UploadView(View):
    """An upload that comes in several requests."""

    id: str
    name: str
    length: int
    """Bytes of the whole file."""
    offset: int
    """Bytes that are there; as many as `length`: it is finished, and a job may name it."""
    expires: float
    """When it is deleted unless it is written to or used before, in seconds since 1970."""


class HealthView(View):
    """That the service answers."""

    status: Literal["ok"]
    version: str
    api_keys: bool
    """Whether requests need a key."""
    jobs: dict[str, int]
    """How many run and wait."""


class ReadyView(View):
    """Whether a job that is sent now would be run."""

    ready: bool
    missing: dict[str, str]
    """What is missing of table, planner and sampler, and what is wrong with it."""


class ProblemView(View):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    """A sentence: what was expected, what came, what to do."""


class NotReadyView(ProblemView):
    """That a job that is sent now would not be run: an error that says what is missing."""

    ready: bool
    missing: dict[str, str]
    """What is missing of table, planner and sampler, and what is wrong with it."""


def _of_job(name: str, chosen: list[str], doc: str) -> type[BaseModel]:
    docs, hints = field_docs(Job), get_type_hints(Job)
    own: dict[str, tuple[Any, str]] = {
        "state": (ShownState, ""),
        "progress": (ProgressView | None, "How far it is; null once it has ended."),
        "links": (dict[str, str], "Addresses of what it has: itself, its events, its results."),
    }
    found: dict[str, Any] = {}
    for field in chosen:
        hint, text = own.get(field, (hints.get(field), docs.get(field, "")))
        found[field] = (hint, Field(description=text or None))
    return create_model(name, __config__=ConfigDict(extra="forbid"), __doc__=doc, **found)


_SHOWN = [field.name for field in fields(Job) if field.name not in INTERNAL]
Reconstruction = _of_job("Reconstruction", [*_SHOWN, "links"], "A job: one request and what became of it.")
Brief = _of_job("Brief", list(BRIEF), "A job in a list.")
_briefs: Any = GenericAlias(list, (Brief,))
Listed = create_model(
    "Listed", __config__=ConfigDict(extra="forbid"), __doc__="The newest reconstructions first.",
    reconstructions=(_briefs, ...), links=(NextLink, ...),
)  # fmt: skip
