"""What answers hold, for the description of the service: made of the classes that hold it where there is one."""

from __future__ import annotations

from dataclasses import fields
from types import GenericAlias
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from kdrift.runs.field_docs import field_docs
from kdrift_serve.answers import BRIEF, INTERNAL
from kdrift_serve.jobs import Job
from kdrift_serve.readers import Inspected
from kdrift_serve.times import Expected

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
    waits_for: str | None = None
    """What stops it now, as a full disk does, in a sentence: it goes on by itself when that is mended."""
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
    source: str
    """Where it comes from: authors and year, for people."""
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
    forms: dict[str, str]
    """Forms of a result that `format` may name, and what they are."""


class ImagesView(View):
    """Images of a finished job that are given as numbers, one slice at a time."""

    shape: list[int]
    """Rows and columns."""
    slices: list[int]
    """Numbers of its slices in their volume."""
    images: list[str]
    """Names that are to be put before `.npy`; `samples` where the plan kept them."""
    samples: int
    """How many samples a slice has; 0 where they were not kept."""
    voxel_mm: list[float]
    """Size of a voxel: row, column, slice."""


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
    """That a process of the service answers; whether jobs would be run, `/v1/ready` tells."""

    status: Literal["ok"]
    version: str
    api_keys: bool
    """Whether requests need a key."""
    jobs: dict[str, int] | None
    """How many run and wait; null where the table of jobs does not answer."""


class ReadyView(View):
    """Whether a job that is sent now would be run."""

    ready: bool
    missing: dict[str, str]
    """What is missing of table, storage, planner and sampler, and what is wrong with it."""
    warnings: list[str]
    """What an operator is to mend although jobs run; the log has the details."""


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
    """What is missing of table, storage, planner and sampler, and what is wrong with it."""


def _of_class(view: str, cls: type, doc: str, **more: tuple[Any, str]) -> type[BaseModel]:
    """Return the view of a dataclass whose fields are documented, with some more fields."""
    docs, hints = field_docs(cls), get_type_hints(cls)
    return _view(view, {each.name: (hints[each.name], docs.get(each.name, "")) for each in fields(cls)} | more, doc)


def _view(name: str, known: dict[str, tuple[Any, str]], doc: str) -> type[BaseModel]:
    """Return a view of fields, each with its type and a text."""
    made: dict[str, Any] = {field: (hint, Field(description=text or None)) for field, (hint, text) in known.items()}
    return create_model(name, __config__=ConfigDict(extra="forbid"), __doc__=doc, **made)


InspectionView = _of_class(
    "InspectionView", Inspected, "What a file holds, and what is proposed to be done with it.",
    name=(str, "What the file is called."), method=(str, "Method that is proposed."),
)  # fmt: skip
_expected = _of_class("ExpectedView", Expected, "What a method is expected to cost.")
TimesView: Any = GenericAlias(dict, (str, _expected))


def _of_job(name: str, chosen: list[str], doc: str) -> type[BaseModel]:
    docs, hints = field_docs(Job), get_type_hints(Job)
    own: dict[str, tuple[Any, str]] = {
        "state": (ShownState, ""),
        "progress": (ProgressView | None, "How far it is; null once it has ended."),
        "method": (str, "Name of its method."),
        "links": (dict[str, str], "Addresses of what it has: itself, its events, its results."),
    }
    return _view(name, {field: own.get(field, (hints.get(field), docs.get(field, ""))) for field in chosen}, doc)


_SHOWN = [field.name for field in fields(Job) if field.name not in INTERNAL]
Reconstruction = _of_job("Reconstruction", [*_SHOWN, "method", "links"], "A job: one request and what became of it.")
Brief = _of_job("Brief", list(BRIEF), "A job in a list.")
_briefs: Any = GenericAlias(list, (Brief,))
Listed = create_model(
    "Listed", __config__=ConfigDict(extra="forbid"), __doc__="The newest reconstructions first.",
    reconstructions=(_briefs, ...), links=(NextLink, ...),
)  # fmt: skip
