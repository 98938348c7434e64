"""The messages of an MRD stream, little-endian: an id of two bytes and what belongs to it.

Source: ISMRMRD 1.15, `ismrmrd.serialization`, and the Gadgetron's interface. Sizes that a client declares are held
against the limits before anything is allocated for them.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from kdrift.data.formats.header import MAX_HEADER_BYTES

LONGEST_LINE = 16 << 20
"""Bytes of an acquisition: 128 channels of 16384 samples."""
LONGEST_TEXT = 64 << 10
NAME_BYTES = 1024
"""Bytes of the message that names a configuration: the name, filled up with zeros."""
MESSAGE_S, SLOWEST = 20.0, 64 << 10
"""Once a message has begun, the rest of it comes within so many seconds, and one more for so many bytes of it."""
_PIECE = 1 << 20
_WAVEFORM = struct.Struct("<H6xQIIIHHfH2x")

ACQUISITION_HEAD = np.dtype([
    ("version", "<u2"), ("flags", "<u8"), ("measurement_uid", "<u4"), ("scan_counter", "<u4"),
    ("acquisition_time_stamp", "<u4"), ("physiology_time_stamp", "<u4", (3,)), ("number_of_samples", "<u2"),
    ("available_channels", "<u2"), ("active_channels", "<u2"), ("channel_mask", "<u8", (16,)), ("discard_pre", "<u2"),
    ("discard_post", "<u2"), ("center_sample", "<u2"), ("encoding_space_ref", "<u2"), ("trajectory_dimensions", "<u2"),
    ("sample_time_us", "<f4"), ("position", "<f4", (3,)), ("read_dir", "<f4", (3,)), ("phase_dir", "<f4", (3,)),
    ("slice_dir", "<f4", (3,)), ("patient_table_position", "<f4", (3,)),
    ("idx", [
        ("kspace_encode_step_1", "<u2"), ("kspace_encode_step_2", "<u2"), ("average", "<u2"), ("slice", "<u2"),
        ("contrast", "<u2"), ("phase", "<u2"), ("repetition", "<u2"), ("set", "<u2"), ("segment", "<u2"),
        ("user", "<u2", (8,)),
    ]),
    ("user_int", "<i4", (8,)), ("user_float", "<f4", (8,)),
])  # fmt: skip


class MessageId(IntEnum):
    """What a message is."""

    CONFIG_NAME = 1
    CONFIG_TEXT = 2
    HEADER = 3
    CLOSE = 4
    TEXT = 5
    ACQUISITION = 1008
    IMAGE = 1022
    WAVEFORM = 1026


class Refused(ValueError):
    """What a client sent or asked for cannot be had, and the sentence that says why."""


class HungUp(ConnectionError):
    """The client is gone: nobody hears a sentence."""


@dataclass(frozen=True)
class Line:
    """One acquisition, as it came."""

    head: Any
    """One value of `ACQUISITION_HEAD`."""
    trajectory: bytes
    """float32 `(sample, dimension)`."""
    samples: bytes
    """complex64 `(coil, sample)`."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        return ACQUISITION_HEAD.itemsize + len(self.trajectory) + len(self.samples)


