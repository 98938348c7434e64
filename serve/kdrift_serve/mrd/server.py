"""The MRD server: takes scans from TCP connections, has them reconstructed by the service, and sends images back."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from kdrift.data.formats.header import read_header
from kdrift.data.volume import BadVolume
from kdrift_serve.mrd.image_messages import image_messages, kinds_of, unpack_images
from kdrift_serve.mrd.messages import Incoming, MessageId, Refused, close_message, text_message
from kdrift_serve.mrd.mrd_config import MrdConfig
from kdrift_serve.mrd.options import Asked, read_options, read_preset
from kdrift_serve.mrd.scan_file import ScanFile
from kdrift_serve.mrd.service import Service

logger = logging.getLogger("kdrift.mrd")
LINGER_S = 3.0
"""For so long a client that was refused may go on sending: an end in its midst would take the sentence away."""


@dataclass(frozen=True)
class Scan:
    """What a client sent."""

    path: Path
    asked: Asked
    measurement_uid: int


class MrdServer:
    """Connections, one scan each."""

    def __init__(self, config: MrdConfig, key: str) -> None:
        self._config = config
        self._service = Service(config.service, key, config.patience_s)
        self._open = set[asyncio.Task[None]]()

    async def serve(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Listen until `stop` is set; `ready` is called once connections are taken. Raises OSError for a taken port."""
        config = self._config
        server = await asyncio.start_server(self._connected, config.host, config.port)
        folder = config.own_folder  # whoever has the port has the folder: what lies there is of a server that died
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        try:
            ready()
            await stop.wait()
        finally:
            server.close()
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)
            await self._service.close()
            shutil.rmtree(folder, ignore_errors=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._attend(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer a client, whatever becomes of its connection."""
        address = writer.get_extra_info("peername")[0]
        try:
            _keep_alive(writer)
            await self._answer(reader, writer, address)
        except asyncio.CancelledError:  # the server stops
            writer.transport.abort()
        except OSError as error:  # of its socket: all others are answered
            logger.info("the client at %s is gone: %s", address, error.strerror or error)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str) -> None:
        """Take a scan and send its images, or a sentence, and the close message."""
        incoming = Incoming(reader, self._config.upload_mb << 20, self._config.idle_s)
        try:
            self._check(address)
            async with self._folder() as folder:
                scan = await self._receive(incoming, folder)
                logger.info("a scan came from %s", address)
                async for message in self._images(scan):
                    await self._send(writer, message)
        except Refused as refused:
            logger.info("what %s asks for was refused: %s", address, refused)
            said = str(refused)
        except ConnectionError:
            raise
        except OSError as error:
            logger.error("a scan could not be kept: %s", error)
            said = f"the MRD server cannot keep the scan: {error.strerror or type(error).__name__}"
        except Exception:
            logger.exception("unexpected error")
            said = "the MRD server made an error; its log has the details"
        else:
            await self._send(writer, close_message())
            return
        await self._send(writer, text_message(said) + close_message())
        writer.write_eof()
        await incoming.drain(LINGER_S)

    def _check(self, address: str) -> None:
        if not self._config.allows(address):
            raise Refused("this server takes no scans from this address: its configuration has to allow it")
        if len(self._open) > self._config.scans:
            raise Refused(f"{self._config.scans} scans are under way, the most at a time: try again later")

    @contextlib.asynccontextmanager
    async def _folder(self) -> AsyncIterator[Path]:
        """Make a folder for the block."""
        folder = Path(tempfile.mkdtemp(dir=self._config.own_folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _send(self, writer: asyncio.StreamWriter, message: bytes) -> None:
        writer.write(message)
        try:
            async with asyncio.timeout(self._config.idle_s):
                await writer.drain()
        except TimeoutError:
            writer.transport.abort()
            raise ConnectionResetError("the client does not read its images") from None

    async def _receive(self, incoming: Incoming, folder: Path) -> Scan:
        """Write a scan to disk while it comes. Raises `Refused` for a stream that is none."""
        try:
            async with asyncio.timeout(self._config.scan_s):
                return await self._read_messages(incoming, folder / "scan.h5")
        except TimeoutError:
            raise Refused(f"the scan was not whole after {self._config.scan_s:g} s") from None

    async def _read_messages(self, incoming: Incoming, path: Path) -> Scan:
        asked: Asked | None = None
        measurement_uid = 0
        async with contextlib.AsyncExitStack() as stack:
            file: ScanFile | None = None
            while (number := await incoming.next_id()) is not MessageId.CLOSE:
                if number in (MessageId.CONFIG_NAME, MessageId.CONFIG_TEXT):
                    if asked is not None:
                        raise Refused("a second configuration came: expected one")
                    if number is MessageId.CONFIG_NAME:
                        asked = read_preset(await incoming.name(), self._config.presets)
                    else:
                        asked = read_options(await incoming.text("the configuration"))
                elif number is MessageId.HEADER:
                    if file is not None:
                        raise Refused("a second header (3) came: expected one")
                    file = ScanFile(path, _checked(await incoming.header()))
                    stack.callback(file.close)
                elif number is MessageId.ACQUISITION:
                    if file is None:
                        raise Refused(
                            "an acquisition (1008) came before the header (3), without which it means nothing"
                        )
                    line = await incoming.line()
                    measurement_uid = measurement_uid or int(line.head["measurement_uid"])
                    if file.add(line):
                        await asyncio.to_thread(file.write)
                elif number is MessageId.WAVEFORM:
                    await incoming.skip_waveform()
                elif number is MessageId.TEXT:
                    logger.info("a client says: %.200r", await incoming.text("a text"))
                else:
                    raise Refused(
                        f"message {number.value} is an image: expected acquisitions (1008), images are made here"
                    )
            if file is None or file.lines == 0:
                raise Refused("the stream ended without an acquisition (1008): there is nothing to reconstruct")
            await asyncio.to_thread(file.write)
        return Scan(path, asked or read_options(""), measurement_uid)

    async def _images(self, scan: Scan) -> AsyncIterator[bytes]:
        """Have a scan reconstructed; yield what is to be sent of it. Raises `Refused` with the service's sentence."""
        job_id = await self._service.submit(scan.path, scan.asked.query)
        logger.info("a scan is reconstruction %s", job_id)
        scan.path.unlink()  # the service has it
        status = await self._service.end_of(job_id)
        archive = scan.path.with_name("outputs.zip")
        await self._service.fetch(job_id, archive.name, archive)
        path = await asyncio.to_thread(unpack_images, archive)
        there = kinds_of(path)
        kinds = [kind for kind in scan.asked.images or ("mean", "std") if kind in there]
        notes = list(status["report"].get("notes") or status["notes"])
        if lacking := [kind for kind in scan.asked.images or () if kind not in there]:
            notes.append(f"no {', '.join(lacking)}: this method and number of samples give none")
        if notes:
            yield text_message("\n".join(notes))
        for message in image_messages(path, tuple(kinds), scan.measurement_uid):
            yield message


def _checked(xml: bytes) -> bytes:
    """Return a header that can be read. Raises `Refused`."""
    try:
        read_header("the header", xml)
    except BadVolume as error:
        raise Refused(str(error)) from None
    return xml


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    """Notice a client whose machine is gone, though nothing is sent while a scan is reconstructed."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
