"""HTTP: everything a client sees. Checks come first; a request that is accepted becomes a job of the planner."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from ray.serve.handle import DeploymentHandle

from kdrift.data.formats.fastmri import write_fastmri
from kdrift.data.phantom import phantom_volume
from kdrift.notice import RESEARCH_ONLY
from kdrift.prior.pinned import PinnedPrior, load_pinned
from kdrift.recon.resolved import ResolvedPlan
from kdrift.runs.config import to_dict
from kdrift_serve import auth, problems
from kdrift_serve.body import read_json, receive_file
from kdrift_serve.catalogue import list_methods, list_priors
from kdrift_serve.job_request import (
    MAX_JSON_BYTES,
    JobRequest,
    allowed_path,
    check_cost,
    choose_prior,
    from_json,
    from_query,
    load,
    resolve_plan,
    upload_name,
)
from kdrift_serve.pictures import Kind, picture
from kdrift_serve.planner import Planner
from kdrift_serve.problems import Problem
from kdrift_serve.sampler import Sampler
from kdrift_serve.serve_config import ServeConfig
from kdrift_serve.storage import ACTIVE, OUTPUTS_ZIP, Job, JobFolder

PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;"
    " connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
EXAMPLE_NAME = "phantom"
MAX_WAIT_S = 60.0
"""How long a request for a status may wait for the end of the job."""


class Ingress:
    """The one replica that answers HTTP and owns the jobs."""

    _planner: Planner
    """Made with the application."""

    def __init__(
        self, config: ServeConfig, priors: dict[str, PinnedPrior], samplers: DeploymentHandle[Sampler]
    ) -> None:
        self._config, self._pinned = config, priors
        self._keys = auth.load_keys(config.auth)
        self._roots = [Path(root).expanduser() for root in config.roots]
        self._priors = {name: load_pinned(pinned) for name, pinned in priors.items()}
        self._store = JobFolder(config.storage)
        self._samplers = samplers
        self._checking = asyncio.Semaphore(2)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application; Serve calls this once the replica is made."""
        self._planner = Planner(self._config, self._store, self._samplers)
        return create_app(self)

    def authenticate(self, request: Request) -> None:
        """Let a request through or raise a `Problem`."""
        auth.check(self._keys, request)

    async def create(self, http: Request) -> Response:
        """Take on a job from an upload, a path or the example: 202."""
        kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in ("application/json", "application/octet-stream"):
            raise Problem(
                415, f"expected application/octet-stream (a file) or application/json, got {kind or 'nothing'!r}"
            )
        with self._planner.admission():
            job_id = uuid.uuid4().hex
            try:
                if kind == "application/json":
                    request = from_json(await read_json(http, MAX_JSON_BYTES))
                else:
                    request = from_query(http.query_params.multi_items())
                plan = resolve_plan(request, self._priors, self._config.limits)  # before any data are read
                if kind == "application/json":
                    source, name = await self._named_source(request, job_id)
                else:
                    source, name = await self._uploaded(http, request, job_id)
                job = await self._accepted(request, plan, job_id, source, name)
            except BaseException:
                self._store.remove(job_id)
                raise
        return JSONResponse(self.view(job), 202, {"Location": f"/v1/reconstructions/{job_id}"})

    async def _named_source(self, request: JobRequest, job_id: str) -> tuple[Path, str]:
        if request.name is not None or (request.path is None) == (request.example is None):
            raise Problem(422, 'expected either "path" or "example" in the JSON, and no "name"')
        if request.path is not None:
            return allowed_path(request.path, self._roots), request.path
        target = self._store.upload_folder(job_id) / f"{EXAMPLE_NAME}.h5"
        await asyncio.to_thread(write_example, target)
        return target, EXAMPLE_NAME

    async def _uploaded(self, http: Request, request: JobRequest, job_id: str) -> tuple[Path, str]:
        if request.path is not None or request.example is not None:
            raise Problem(422, "a file is uploaded: leave out path and example, or send them as application/json")
        name = upload_name(request.name)
        target = self._store.upload_folder(job_id) / name
        await receive_file(http, target, self._config.limits.upload_mb << 20)
        return target, name

    async def _accepted(self, request: JobRequest, plan: ResolvedPlan, job_id: str, source: Path, name: str) -> Job:
        """Read the data, once, so that what is wrong with them is told now, and hand the job on."""
        async with self._checking:
            try:
                acquisition = await asyncio.to_thread(load, request, source, name, self._roots, self._config.limits)
                slices, coils = acquisition.kspace.shape[:2]
                check_cost(plan, slices, min(coils, request.virtual_coils or coils), self._config.limits)
            except ValueError as error:
                raise Problem(422, str(error)) from None
        self._store.drop_upload(job_id)
        served = choose_prior(request, self._priors)
        prior = self._pinned[served].describe() if plan.prior else {}
        request = replace(request, prior=served if plan.prior else request.prior)
        job = Job(
            id=job_id, state="queued", name=name, owner=self._planner.owner, request=to_dict(request), prior=prior,
            config=plan.config | ({"prior": prior} if prior else {}), sampling=acquisition.sampling,
            slices=acquisition.slice_indices, notes=list(acquisition.notes),
        )  # fmt: skip
        self._planner.submit(job, plan, served, acquisition)
        return job

    def find(self, job_id: str) -> Job:
        """Return a job or raise a `Problem` (404)."""
        job = self._planner.find(job_id)
        if job is None:
            raise Problem(404, "there is no reconstruction of this id")
        return job

    def result(self, job_id: str, name: str) -> tuple[Job, Path]:
        """Return a result file or raise a `Problem` (404, 409)."""
        job = self.find(job_id)
        if job.state != "done":
            why = f": {job.detail}" if job.detail else ", ask for its status"
            raise Problem(409, f"this reconstruction is {job.state}{why}")
        path = self._store.result(job_id, name)
        if path is None:
            raise Problem(404, "this result was deleted")
        return job, path

    def view(self, job: Job) -> dict[str, Any]:
        """Return a job as clients see it."""
        values = asdict(job)
        del values["owner"]
        base = f"/v1/reconstructions/{job.id}"
        values["progress"] = self._planner.progress(job.id) if job.state in ACTIVE else None
        values["links"] = {"self": base}
        if job.state == "done":
            names = ["result", "panel.png", "mean.png", "std.png"] + [OUTPUTS_ZIP] * bool(job.report.get("outputs"))
            values["links"] |= {name: f"{base}/{name}" for name in names}
        found: dict[str, Any] = json.loads(json.dumps(values), parse_constant=lambda _: None)  # JSON has no infinity
        return found

    async def status(self, job_id: str, wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0.0) -> Response:
        """Show a job, at once or when it has ended."""
        await self._planner.wait(job_id, wait)
        return JSONResponse(self.view(self.find(job_id)))

    async def cancel(self, job_id: str) -> Response:
        """Cancel a job or raise a `Problem` (404, 409)."""
        job = self.find(job_id)
        if self._planner.progress(job_id) is None:
            raise Problem(409, f"this reconstruction is {job.state} already")
        await self._planner.cancel(job_id)
        return JSONResponse(self.view(self.find(job_id)))

    async def priors(self) -> Response:
        """List the priors that are served, the default first."""
        return JSONResponse(list_priors(self._priors, self._pinned))

    async def methods(self) -> Response:
        """List what a request may name: samplers, classical methods and masks."""
        return JSONResponse(list_methods(self._priors))

    async def health(self) -> Response:
        """Say that the service answers, whether it asks for keys, and how busy it is."""
        jobs = self._planner.counts()
        return JSONResponse({"status": "ok", "version": version("kdrift"), "api_keys": bool(self._keys), "jobs": jobs})


