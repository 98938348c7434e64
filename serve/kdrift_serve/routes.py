"""The addresses of the service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse

from kdrift.notice import RESEARCH_ONLY
from kdrift_serve import problems
from kdrift_serve.auth import Caller
from kdrift_serve.ingress import PATIENTS_DATA, Ingress
from kdrift_serve.jobs import OUTPUTS_ZIP
from kdrift_serve.pictures import Kind, picture
from kdrift_serve.problems import Problem

PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;"
    " connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
MAX_WAIT_S = 60.0
"""How long a request for a status may wait for the end of the job."""


def caller(request: Request) -> Caller:
    """Return who asks; a `Problem` where nobody may."""
    service: Ingress = request.app.state.service
    return service.authenticate(request)


Asks = Annotated[Caller, Depends(caller)]
Wait = Annotated[float, Query(ge=0, le=MAX_WAIT_S)]


def create_app(service: Ingress) -> FastAPI:
    """Return the routes of the service."""
    app = FastAPI(title="kdrift", docs_url=None, redoc_url=None, openapi_url=None)
    problems.install(app)

    app.state.service = service
    api = APIRouter(prefix="/v1", dependencies=[Depends(caller)])

    @api.post("/reconstructions")
    async def create(http: Request, asks: Asks) -> Response:
        asks.need("submit")
        return await service.create(http, asks)

    @api.get("/reconstructions/{job_id}")
    async def status(job_id: str, asks: Asks, wait: Wait = 0.0) -> Response:
        job = await service.wait(job_id, wait, asks)
        return JSONResponse(await service.view(job), headers=PATIENTS_DATA)

    @api.delete("/reconstructions/{job_id}")
    async def cancel(job_id: str, asks: Asks) -> Response:
        asks.need("submit")
        return JSONResponse(await service.view(await service.cancel(job_id, asks)), headers=PATIENTS_DATA)

    @api.get("/reconstructions/{job_id}/result")
    async def result(job_id: str, asks: Asks) -> Response:
        job, path = await service.result(job_id, "reconstruction.h5", asks)
        filename = f"{Path(job.name).stem}-reconstruction.h5"
        return FileResponse(path, media_type="application/x-hdf5", filename=filename, headers=PATIENTS_DATA)

    @api.get(f"/reconstructions/{{job_id}}/{OUTPUTS_ZIP}")
    async def outputs(job_id: str, asks: Asks) -> Response:
        job, path = await service.result(job_id, OUTPUTS_ZIP, asks)
        filename = f"{Path(job.name).stem}-{OUTPUTS_ZIP}"
        return FileResponse(path, media_type="application/zip", filename=filename, headers=PATIENTS_DATA)

    @api.get("/reconstructions/{job_id}/panel.png")
    async def panel(job_id: str, asks: Asks) -> Response:
        _, path = await service.result(job_id, "panel.png", asks)
        return FileResponse(path, media_type="image/png", headers=PATIENTS_DATA)

    def image_route(kind: Kind) -> Callable[..., Any]:
        async def image(job_id: str, asks: Asks, slice: int = 0) -> Response:
            _, path = await service.result(job_id, "reconstruction.h5", asks)
            try:
                png, top = await asyncio.to_thread(picture, path, kind, slice)
            except ValueError as error:
                raise Problem(422, str(error)) from None
            return Response(png, media_type="image/png", headers={"X-Kdrift-Top": f"{top:.6g}", **PATIENTS_DATA})

        return image

    for kind in ("mean", "std"):
        api.add_api_route(f"/reconstructions/{{job_id}}/{kind}.png", image_route(kind))

    @api.get("/priors")
    async def priors() -> Response:
        return JSONResponse(service.priors())

    @api.get("/methods")
    async def methods() -> Response:
        return JSONResponse(service.methods())

    @app.get("/v1/health")
    async def health() -> Response:
        return JSONResponse(await service.health())

    for path, (name, media_type) in PAGE.items():
        app.add_api_route(path, _page_route(name, media_type))
    app.include_router(api)
    return app


def _page_route(name: str, kind: str) -> Callable[..., Any]:
    content = files("kdrift_serve").joinpath("page", name).read_text().replace("{{ research only }}", RESEARCH_ONLY)

    async def page() -> Response:
        return Response(content, media_type=kind, headers=PAGE_HEADERS)

    return page
