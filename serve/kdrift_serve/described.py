"""The description of the service (OpenAPI 3.1): what FastAPI finds of the routes, and the options of a request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from typing import Any, get_args, get_type_hints

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from kdrift.notice import RESEARCH_ONLY
from kdrift.recon.plan import Plan
from kdrift.recon.request import MaskRequest
from kdrift.runs.field_docs import field_docs
from kdrift_serve.job_request import JobRequest
from kdrift_serve.problem_details import MEDIA_TYPE
from kdrift_serve.views import PreviewView, ProblemView

ABOUT = f"""Reconstructs undersampled k-space by sampling the posterior. Send a file, or name one, follow the job and
fetch its images. {RESEARCH_ONLY}"""
JOBS = "/v1/reconstructions"
SECTIONS = {"plan": Plan, "mask": MaskRequest}
"""Options whose own options go into the query with a dot."""
SIMPLE = ("string", "integer", "number", "boolean")
NOT_IN_QUERY = ("path", "example", "upload")
"""What a JSON body names its data by, one of these; the name of a file goes with an upload alone."""
PROBLEMS = {
    400: "the body is empty, truncated or no JSON", 401: "no API key, or an unknown one",
    403: "the key may not do this; a path outside of the folders that are read; a keyless service asked from elsewhere",
    404: "there is no such reconstruction, upload, file or result", 405: "the method is another",
    408: "the body stalled", 409: "there is nothing to cancel or to delete, the result is not there (yet), the upload"
    " is not finished or ends elsewhere", 412: "another version of tus", 413: "the body is too large",
    415: "the body is of another type", 422: "an option or the data cannot be used",
    423: "another request writes to the upload", 460: "the checksum is not that of the body",
    429: "the queue, a share of the key, or the places for uploads are full: Retry-After says when to come back",
    503: "the table of jobs or the storage does not answer", 507: "the disk is full",
}  # fmt: skip


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the errors of a route."""
    schema = {"$ref": f"#/components/schemas/{ProblemView.__name__}"}
    return {
        status: {"description": PROBLEMS[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in sorted({*statuses, 401, 403, 422, 429, 503})
    }


def file_response(media_type: str, what: str) -> dict[int | str, dict[str, Any]]:
    """Return the answer of a route that gives a file."""
    return {200: {"description": what, "content": {media_type: {"schema": {"type": "string", "format": "binary"}}}}}


def request_body() -> dict[str, Any]:
    """Return body and query options of a new job."""
    body = {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/JobRequest", "oneOf": [*map(_named_by, NOT_IN_QUERY)]}
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "options": {"$ref": "#/components/schemas/JobRequest"},
                    },
                    "required": ["file"],
                }
            },
        },
        "description": "JSON that names a file or an upload; the file itself, whose options then stand in the query;"
        " or a form with the file and its options.",
    }
    return {"requestBody": body, "parameters": list(_query_options())}


def _named_by(name: str) -> dict[str, Any]:
    """Return the schema of a request whose data are named by one of `NOT_IN_QUERY`."""
    empty = [*(other for other in NOT_IN_QUERY if other != name), *(() if name == "upload" else ("name",))]
    properties = {name: {"type": "string"}} | {other: {"type": "null"} for other in empty}
    return {"required": [name], "properties": properties}


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the description of all routes, made once."""
    if app.openapi_schema is None:
        found = get_openapi(
            title="kdrift", version=version("kdrift"), description=ABOUT, routes=app.routes, openapi_version="3.1.0"
        )
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        for cls in (JobRequest, ProblemView, PreviewView):
            schemas |= _schemas(cls)
        for name in ("HTTPValidationError", "ValidationError"):  # no answer of this service
            schemas.pop(name, None)
        found["paths"][JOBS]["post"]["responses"]["202"]["links"] = dict(_links(found["paths"]))
        app.openapi_schema = found
    return app.openapi_schema


def _links(paths: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what there is to ask of a job that was accepted, by its id."""
    job, base = {"job_id": "$response.body#/id"}, f"{JOBS}/{{job_id}}"
    for path, item in paths.items():
        for method, route in item.items() if path.startswith(base) else ():
            name = f"{method}{path.removeprefix(base)}"
            link = {"operationId": route["operationId"], "parameters": job, "description": route["description"]}
            yield re.sub(r"[^a-zA-Z0-9._-]+", "-", name), link


def _query_options() -> Iterator[dict[str, Any]]:
    """Yield the options of an upload, as parameters of the query."""
    request = _schemas(JobRequest)
    for name, schema in request["JobRequest"]["properties"].items():
        if name in SECTIONS:
            for inner, option in request[SECTIONS[name].__name__]["properties"].items():
                yield _parameter(f"{name}.{inner}", option)
        elif name not in NOT_IN_QUERY:
            yield _parameter(name, schema)


def _parameter(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    text = schema.get("description", "")
    if name == "plan.settings":
        text += " Also one by one, such as plan.settings.num_steps=8."
    found: dict[str, Any] = {"name": name, "in": "query", "required": False, "description": text}
    plain = {key: value for key, value in schema.items() if key not in ("description", "default", "title", "anyOf")}
    kinds = [each for each in schema.get("anyOf", [plain]) if each.get("type") in SIMPLE]
    if not kinds:
        return found | {"content": {"application/json": {"schema": plain}}}
    default = {"default": schema["default"]} if schema.get("default") is not None else {}
    return found | {"schema": {**(kinds[0] if len(kinds) == 1 else {"anyOf": kinds}), **default}}


def _schemas(cls: type) -> dict[str, Any]:
    """Return the schema of a class and those of the classes in it, with the docstrings of their fields."""
    schema = TypeAdapter(cls).json_schema(ref_template="#/components/schemas/{model}")
    found: dict[str, Any] = {**schema.pop("$defs", {}), cls.__name__: schema}
    for each in _dataclasses(cls):
        own = found.get(each.__name__)
        if own is not None:
            own["additionalProperties"] = False
            for name, text in field_docs(each).items():
                if name in own["properties"]:
                    own["properties"][name] = {**own["properties"][name], "description": text}
    return found


def _dataclasses(cls: Any) -> Iterator[type]:
    if is_dataclass(cls) and isinstance(cls, type):
        yield cls
        hints = get_type_hints(cls)
        for field in fields(cls):
            for hint in (hints[field.name], *get_args(hints[field.name])):
                yield from _dataclasses(hint)