class Incoming:
    """The messages that a client sends: at most `most` bytes in all, `idle_s` seconds between two of them."""

    def __init__(self, reader: asyncio.StreamReader, most: int, idle_s: float) -> None:
        self._reader, self._most, self._idle_s = reader, most, idle_s
        self._received = 0

    async def next_id(self) -> MessageId:
        """Return what comes next. Raises `Refused` where nothing comes, or something unknown."""
        try:
            async with asyncio.timeout(self._idle_s):
                begun = await self._reader.readexactly(2)
        except TimeoutError:
            raise Refused(f"no message came for {self._idle_s:g} s") from None
        except asyncio.IncompleteReadError:
            raise Refused("the stream ended before its close message (4): the scan is not whole") from None
        (number,) = struct.unpack("<H", begun)
        try:
            return MessageId(number)
        except ValueError:
            known = ", ".join(str(each.value) for each in MessageId)
            raise Refused(f"there is no MRD message {number}: this server knows {known}") from None

    async def name(self) -> str:
        """Return the name of a configuration."""
        found = await self._rest(NAME_BYTES, "the name of a configuration")
        return _decoded(found.partition(b"\0")[0], "the name of a configuration")

    async def text(self, what: str) -> str:
        """Return a text."""
        return _decoded((await self._sized(LONGEST_TEXT, what)).rstrip(b"\0"), what)

    async def header(self) -> bytes:
        """Return the XML of a header."""
        return (await self._sized(MAX_HEADER_BYTES, "the header")).rstrip(b"\0")

    async def line(self) -> Line:
        """Return an acquisition. Raises `Refused` for one that is larger than `LONGEST_LINE`."""
        what = "an acquisition"
        head = np.frombuffer(await self._rest(ACQUISITION_HEAD.itemsize, what), ACQUISITION_HEAD)[0]
        samples, channels = int(head["number_of_samples"]), int(head["active_channels"])
        dimensions = int(head["trajectory_dimensions"])
        trajectory, data = 4 * samples * dimensions, 8 * samples * channels
        if trajectory + data > LONGEST_LINE:
            raise Refused(
                f"an acquisition declares {samples} samples of {channels} channels and {dimensions} dimensions of"
                f" trajectory, {(trajectory + data) >> 20} MiB: at most {LONGEST_LINE >> 20} MiB are taken"
            )
        rest = await self._rest(trajectory + data, what)
        return Line(head, rest[:trajectory], rest[trajectory:])

    async def skip_waveform(self) -> None:
        """Read over a waveform (ECG, breathing, ...), which says nothing of the image."""
        what = "a waveform"
        *_, samples, channels, _, _ = _WAVEFORM.unpack(await self._rest(_WAVEFORM.size, what))
        left = 4 * samples * channels
        self._check(left, what)
        while left > 0:
            left -= len(await self._rest(min(left, _PIECE), what))

    async def drain(self, seconds: float) -> None:
        """Read over what a client still sends, until it ends or the time is over."""
        try:
            async with asyncio.timeout(seconds):
                while await self._reader.read(_PIECE):
                    pass
        except (TimeoutError, ConnectionError):
            pass

    async def _sized(self, most: int, what: str) -> bytes:
        (size,) = struct.unpack("<I", await self._rest(4, what))
        if size > most:
            raise Refused(f"{what} is declared to have {size} bytes: at most {most} are taken")
        return await self._rest(size, what)

    def _check(self, size: int, what: str) -> None:
        if self._received + size > self._most:
            raise Refused(f"with {what} the scan is larger than {self._most >> 20} MiB, the most that is taken")

    async def _rest(self, size: int, what: str) -> bytes:
        """Return so many bytes of a message that has begun."""
        self._check(size, what)
        seconds = MESSAGE_S + size / SLOWEST
        try:
            async with asyncio.timeout(min(seconds, self._idle_s + size / SLOWEST)):
                found = await self._reader.readexactly(size)
        except TimeoutError:
            raise Refused(f"the stream stalled in the midst of {what}") from None
        except asyncio.IncompleteReadError:
            raise Refused(f"the stream ended in the midst of {what}") from None
        self._received += size
        return found


def text_message(text: str) -> bytes:
    """Return a text (5), which people read."""
    encoded = text.encode()[:LONGEST_TEXT]
    return struct.pack("<HI", MessageId.TEXT, len(encoded)) + encoded


def close_message() -> bytes:
    """Return the last message (4)."""
    return struct.pack("<H", MessageId.CLOSE)


def image_message(head: bytes, attributes: bytes, data: bytes) -> bytes:
    """Return an image (1022): its header, its attributes as XML, its pixels with x varying fastest."""
    return struct.pack("<H", MessageId.IMAGE) + head + struct.pack("<Q", len(attributes)) + attributes + data


def _decoded(found: bytes, what: str) -> str:
    try:
        return found.decode()
    except UnicodeDecodeError:
        raise Refused(f"{what} is not UTF-8") from None
