"""MRD streams: a client of the `ismrmrd` package gets the library's images, and whoever sends nonsense a sentence."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import psutil
import pytest
import yaml
from ismrmrd.serialization import ConfigFile, ConfigText, ProtocolDeserializer, ProtocolSerializer
from ismrmrd.xsd import CreateFromDocument

from kdrift.data.phantom import phantom_volume
from kdrift.notice import RESEARCH_ONLY
from mrd_helpers import encoding, header, lines, write
from serve_helpers import KEY, MASK, Service, assert_close, free_port, library, plan, running, tiny_prior

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
SIZE, COILS, SLICES, UID = 32, 4, 2, 4711
IDLE_S = 4.0
HELD_OUT = {**MASK, "acs_lines": 12}
"""Leaves lines that can be held out."""
LONG = {"num_steps": 120}


@dataclass(frozen=True)
class Sent:
    """A scan as it is sent, and the same as a file."""

    xml: bytes
    acquisitions: list[Any]
    path: Path


@dataclass(frozen=True)
class Answer:
    """What came back until the close message."""

    texts: list[str] = field(default_factory=list)
    images: list[Any] = field(default_factory=list)

    def stack(self, kind: str) -> np.ndarray:
        """Images `(slice, row, col)` of a kind; their data are (channel, z, y, x), x along the rows."""
        return np.stack([image.data[0, 0].T for image in self.of(kind)])

    def of(self, kind: str) -> list[Any]:
        return [image for image in self.images if image.meta["Image"] == kind]


@dataclass(frozen=True)
class World:
    """A service of two samplers that takes MRD streams."""

    service: Service
    port: int
    prior: Path
    full: Sent
    sparse: Sent
    store: Path

    @contextlib.contextmanager
    def connected(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=120) as connection:
            yield connection

    def scan(self, sent: Sent, config: Any = None) -> Answer:
        """Send a scan as a scanner does, and read its answer."""
        with self.connected() as connection, connection.makefile("wb") as out, connection.makefile("rb") as back:
            with ProtocolSerializer(out) as serializer:
                if config is not None:
                    serializer.serialize(config)
                serializer.serialize(CreateFromDocument(sent.xml))
                for line in sent.acquisitions:
                    serializer.serialize(line)
            return answer_of(back)

    def left(self) -> list[Path]:
        """What lies in the folder of the MRD server, after a moment in which it may be deleted."""
        limit = time.monotonic() + 10
        while (found := list((self.store / "mrd").glob("*/*"))) and time.monotonic() < limit:
            time.sleep(0.1)
        return found


def answer_of(stream: Any) -> Answer:
    answer = Answer()
    for each in ProtocolDeserializer(stream).deserialize():
        assert isinstance(each, (str, ismrmrd.Image))
        (answer.texts if isinstance(each, str) else answer.images).append(each)
    assert stream.read() == b"", "the connection ends after the close message"
    return answer


def make_scan(path: Path, steps: list[int] | None = None, acs: tuple[int, int] = (0, 0), seed: int = 1) -> Sent:
    """A phantom of two slices, 5 mm apart; lines within `acs` are embedded calibration."""
    kspace = phantom_volume(SLICES, SIZE, SIZE, COILS, seed=seed).kspace
    mode, made = "embedded" if acs[1] else None, []
    for number, each in enumerate(np.asarray(kspace)):
        place = ((10.0, -20.0, 5.0 * number), (0, 1, 0), (1, 0, 0), (0, 0, 1))
        made += lines(each, steps, place=place, slice=number)
    for line in made:
        line.measurement_uid = UID
        if acs[0] <= line.idx.kspace_encode_step_1 < acs[1]:
            line.setFlag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING)
    space = encoding((SIZE, SIZE, 1), fov=(192.0, 160.0, 5.0), mode=mode, acceleration=(4, 1), last={"slice": 1})
    return Sent(header(space), made, write(path, made, header(space)))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("mrd")
    prior, store, port = tiny_prior(folder / "tiny"), folder / "store", free_port()
    acs = (9, 23)
    steps = sorted({*range(0, SIZE, 4), *range(*acs)})
    full, sparse = make_scan(folder / "full.h5"), make_scan(folder / "sparse.h5", steps, acs)
    presets = folder / "presets"
    presets.mkdir()
    (presets / "quick.yaml").write_text(yaml.safe_dump({"plan": plan(seed=5), "mask": MASK, "images": ["std"]}))
    config = folder / "mrd.yaml"
    config.write_text(yaml.safe_dump({"idle_s": IDLE_S, "scans": 6, "presets": str(presets)}))
    args = {
        "priors": {"tiny": str(prior)},
        "storage": str(store),
        "samplers": {"replicas": 2, "num_cpus": 1, "device": "cpu"},
        "limits": {"upload_mb": 2},
    }
    options = ("--mrd-port", str(port), "--mrd-config", str(config))
    with running(folder, args, *options, key=KEY) as service:
        world = World(service, port, prior, full, sparse, store)
        listening(world)
        yield world


def listening(world: World) -> None:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        with contextlib.suppress(OSError), world.connected():
            return
        time.sleep(0.2)
    raise TimeoutError(world.service.log.read_text())


def test_a_full_scan_with_a_mask_is_answered_as_the_library_does(world: World) -> None:
    asked = plan()
    config = {"plan": asked, "mask": HELD_OUT, "images": ["mean", "std", "lower", "upper"]}
    answer = world.scan(world.full, ConfigText(json.dumps(config)))
    expected = library(world.full.path, world.prior, asked, mask=HELD_OUT)
    assert_close({"mean": answer.stack("mean"), "std": answer.stack("std")}, expected)
    for kind in ("lower", "upper"):
        bound = getattr(expected, kind).numpy()
        np.testing.assert_allclose(answer.stack(kind), bound, atol=2e-5 * float(expected.upper.max()))
    assert [image.image_series_index for image in answer.images] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [image.slice for image in answer.images] == [0, 1] * 4
    for number, image in enumerate(answer.of("mean")):
        verdict, meta = expected.verdicts[number], image.meta
        assert (meta["Verdict"], meta["Notice"]) == (verdict.level, RESEARCH_ONLY)
        reasons = meta["VerdictReasons"] if isinstance(meta["VerdictReasons"], list) else [meta["VerdictReasons"]]
        assert tuple(reasons) == verdict.reasons
        assert reasons
        assert RESEARCH_ONLY in meta["ImageComment"]
        assert [float(x) for x in meta["VoxelSize_mm"]] == [6.0, 5.0, 5.0]
        assert meta["Unit"] == "of the k-space, arbitrary"
        head = image.getHead()
        assert (head.measurement_uid, list(head.read_dir), list(head.phase_dir)) == (UID, [0, 1, 0], [1, 0, 0])
        assert list(head.position) == pytest.approx([10, -20, 5 * number])
        assert list(head.field_of_view) == [192.0, 160.0, 5.0]
    assert world.left() == []


def test_an_undersampled_scan_in_yaml(world: World) -> None:
    answer = world.scan(world.sparse, ConfigText(yaml.safe_dump({"plan": plan(seed=3)})))
    expected = library(world.sparse.path, world.prior, plan(seed=3), mask=None)
    assert_close({"mean": answer.stack("mean"), "std": answer.stack("std")}, expected)
    assert {image.meta["Image"] for image in answer.images} == {"mean", "std"}


def test_a_preset_by_its_name(world: World) -> None:
    answer = world.scan(world.full, ConfigFile("quick.xml"))
    expected = library(world.full.path, world.prior, plan(seed=5))
    assert len(answer.images) == SLICES
    assert_close({"std": answer.stack("std")}, expected)


def test_a_classical_method_has_no_deviation_and_says_so(world: World) -> None:
    asked = {"plan": plan("tv", settings={"max_iter": 5}), "mask": MASK, "images": ["std", "mean"]}
    answer = world.scan(world.full, ConfigText(json.dumps(asked)))
    assert [image.meta["Image"] for image in answer.images] == ["mean"] * SLICES
    meta = answer.images[0].meta
    assert (meta["Verdict"], meta["VerdictReasons"]) == ("not checked", "tv draws no samples")
    assert "no std: this method" in answer.texts[0]


def test_two_scans_at_once(world: World) -> None:
    configs = [({"plan": plan(seed=8)}, world.sparse, None), ({"plan": plan(seed=9), "mask": MASK}, world.full, MASK)]
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda each: world.scan(each[1], ConfigText(json.dumps(each[0]))), configs))
    for answer, (config, sent, mask) in zip(answers, configs, strict=True):
        expected = library(sent.path, world.prior, config["plan"], mask=mask)
        assert_close({"mean": answer.stack("mean"), "std": answer.stack("std")}, expected)


@pytest.mark.parametrize("deployment", ["Sampler", "Ingress"])
def test_a_process_killed_in_the_midst_changes_nothing(world: World, deployment: str) -> None:
    asked = plan(num_samples=8, settings=LONG)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(world.scan, world.sparse, ConfigText(json.dumps({"plan": asked})))
        limit = time.monotonic() + 60
        while world.service.client.get("/v1/health").json()["jobs"].get("running", 0) == 0:
            assert time.monotonic() < limit
            assert not waiting.done(), waiting.result()
            time.sleep(0.1)
        time.sleep(1)
        os.kill(world.service.replicas(deployment)[0].pid, signal.SIGKILL)
        assert not waiting.done()
        answer = waiting.result(120)
    expected = library(world.sparse.path, world.prior, asked, mask=None)
    assert_close({"mean": answer.stack("mean"), "std": answer.stack("std")}, expected)
    world.service.healthy()


def message(number: int, text: bytes) -> bytes:
    return struct.pack("<HI", number, len(text)) + text


def begun(world: World, *, count: int = 0, **values: int) -> bytes:
    """A header and some lines, the head of the last of which says `values`."""
    sent = message(3, world.full.xml)
    for line in world.full.acquisitions[:count]:
        sent += struct.pack("<H", 1008) + line.to_bytes()
    if values:
        head = world.full.acquisitions[0].getHead()
        for name, value in values.items():
            setattr(head, name, value)
        sent += struct.pack("<H", 1008) + bytes(head)
    return sent


def line_of(world: World) -> bytes:
    return struct.pack("<H", 1008) + bytes(world.full.acquisitions[0].to_bytes())


def config(text: str) -> bytes:
    return message(2, text.encode())


CLOSE = struct.pack("<H", 4)
BOMB = "a: &a [1,1,1,1]\nb: &b [*a,*a,*a,*a]\nplan: [*b,*b,*b,*b]"
ENTITY = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]><ismrmrdHeader>&a;</ismrmrdHeader>'
BAD: dict[str, tuple[Any, str]] = {
    "garbage": (b"\xff" * 5000, "no MRD message 65535"),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "no MRD message 17735"),
    "huge header": (struct.pack("<HI", 3, 2**32 - 1), "the header is declared to have 4294967295 bytes"),
    "huge configuration": (struct.pack("<HI", 2, 1 << 20), "at most 65536"),
    "no XML": (message(3, b"hello"), "XML header is malformed"),
    "entities": (message(3, ENTITY), "DOCTYPE"),
    "huge line": (lambda w: begun(w, number_of_samples=65535, active_channels=65535), "32767 MiB: at most 16 MiB"),
    "large line": (lambda w: begun(w, number_of_samples=4096, active_channels=100), "larger than 2 MiB"),
    "many lines": (lambda w: begun(w, count=64) + line_of(w) * 2000, "larger than 2 MiB"),
    "waveform": (b"\x02\x04" + struct.pack("<H6xQIIIHHfH2x", 1, 0, 1, 1, 1, 65535, 65535, 1, 1), "larger than 2 MiB"),
    "line before header": (lambda w: line_of(w), "came before the header"),
    "image": (struct.pack("<H", 1022) + bytes(198), "message 1022 is an image"),
    "nothing": (CLOSE, "nothing to reconstruct"),
    "header alone": (lambda w: begun(w) + CLOSE, "nothing to reconstruct"),
    "two headers": (lambda w: begun(w) + begun(w), "a second header"),
    "two configurations": (config("{}") + config("{}"), "a second configuration"),
    "cut off": (lambda w: begun(w, count=40) + b"\xf0\x03" + bytes(100), "ended in the midst of an acquisition"),
    "not whole": (lambda w: begun(w, count=40), "ended before its close message"),
    "Gadgetron's XML": (config('<?xml version="1.0"?><gadgetronStreamConfiguration/>'), "is XML"),
    "bomb": (config(BOMB), "an alias"),
    "key twice": (config("plan: {}\nplan: {}"), "'plan' is given twice"),
    "key twice in JSON": (config('{"mask": 1, "mask": 2}'), "'mask' is given twice"),
    "unknown option": (config("plans: {}"), "did you mean 'plan'?"),
    "a list": (config("[1, 2]"), "expected keys and values"),
    "a path": (config("path: /etc/passwd"), "leave it out"),
    "images": (config("images: [mode]"), "expected a list of mean, std, lower, upper"),
    "a date": (config("name: 2020-01-01"), "a date"),
    "not UTF-8": (message(2, b"\xff\xfe"), "not UTF-8"),
    "unknown preset": (struct.pack("<H1024s", 1, b"quik.xml"), "did you mean 'quick'?"),
    "preset with folders": (struct.pack("<H1024s", 1, b"../mrd"), "no preset '../mrd'"),
    "unknown prior": (lambda w: config("prior: tyni") + begun(w, count=64) + CLOSE, "did you mean 'tiny'?"),
    "one line": (lambda w: begun(w, count=1) + CLOSE, "the reconstruction failed: no fully sampled centre"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_nonsense_is_answered_by_a_sentence_and_leaves_no_file(world: World, case: str) -> None:
    made, sentence = BAD[case]
    content = made if isinstance(made, bytes) else made(world)
    with world.connected() as connection, connection.makefile("rb") as back:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # what is refused is not read on
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
        answer = answer_of(back)
    assert (answer.images, len(answer.texts)) == ([], 1)
    assert sentence in answer.texts[0]
    assert len(answer.texts[0]) < 700
    for secret in (str(world.store), "Traceback", KEY):
        assert secret not in answer.texts[0]
    assert world.left() == []


@pytest.mark.parametrize(
    ("more", "sentence"),
    [(b"", f"no message came for {IDLE_S:g} s"), (b"\xf0\x03abc", "stalled in the midst of an acq")],
)
def test_a_client_that_stalls_is_cut_off(world: World, more: bytes, sentence: str) -> None:
    with world.connected() as connection, connection.makefile("rb") as back:
        connection.sendall(begun(world, count=40) + more)
        began = time.monotonic()
        answer = answer_of(back)
    assert sentence in answer.texts[0]
    assert time.monotonic() - began < 3 * IDLE_S + 5
    assert world.left() == []


def test_a_client_that_hangs_up_leaves_nothing(world: World) -> None:
    with world.connected() as connection:
        connection.sendall(begun(world, count=40))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no end
    assert world.left() == []
    assert "Traceback" not in world.service.log.read_text()


def test_there_are_so_many_connections_and_no_more(world: World) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(world.connected())
        time.sleep(0.5)
        with world.connected() as connection, connection.makefile("rb") as back:
            connection.shutdown(socket.SHUT_WR)
            assert "6 scans are under way" in answer_of(back).texts[0]
    time.sleep(0.5)
    assert world.scan(world.full, ConfigFile("quick")).images


def mrd_process(world: World) -> psutil.Process:
    children = psutil.Process(world.service.process.pid).children()
    (found,) = [child for child in children if "kdrift_serve.mrd" in " ".join(child.cmdline())]
    return found


def test_a_server_that_is_killed_is_started_again_without_what_was_left(world: World) -> None:
    with world.connected() as connection:
        connection.sendall(begun(world, count=64))
        time.sleep(0.5)
        assert list((world.store / "mrd").glob("*/*"))
        killed = mrd_process(world)
        killed.kill()
        psutil.wait_procs([killed], 10)
    listening(world)
    assert world.left() == []
    assert "it is started again" in world.service.log.read_text()
    assert world.scan(world.full, ConfigFile("quick")).images
