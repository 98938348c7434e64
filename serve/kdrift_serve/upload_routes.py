"""Uploads that can be resumed: the protocol tus 1.0.0 (https://tus.io/protocols/resumable-upload), core, creation,
creation-with-upload, termination, expiration and checksum."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from kdrift_serve.access import Asks, Serves
from kdrift_serve.auth import Caller
from kdrift_serve.body import body_parts
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
_BYTES: dict[str, Any] = {"content": {OFFSET_BYTES: {"schema": {"type": "string", "format": "binary"}}}}


class Tus(APIRoute):
    """A route of the protocol: requests say its version, and so do all answers."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers: 412 where the version is another; GET, which is HEAD to the proxy, need not say it."""
        handle = super().get_route_handler()

        async def answer(http: Request) -> Response:
            try:
                if http.method not in ("GET", "HEAD") and http.headers.get("tus-resumable") != VERSION:
                    raise Problem(412, f"expected the header Tus-Resumable: {VERSION}", {"Tus-Version": VERSION})
                return await handle(http)
            except Problem as error:
                raise Problem(error.status, error.detail, {**TUS, **(error.headers or {})}) from None

        return answer


Length = Annotated[str | None, Header(description="Bytes of the whole file.")]
Metadata = Annotated[str | None, Header(description="Pairs of a key and a value in base64; `filename` names the file.")]
Offset = Annotated[str | None, Header(description="Where the body begins: how much is there already.")]
Checksum = Annotated[str | None, Header(description="sha1 or sha256 of the body, in base64 after the name.")]
Override = Annotated[str | None, Header(description="PATCH or DELETE, of a client that can send neither.")]
uploads = APIRouter(prefix="/uploads", tags=["uploads"], route_class=Tus)
open_uploads = APIRouter(prefix=BASE, tags=["uploads"])


async def abilities(service: Serves) -> Response:
    """Tell what of the protocol tus there is, and the largest file; needs no key."""
    told = {"Tus-Version": VERSION, "Tus-Extension": EXTENSIONS, "Tus-Checksum-Algorithm": ",".join(CHECKSUMS)}
    return Response(status_code=204, headers={**TUS, **told, "Tus-Max-Size": str(service.uploads.most)})


for _path in ("", "/{upload_id}"):
    open_uploads.add_api_route(_path, abilities, methods=["OPTIONS"], status_code=204)


@uploads.post(
    "", status_code=201, openapi_extra={"requestBody": _BYTES},
    responses=problem_responses(400, 408, 412, 413, 415, 460, 507),
)  # fmt: skip
async def begin(
    http: Request, asks: Asks, service: Serves, upload_length: Length = None, upload_metadata: Metadata = None,
    upload_checksum: Checksum = None,
) -> Response:  # fmt: skip
    """Begin an upload, whose address is in `Location`; a body is its first part."""
    asks.need("submit")
    if "upload-defer-length" in http.headers or "upload-concat" in http.headers:
        raise Problem(400, "this service needs Upload-Length at once, and joins no uploads")
    length = _number(upload_length, "Upload-Length")
    if length > service.uploads.most:
        raise Problem(413, f"Upload-Length is {length}, this service takes at most {service.uploads.most} bytes")
    name = _name_of(upload_metadata)
    upload = await service.uploads.create(asks, length, name, upload_metadata or "")
    if http.headers.get("content-length", "0") != "0" or "transfer-encoding" in http.headers:
        try:
            upload = await _append(http, asks, service, upload, 0, upload_checksum)
        except BaseException:  # nobody knows its address
            await asyncio.shield(service.uploads.remove(upload))
            raise
    return Response(status_code=201, headers=_told(service, upload) | {"Location": f"{BASE}/{upload.id}"})


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
    "/{upload_id}", status_code=204, openapi_extra={"requestBody": {"required": True, **_BYTES}},
    responses=problem_responses(400, 404, 408, 409, 412, 413, 415, 423, 460, 507),
)  # fmt: skip
async def append(
    http: Request, upload_id: str, asks: Asks, service: Serves, upload_offset: Offset = None,
    upload_checksum: Checksum = None,
) -> Response:  # fmt: skip
    """Add to an upload where it ends; what came of a request that is broken off is kept."""
    asks.need("submit")
    upload = await service.uploads.find(upload_id, asks)
    offset = _number(upload_offset, "Upload-Offset")
    upload = await _append(http, asks, service, upload, offset, upload_checksum)
    return Response(status_code=204, headers=_told(service, upload))


@uploads.delete("/{upload_id}", status_code=204, responses=problem_responses(404, 412))
async def terminate(upload_id: str, asks: Asks, service: Serves) -> Response:
    """Delete an upload, finished or not; jobs that it was named for have what they need."""
    asks.need("submit")
    await service.uploads.remove(await service.uploads.find(upload_id, asks))
    return Response(status_code=204, headers=TUS)


@uploads.post(
    "/{upload_id}", status_code=204, openapi_extra={"requestBody": _BYTES},
    responses=problem_responses(400, 404, 405, 408, 409, 412, 413, 415, 423, 460, 507),
)  # fmt: skip
async def override(
    http: Request, upload_id: str, asks: Asks, service: Serves, x_http_method_override: Override = None,
    upload_offset: Offset = None, upload_checksum: Checksum = None,
) -> Response:  # fmt: skip
    """Add to or delete an upload, for clients that can send neither PATCH nor DELETE."""
    if x_http_method_override == "PATCH":
        return await append(http, upload_id, asks, service, upload_offset, upload_checksum)
    if x_http_method_override == "DELETE":
        return await terminate(upload_id, asks, service)
    raise Problem(405, "expected PATCH, or POST with X-HTTP-Method-Override: PATCH or DELETE")


async def _append(
    http: Request, asks: Caller, service: Ingress, upload: Upload, offset: int, checksum: str | None
) -> Upload:
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != OFFSET_BYTES:
        raise Problem(415, f"expected Content-Type: {OFFSET_BYTES}, got {kind or 'nothing'!r}")
    wanted = _checksum(checksum)
    left = max(0, upload.length - offset)
    sentence = f"more than the {left} bytes came that are left of Upload-Length"
    with service.receiving.place(asks.name):
        body = body_parts(http, left, service.limits, sentence)
        return await service.uploads.append(upload, offset, body, wanted)


def _number(text: str | None, what: str) -> int:
    if text is None or not _NUMBER.fullmatch(text):
        raise Problem(400, f"expected the header {what}, a whole number of bytes, got {(text or 'nothing')[:40]!r}")
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


def _name_of(metadata: str | None) -> str:
    """Return the name of the file in `Upload-Metadata`. Raises `Problem` (400, 422)."""
    found: dict[str, bytes] = {}
    text = metadata or ""
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
