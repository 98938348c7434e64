"""The addresses of what a finished job has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO
from urllib.parse import quote

from fastapi import APIRouter, Query, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from kdrift_serve.access import Asks, Serves
from kdrift_serve.described import file_response, problem_responses
from kdrift_serve.forms import FORMS, MEDIA_TYPES, check_form, make_form
from kdrift_serve.ingress import PATIENTS_DATA
from kdrift_serve.jobs import OUTPUTS_ZIP
from kdrift_serve.pictures import Kind, picture
from kdrift_serve.problems import Problem
from kdrift_serve.result_images import list_images, read_image
from kdrift_serve.views import ImagesView

RESULT_H5 = "reconstruction.h5"
BYTES = "application/octet-stream"
Form = Annotated[
    str, Query(description=f"What it is given as: {', '.join(FORMS)}.", json_schema_extra={"enum": [*FORMS]})
]
Position = Annotated[int, Query(description="Which slice, counted from 0 among those of the job.")]
Sample = Annotated[int, Query(description="Which sample, counted from 0; of `samples` alone.")]
results = APIRouter(prefix="/reconstructions/{job_id}", tags=["results"])


@results.get(
    "/result", response_class=FileResponse,
    responses=file_response("*/*", "the file; a zip archive of several") | problem_responses(404, 409),
)  # fmt: skip
async def result(job_id: str, asks: Asks, service: Serves, format: Form = "h5") -> Response:
    """Give the images of a finished job as `reconstruction.h5`, or in another form that is made of it."""
    try:
        check_form(format)
    except ValueError as error:
        raise Problem(422, str(error)) from None
    job, path = await service.answers.result(job_id, RESULT_H5, asks)
    if format == "h5":
        return _file(path, job.name, RESULT_H5)
    async with service.folder() as folder:
        try:
            made = await asyncio.to_thread(make_form, path, format, folder)
        except ValueError as error:
            raise Problem(422, f"format {format}: {error}") from None
        file, size = made.open("rb"), made.stat().st_size  # it stays readable
    headers = {"Content-Length": str(size), "Content-Disposition": _attachment(job.name, made.name), **PATIENTS_DATA}
    return StreamingResponse(_parts(file), media_type=MEDIA_TYPES.get(made.suffix, BYTES), headers=headers)


@results.get(
    f"/{OUTPUTS_ZIP}", response_class=FileResponse,
    responses=file_response("application/zip", "an archive") | problem_responses(404, 409),
)  # fmt: skip
async def outputs(job_id: str, asks: Asks, service: Serves) -> Response:
    """Give what `output` asked for besides `reconstruction.h5`."""
    job, path = await service.answers.result(job_id, OUTPUTS_ZIP, asks)
    return _file(path, job.name, OUTPUTS_ZIP)


@results.get(
    "/panel.png", response_class=FileResponse,
    responses=file_response("image/png", "a picture") | problem_responses(404, 409),
)  # fmt: skip
async def panel(job_id: str, asks: Asks, service: Serves) -> Response:
    """Give a picture of the middle slice: mean, deviation, reference and error where there are some."""
    _, path = await service.answers.result(job_id, "panel.png", asks)
    return FileResponse(path, media_type="image/png", headers=PATIENTS_DATA)


def _image_route(kind: Kind) -> Callable[..., Any]:
    async def image(job_id: str, asks: Asks, service: Serves, slice: Position = 0) -> Response:
        _, path = await service.answers.result(job_id, RESULT_H5, asks)
        try:
            png, top = await asyncio.to_thread(picture, path, kind, slice)
        except ValueError as error:
            raise Problem(422, str(error)) from None
        return Response(png, media_type="image/png", headers={"X-Kdrift-Top": f"{top:.6g}", **PATIENTS_DATA})

    image.__doc__ = f"""Give the {kind} of one slice, counted from 0 among those of the job, as a picture.

    The header `X-Kdrift-Top` is the value of the brightest colour."""
    return image


for _kind in ("mean", "std"):
    results.add_api_route(
        f"/{_kind}.png", _image_route(_kind), name=_kind, response_class=Response,
        responses=file_response("image/png", "a picture") | problem_responses(404, 409),
    )  # fmt: skip


@results.get("/images", response_model=ImagesView, responses=problem_responses(404, 409))
async def images(job_id: str, asks: Asks, service: Serves) -> Response:
    """List the images of a finished job that are given as numbers."""
    _, path = await service.answers.result(job_id, RESULT_H5, asks)
    return JSONResponse(await asyncio.to_thread(list_images, path), headers=PATIENTS_DATA)


@results.get(
    "/images/{name}.npy", response_class=Response,
    responses=file_response(BYTES, "an array of NumPy, float32 (row, col)") | problem_responses(404, 409),
)  # fmt: skip
async def image_values(
    job_id: str, name: str, asks: Asks, service: Serves, slice: Position = 0, sample: Sample = 0
) -> Response:
    """Give one image of one slice as numbers, in the unit of the data: a NumPy file of float32 (row, col)."""
    _, path = await service.answers.result(job_id, RESULT_H5, asks)
    try:
        content = await asyncio.to_thread(read_image, path, name, slice, sample)
    except ValueError as error:
        raise Problem(422, str(error)) from None
    return Response(content, media_type=BYTES, headers=PATIENTS_DATA)


def _file(path: Path, job_name: str, name: str) -> FileResponse:
    headers = {"Content-Disposition": _attachment(job_name, name), **PATIENTS_DATA}
    return FileResponse(path, media_type=MEDIA_TYPES.get(path.suffix, BYTES), headers=headers)


def _attachment(job_name: str, name: str) -> str:
    """Return the header that says under which name a file is to be kept."""
    return f"attachment; filename*=utf-8''{quote(f'{Path(job_name).stem}-{name}')}"


def _parts(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while part := file.read(1 << 20):
            yield part
