"""Uploads that can be resumed: the protocol tus 1.0.0 (https://tus.io/protocols/resumable-upload), core, creation,
creation-with-upload, termination, expiration and checksum."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from kdrift_serve.access import Asks, Serves
from kdrift_serve.auth import Caller
from kdrift_serve.body import address, body_parts
from kdrift_serve.described import problem_responses
from kdrift_serve.ingress import PATIENTS_DATA, Ingress
from kdrift_serve.job_request import upload_name
from kdrift_serve.problems import Problem
from kdrift_serve.upload_table import Upload
from kdrift_serve.uploads import CHECKSUMS
from kdrift_serve.views import UploadView

VERSION = "1.0.0"
TUS = {"Tus-Resumable": VERSION}
EXTENSIONS = "creation,creation-with-upload,termination,expiration,checksum"
OFFSET_BYTES = "application/offset+octet-stream"
BASE = "/v1/uploads"
METADATA_BYTES = 4096
_NUMBER = re.compile(r"[0-9]{1,18}")
_BASE64 = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
_BYTES: dict[str, Any] = {"content": {OFFSET_BYTES: {"schema": {"type": "string", "format": "binary"}}}}
HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Tus-Resumable": ("Version of the protocol.", {"const": VERSION}),
    "Upload-Length": ("Bytes of the whole file.", {"pattern": f"^{_NUMBER.pattern}$"}),
    "Upload-Metadata": (
        "Pairs of a key and a value in base64; `filename` names the file.",
        {"pattern": f"^[!-+\\--~]+ {_BASE64}(?:,[!-+\\--~]+ {_BASE64})*$", "maxLength": METADATA_BYTES},
    ),
    "Upload-Offset": ("Where the body begins: how much is there already.", {"pattern": f"^{_NUMBER.pattern}$"}),
    "Upload-Checksum": (
        "sha1 or sha256 of the body, in base64 after the name.", {"pattern": f"^(?:{'|'.join(CHECKSUMS)}) {_BASE64}$"}
    ),
    "X-HTTP-Method-Override": ("What a client asks for that can send neither.", {"enum": ["PATCH", "DELETE"]}),
}  # fmt: skip
"""The headers of the protocol: what they are, and how their text looks."""


class Tus(APIRoute):
    """A route of the protocol, whose version all answers say."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers."""
        handle = super().get_route_handler()

        async def answer(http: Request) -> Response:
            try:
                return await handle(http)
            except Problem as error:
                raise Problem(error.status, error.detail, {**TUS, **(error.headers or {})}) from None

        return answer


def same_version(http: Request, asks: Asks) -> None:
    """Raise a `Problem` (412) where a request of a known key says another version; GET and HEAD need not say one."""
    if http.method not in ("GET", "HEAD") and http.headers.get("tus-resumable") != VERSION:
        raise Problem(412, f"expected the header Tus-Resumable: {VERSION}", {"Tus-Version": VERSION})