def create_app(service: Ingress) -> FastAPI:
    """Return the routes of the service."""
    app = FastAPI(title="kdrift", docs_url=None, redoc_url=None, openapi_url=None)
    problems.install(app)
    api = APIRouter(prefix="/v1", dependencies=[Depends(service.authenticate)])
    api.post("/reconstructions")(service.create)
    api.get("/reconstructions/{job_id}")(service.status)
    api.delete("/reconstructions/{job_id}")(service.cancel)
    api.get("/priors")(service.priors)
    api.get("/methods")(service.methods)
    app.get("/v1/health")(service.health)

    @api.get("/reconstructions/{job_id}/result")
    async def result(job_id: str) -> Response:
        job, path = service.result(job_id, "reconstruction.h5")
        filename = f"{Path(job.name).stem}-reconstruction.h5"
        return FileResponse(path, media_type="application/x-hdf5", filename=filename)

    @api.get(f"/reconstructions/{{job_id}}/{OUTPUTS_ZIP}")
    async def outputs(job_id: str) -> Response:
        job, path = service.result(job_id, OUTPUTS_ZIP)
        return FileResponse(path, media_type="application/zip", filename=f"{Path(job.name).stem}-{OUTPUTS_ZIP}")

    @api.get("/reconstructions/{job_id}/panel.png")
    async def panel(job_id: str) -> Response:
        return FileResponse(service.result(job_id, "panel.png")[1], media_type="image/png")

    def image_route(kind: Kind) -> Callable[..., Any]:
        async def image(job_id: str, slice: int = 0) -> Response:
            _, path = service.result(job_id, "reconstruction.h5")
            try:
                png, top = await asyncio.to_thread(picture, path, kind, slice)
            except ValueError as error:
                raise Problem(422, str(error)) from None
            return Response(png, media_type="image/png", headers={"X-Kdrift-Top": f"{top:.6g}"})

        return image

    for kind in ("mean", "std"):
        api.add_api_route(f"/reconstructions/{{job_id}}/{kind}.png", image_route(kind))

    def page_route(name: str, kind: str) -> Callable[..., Any]:
        content = files("kdrift_serve").joinpath("page", name).read_text().replace("{{ research only }}", RESEARCH_ONLY)

        async def page() -> Response:
            return Response(content, media_type=kind, headers=PAGE_HEADERS)

        return page

    for path, (name, media_type) in PAGE.items():
        app.add_api_route(path, page_route(name, media_type))
    app.include_router(api)
    return app


def write_example(target: Path) -> None:
    """Write the built-in example: one slice of the head phantom, simulated."""
    phantom = phantom_volume(1, 192, 192, 8, seed=1)
    write_fastmri(target, phantom.kspace, reference=phantom.reference, attrs=phantom.attrs)
