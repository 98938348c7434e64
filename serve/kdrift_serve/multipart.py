"""A form (multipart/form-data) with one file, which goes to the disk as it comes, and the options of its job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from kdrift_serve.job_files import told
from kdrift_serve.job_request import MAX_JSON_BYTES
from kdrift_serve.problems import Problem

FORM = "multipart/form-data"
FILE, OPTIONS = "file", "options"
FORM_BYTES = MAX_JSON_BYTES + (16 << 10)
"""What a form has at most besides its file."""
EXPECTED = f"expected a form with one file, {FILE}=@scan.h5, and perhaps {OPTIONS}, a JSON object"


async def receive_form(
    kind: str, body: AsyncIterator[bytes], most: int, file: Callable[[str], Awaitable[Path]],
    options: Callable[[bytes], None],
) -> None:  # fmt: skip
    """Read a form whose Content-Type is `kind`: options are handed to `options` as they are there, and the file, of
    `most` bytes, is written to the path that `file` gives for its name.

    Raises `Problem` (400, 413, 422), what the functions raise, and `DiskFull`.
    """
    boundary = parse_options_header(kind)[1].get(b"boundary")
    if not boundary:
        raise Problem(400, f"Content-Type has no boundary: {EXPECTED}")
    form, received, writing = _Form(), 0, None
    try:
        parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
        async for data in body:
            parser.write(data)
            for name, content in form.take():
                if name is not None:
                    with told():
                        writing = (await file(name)).open("wb")
                received += len(content)
                if received > most:
                    raise Problem(413, f"the file is larger than {most >> 20} MiB; name one by its path instead")
                with told():
                    assert writing is not None
                    await asyncio.to_thread(writing.write, content)
            if form.options is not None and form.whole_options:
                options(bytes(form.options))
                form.whole_options = False
    except FormParserError as error:
        raise Problem(400, f"the form cannot be read ({error}): {EXPECTED}") from None
    finally:
        if writing is not None:
            with told():
                writing.close()
    if not form.ended:
        raise Problem(400, "the form is truncated: its last boundary did not come")
    if writing is None:
        raise Problem(400, f"the form has no file: {EXPECTED}")
    if received == 0:
        raise Problem(400, "the file of the form is empty")


class _Form:
    """What the parser found so far."""

    def __init__(self) -> None:
        self.options: bytearray | None = None
        self.whole_options = self.ended = False
        self._headers: dict[bytes, bytes] = {}
        self._header = [bytearray(), bytearray()]
        self._part = b""
        self._files = 0
        self._found: list[tuple[str | None, bytes]] = []

    def callbacks(self) -> dict[str, Callable[..., None]]:
        """Return what the parser calls."""
        return {
            "on_part_begin": self._headers.clear, "on_header_field": self._field, "on_header_value": self._value,
            "on_header_end": self._header_end, "on_headers_finished": self._begin, "on_part_data": self._data,
            "on_part_end": self._end, "on_end": self._last,
        }  # fmt: skip

    def take(self) -> list[tuple[str | None, bytes]]:
        """Return what came of the file, the first time with its name."""
        found, self._found = self._found, []
        return found

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def _header_end(self) -> None:
        self._headers[bytes(self._header[0]).lower()] = bytes(self._header[1])
        self._header = [bytearray(), bytearray()]

    def _begin(self) -> None:
        said = parse_options_header(self._headers.get(b"content-disposition", b""))[1]
        self._part = said.get(b"name", b"")
        if self._part == FILE.encode():
            self._files += 1
            if b"filename" not in said:
                raise Problem(400, f"the field {FILE} is no file: {EXPECTED}")
            if self._files > 1:
                raise Problem(400, f"the form has several files: {EXPECTED}")
            self._found.append((said[b"filename"].decode(errors="surrogateescape"), b""))
        elif self._part == OPTIONS.encode():
            if self.options is not None:
                raise Problem(400, f"the form has {OPTIONS} twice: {EXPECTED}")
            self.options = bytearray()
        else:
            shown = self._part[:80].decode(errors="replace")
            raise Problem(400, f"the form has a field {shown!r}: {EXPECTED}")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._part == FILE.encode():
            self._found.append((None, data[start:end]))
        elif self.options is not None:
            self.options += data[start:end]
            if len(self.options) > MAX_JSON_BYTES:
                raise Problem(413, f"{OPTIONS} is over {MAX_JSON_BYTES >> 10} KiB")

    def _end(self) -> None:
        if self._part == OPTIONS.encode():
            self.whole_options = True

    def _last(self) -> None:
        self.ended = True