def _takes(*needed: str, maybe: tuple[str, ...] = (), body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the description of a route that needs some headers, and may have others and a body."""
    parameters = [
        {"name": name, "in": "header", "required": name in needed, "description": text,
         "schema": {"type": "string", **schema}}
        for name, (text, schema) in HEADERS.items() if name in needed + maybe
    ]  # fmt: skip
    return {"parameters": parameters, **({"requestBody": body} if body else {})}


uploads = APIRouter(
    prefix="/uploads", tags=["uploads"], route_class=Tus, dependencies=[Depends(same_version)]
)  # fmt: skip
open_uploads = APIRouter(prefix=BASE, tags=["uploads"])


async def abilities(service: Serves) -> Response:
    """Tell what of the protocol tus there is, and the largest file; needs no key."""
    told = {"Tus-Version": VERSION, "Tus-Extension": EXTENSIONS, "Tus-Checksum-Algorithm": ",".join(CHECKSUMS)}
    return Response(status_code=204, headers={**TUS, **told, "Tus-Max-Size": str(service.uploads.most)})


_ID = {"name": "upload_id", "in": "path", "required": True, "schema": {"type": "string"}}
for _path, _parameters in {"": [], "/{upload_id}": [_ID]}.items():
    open_uploads.add_api_route(
        _path, abilities, methods=["OPTIONS"], status_code=204, openapi_extra={"parameters": _parameters}
    )  # fmt: skip


@uploads.post(
    "", status_code=201, response_class=Response,
    openapi_extra=_takes("Tus-Resumable", "Upload-Length", maybe=("Upload-Metadata", "Upload-Checksum"), body=_BYTES),
    responses=problem_responses(400, 408, 412, 413, 415, 460, 507),
)  # fmt: skip
async def begin(http: Request, asks: Asks, service: Serves) -> Response:
    """Begin an upload, whose address is in `Location`; a body is its first part."""
    asks.need("submit")
    if "upload-defer-length" in http.headers or "upload-concat" in http.headers:
        raise Problem(400, "this service needs Upload-Length at once, and joins no uploads")
    length = _number(http, "Upload-Length")
    if length > service.uploads.most:
        raise Problem(413, f"Upload-Length is {length}, this service takes at most {service.uploads.most} bytes")
    metadata = http.headers.get("upload-metadata", "")
    upload = await service.uploads.create(asks, length, _name_of(metadata), metadata)
    if http.headers.get("content-length", "0") != "0" or "transfer-encoding" in http.headers:
        try:
            upload = await _append(http, asks, service, upload, 0)
        except BaseException:  # nobody knows its address
            await asyncio.shield(service.uploads.remove(upload))
            raise
    return Response(
        status_code=201, headers=_told(service, upload) | {"Location": address(http, f"{BASE}/{upload.id}")}
    )


@uploads.get("", response_model=list[UploadView], responses=problem_responses())
async def of_key(asks: Asks, service: Serves) -> Response:
    """List the uploads of the key that asks, the newest first."""
    asks.need("read")
    return JSONResponse([_view(service, each) for each in await service.uploads.of_key(asks)], headers=PATIENTS_DATA)


@uploads.get("/{upload_id}", response_model=UploadView, responses=problem_responses(404))
async def where(upload_id: str, asks: Asks, service: Serves) -> Response:
    """Tell how much of an upload is there: in the answer, and as HEAD of tus does in `Upload-Offset`."""
    asks.need("read")
    upload = await service.uploads.find(upload_id, asks)
    said = {"Upload-Metadata": upload.metadata} if upload.metadata else {}
    told = {**_told(service, upload), **said, "Upload-Length": str(upload.length)}
    return JSONResponse(_view(service, upload), headers=told)


uploads.add_api_route("/{upload_id}", where, methods=["HEAD"], include_in_schema=False)  # `front` makes it GET


@uploads.patch(
    "/{upload_id}", status_code=204,
    openapi_extra=_takes(
        "Tus-Resumable", "Upload-Offset", maybe=("Upload-Checksum",), body={"required": True, **_BYTES}
    ),
    responses=problem_responses(400, 404, 408, 409, 412, 413, 415, 423, 460, 507),
)  # fmt: skip
async def append(http: Request, upload_id: str, asks: Asks, service: Serves) -> Response:
    """Add to an upload where it ends; what came of a request that is broken off is kept."""
    asks.need("submit")
    upload = await service.uploads.find(upload_id, asks)
    upload = await _append(http, asks, service, upload, _number(http, "Upload-Offset"))
    return Response(status_code=204, headers=_told(service, upload))


@uploads.delete(
    "/{upload_id}", status_code=204, openapi_extra=_takes("Tus-Resumable"), responses=problem_responses(404, 412)
)  # fmt: skip
async def terminate(upload_id: str, asks: Asks, service: Serves) -> Response:
    """Delete an upload, finished or not; jobs that it was named for have what they need."""
    asks.need("submit")
    await service.uploads.remove(await service.uploads.find(upload_id, asks))
    return Response(status_code=204, headers=TUS)


@uploads.post(
    "/{upload_id}", status_code=204,
    openapi_extra=_takes(
        "Tus-Resumable", "X-HTTP-Method-Override", maybe=("Upload-Offset", "Upload-Checksum"), body=_BYTES
    ),
    responses=problem_responses(400, 404, 405, 408, 409, 412, 413, 415, 423, 460, 507),
)  # fmt: skip
async def override(http: Request, upload_id: str, asks: Asks, service: Serves) -> Response:
    """Add to or delete an upload, for clients that can send neither PATCH nor DELETE."""
    meant = http.headers.get("x-http-method-override")
    if meant == "PATCH":
        return await append(http, upload_id, asks, service)
    if meant == "DELETE":
        return await terminate(upload_id, asks, service)
    raise Problem(405, "expected PATCH, or POST with X-HTTP-Method-Override: PATCH or DELETE")


async def _append(http: Request, asks: Caller, service: Ingress, upload: Upload, offset: int) -> Upload:
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != OFFSET_BYTES:
        raise Problem(415, f"expected Content-Type: {OFFSET_BYTES}, got {kind or 'nothing'!r}")
    wanted = _checksum(http.headers.get("upload-checksum"))
    left = max(0, upload.length - offset)
    sentence = f"more than the {left} bytes came that are left of Upload-Length"
    with service.receiving.place(asks.name):
        body = body_parts(http, left, service.limits, sentence)
        return await service.uploads.append(upload, offset, body, wanted)


def _number(http: Request, header: str) -> int:
    text = http.headers.get(header, "nothing")
    if not _NUMBER.fullmatch(text):
        raise Problem(400, f"expected the header {header}, a whole number of bytes, got {text[:40]!r}")
    return int(text)


def _checksum(text: str | None) -> tuple[str, bytes] | None:
    if text is None:
        return None
    name, _, digest = text.partition(" ")
    try:
        if name in CHECKSUMS:
            return name, base64.b64decode(digest, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise Problem(400, f"expected Upload-Checksum of {' or '.join(CHECKSUMS)} and its base64, got {text[:80]!r}")


def _name_of(text: str) -> str:
    """Return the name of the file in `Upload-Metadata`. Raises `Problem` (400, 422)."""
    found: dict[str, bytes] = {}
    if len(text) > METADATA_BYTES:
        raise Problem(400, f"Upload-Metadata has {len(text)} bytes, at most {METADATA_BYTES} are taken")
    for pair in text.split(",") if text else ():
        key, _, value = pair.strip().partition(" ")
        try:
            content = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            content = None
        if not key or not (key.isascii() and key.isprintable()) or content is None or key in found:
            raise Problem(400, "expected Upload-Metadata of pairs, each a key and a value in base64, no key twice")
        found[key] = content
    name = found.get("filename", found.get("name"))
    try:
        return upload_name(None if name is None else name.decode())
    except UnicodeDecodeError:
        raise Problem(422, "the file name in Upload-Metadata is not UTF-8") from None


def _told(service: Ingress, upload: Upload) -> dict[str, str]:
    expires = formatdate(service.uploads.ends(upload), usegmt=True)
    return {**TUS, **PATIENTS_DATA, "Upload-Offset": str(upload.offset), "Upload-Expires": expires}


def _view(service: Ingress, upload: Upload) -> dict[str, Any]:
    ends = service.uploads.ends(upload)
    return {**{name: getattr(upload, name) for name in ("id", "name", "length", "offset")}, "expires": ends}
