"""The addresses of the service."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Callable
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import HTTPBearer

from kdrift.notice import RESEARCH_ONLY
from kdrift.runs.hint import suggest
from kdrift_serve import problems
from kdrift_serve.access import Asks, Serves, caller_of
from kdrift_serve.auth import Caller
from kdrift_serve.described import describe, problem_responses, request_body
from kdrift_serve.docs_page import docs_page
from kdrift_serve.events import MEDIA_TYPE, events
from kdrift_serve.flow import Taking
from kdrift_serve.ingress import PATIENTS_DATA, Ingress
from kdrift_serve.jobs import Job
from kdrift_serve.problem_details import MEDIA_TYPE as PROBLEM_TYPE
from kdrift_serve.problem_details import details
from kdrift_serve.problems import Problem
from kdrift_serve.result_routes import results
from kdrift_serve.times import Size
from kdrift_serve.upload_routes import open_uploads, uploads
from kdrift_serve.views import (
    CatalogueView,
    HealthView,
    InspectionView,
    Listed,
    NotReadyView,
    PriorView,
    ReadyView,
    Reconstruction,
    ShownState,
    TimesView,
)

PAGE = {
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
    "docs.css": "text/css",
    "favicon.svg": "image/svg+xml",
    "licences.txt": "text/plain",
}
"""What the page is made of (`serve/page`, built by `make page`), each at its name, the first at `/`."""
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;"
    " connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
API = "/v1"
MAX_WAIT_S = 60.0
"""How long a request for a status may wait for the end of the job."""
MAX_COUNT = 100
"""Jobs that a list holds at most."""
Wait = Annotated[float, Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for its end, at most.")]
Count = Annotated[int, Query(ge=1, le=MAX_COUNT, description="How many, at most.")]
Before = Annotated[
    float | None,
    Query(allow_inf_nan=False, description="Those accepted before, in seconds since 1970: see links.next."),
]
States = Annotated[ShownState | None, Query(description="Those in this state alone.")]
Results = Annotated[bool, Query(description="Delete a job that has ended, with all that it has.")]
jobs = APIRouter(prefix="/reconstructions", tags=["reconstructions"])


@jobs.post(
    "", status_code=202, response_model=Reconstruction, openapi_extra=request_body(),
    responses=problem_responses(400, 404, 408, 413, 415, 429, 507),
)  # fmt: skip
async def create(http: Request, asks: Asks, service: Serves) -> Response:
    """Take on a job: from a file, which is the body or in a form, or from one that a JSON body names."""
    asks.need("submit")
    return await service.create(http, asks)


@jobs.get("", response_model=Listed, responses=problem_responses())
async def newest(
    asks: Asks, service: Serves, count: Count = 20, before: Before = None, state: States = None
) -> Response:
    """List the jobs of the key that asks, the newest first; those of all keys where its scope is admin."""
    found = await service.answers.newest(asks, count=count, before=before, state=state)
    return JSONResponse(found, headers=PATIENTS_DATA)


@jobs.get("/{job_id}", response_model=Reconstruction, responses=problem_responses(404))
async def status(job_id: str, asks: Asks, service: Serves, wait: Wait = 0.0) -> Response:
    """Tell what became of a job; with `wait`, when it has ended."""
    job = await service.answers.wait(job_id, wait, asks)
    return JSONResponse(await service.answers.view(job), headers=PATIENTS_DATA)


@jobs.delete(
    "/{job_id}",
    response_model=Reconstruction,
    responses={204: {"description": "it is deleted"}, **problem_responses(404, 409)},
)
async def cancel(job_id: str, asks: Asks, service: Serves, results: Results = False) -> Response:
    """Cancel a job that waits or runs; with `results`, delete one that has ended."""
    asks.need("submit")
    if results:
        await service.answers.delete(job_id, asks)
        return Response(status_code=204)
    return JSONResponse(await service.answers.view(await service.answers.cancel(job_id, asks)), headers=PATIENTS_DATA)


@jobs.get(
    "/{job_id}/events", response_class=StreamingResponse,
    responses={
        200: {"description": "events: `state` (Reconstruction), `progress` (ProgressView), `preview` (PreviewView)",
              "content": {MEDIA_TYPE: {"schema": {"type": "string"}}}},
        **problem_responses(404, 429),
    },
)  # fmt: skip
async def follow(job_id: str, asks: Asks, service: Serves) -> Response:
    """Tell what becomes of a job as it happens, as server-sent events, until it has ended."""
    job = await service.answers.find(job_id, asks)
    service.answers.quota.check(asks.name)
    return StreamingResponse(_held(service, job, asks), media_type=MEDIA_TYPE, headers=PATIENTS_DATA)


async def _held(service: Ingress, job: Job, asks: Caller) -> AsyncIterator[str]:
    with service.answers.quota.wait(asks.name):
        async for text in events(service.answers, job, asks):
            yield text


what_there_is = APIRouter(tags=["what there is"])


@what_there_is.get("/priors", response_model=list[PriorView], responses=problem_responses())
async def priors(service: Serves) -> Response:
    """List the priors that are served, the default first."""
    return JSONResponse(service.priors())


@what_there_is.get("/methods", response_model=CatalogueView, responses=problem_responses())
async def methods(service: Serves) -> Response:
    """List what a request may name: samplers, learned and classical methods, and masks."""
    return JSONResponse(service.methods())


@what_there_is.post(
    "/inspections", response_model=InspectionView, openapi_extra=request_body(),
    responses=problem_responses(400, 404, 408, 413, 415, 507),
)  # fmt: skip
async def inspect(http: Request, asks: Asks, service: Serves) -> Response:
    """Tell what a file holds, and what is proposed for it; it is sent or named as for a reconstruction, and not kept.

    One slice is read, as it was measured: options that say how it is read (name, slices, select, axes, centred) count,
    all others do not.
    """
    asks.need("submit")
    return await service.inspect(http, asks)


@what_there_is.get("/times", response_model=TimesView, responses=problem_responses())
async def times(asks: Asks, service: Serves, size: Annotated[Size, Query()]) -> Response:
    """Tell what each method is expected to take for data of some size, as jobs before took."""
    return JSONResponse(await service.times(size))


open_to_all = APIRouter(prefix=API, tags=["health"])


@open_to_all.get("/health", response_model=HealthView, responses={503: problem_responses()[503]})
async def health(service: Serves) -> Response:
    """Tell that this process answers, whether it asks for keys, and how busy the service is; needs no key."""
    return JSONResponse(await service.health())


@open_to_all.get(
    "/ready", response_model=ReadyView, responses={503: {"model": NotReadyView, "description": "what is missing"}}
)
async def ready(service: Serves) -> Response:
    """Tell whether a job that is sent now would be run: table, storage, planner and sampler are there; needs no key."""
    missing = await service.readiness.missing()
    if not missing:
        return JSONResponse({"ready": True, "missing": {}, "warnings": service.warnings()})
    told = {**details(503, "; ".join(missing.values())), "ready": False, "missing": missing}
    return JSONResponse(told, 503, media_type=PROBLEM_TYPE)


def _known_options(http: Request, asks: Asks) -> None:
    """Raise a `Problem` (422) for an option in a query that an address does not have.

    New jobs, whose options are not all listed, look by themselves.
    """
    if http.method == "POST":
        return
    described = describe(http.app)["paths"][f"{API}{http.scope['route'].path}"].get(http.method.lower(), {})
    known = [each["name"] for each in described.get("parameters", ()) if each["in"] == "query"]
    for name in http.query_params:
        if name not in known:
            raise Problem(422, f"unknown option {name[:80]!r}{suggest(name, known)}")


def create_app(service: Ingress) -> FastAPI:
    """Return the routes of the service."""
    app = FastAPI(title="kdrift", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    problems.install(app)
    app.state.service = service
    app.add_middleware(Taking)
    bearer = HTTPBearer(auto_error=False, description="An API key; not needed where the service has none.")
    api = APIRouter(prefix=API, dependencies=[Depends(caller_of), Depends(bearer), Depends(_known_options)])
    for part in (jobs, results, uploads, what_there_is):
        api.include_router(part)
    app.include_router(api)
    app.include_router(open_to_all)
    app.include_router(open_uploads)
    for name, media_type in PAGE.items():
        content = files("kdrift_serve").joinpath("page", name).read_text(encoding="utf-8")
        path = "/" if name == "index.html" else f"/{name}"
        _add_page(app, path, content.replace("{{ research only }}", RESEARCH_ONLY), media_type)

    @app.get("/openapi.json", include_in_schema=False)
    async def description() -> Response:
        return JSONResponse(describe(app))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(docs_page(describe(app)), media_type="text/html", headers=PAGE_HEADERS)

    return app


def _add_page(app: FastAPI, path: str, content: str, media_type: str) -> None:
    plain = content.encode()
    packed = gzip.compress(plain, mtime=0)

    async def page(http: Request) -> Response:
        headers = {**PAGE_HEADERS, "Vary": "Accept-Encoding"}
        if "gzip" in http.headers.get("accept-encoding", ""):
            return Response(packed, media_type=media_type, headers={**headers, "Content-Encoding": "gzip"})
        return Response(plain, media_type=media_type, headers=headers)

    route: Callable[..., Any] = page
    app.add_api_route(path, route, include_in_schema=False)
