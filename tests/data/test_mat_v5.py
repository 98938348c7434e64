"""The reader of MATLAB v5 files, against files that scipy writes, and against damage that ended the process."""

from __future__ import annotations

import contextlib
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from formats_helpers import random_kspace
from kdrift.data.array_file import read_array_file
from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.formats.mat_v5 import list_arrays

SHAPES = ((1, 1), (1, 3), (5, 3), (4, 3, 2, 1, 2), (0, 3))
TYPES = ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "c8", "c16", "?")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["f8", "c16", "?"])
def test_sparse_matrices(dtype: str, compressed: bool, tmp_path: Path) -> None:
    values = (np.random.default_rng(1).random((9, 7)) < 0.3).astype(dtype) * np.array(1 + 2j if dtype == "c16" else 1)
    arrays = {"mask": scipy.sparse.csc_matrix(values.astype(dtype)), "empty": scipy.sparse.csc_matrix((9, 7))}
    scipy.io.savemat(tmp_path / "a.mat", arrays, do_compression=compressed)
    found = {array.name: array.read() for array in list_arrays(str(tmp_path / "a.mat"))}
    np.testing.assert_array_equal(found["mask"], values)
    assert not found["empty"].any()
    content = (tmp_path / "a.mat").read_bytes()
    for at in range(128, len(content), 5):  # no damage does more than raise
        (tmp_path / "b.mat").write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
        with contextlib.suppress(ValueError, zlib.error):
            for array in list_arrays(str(tmp_path / "b.mat")):
                if array.num_bytes < 1 << 20:
                    array.read()


def element(kind: int, content: bytes, order: str = "<") -> bytes:
    padding = bytes(-len(content) % 8) if kind != 15 else b""  # what is compressed has none
    return struct.pack(f"{order}2I", kind, len(content)) + content + padding


def matrix(values: np.ndarray, name: bytes = b"kspace", order: str = "<", kind: int = 9, size: int = 0) -> bytes:
    """A complex double array as MATLAB writes it, its values of a stated type and size."""
    parts = element(6, struct.pack(f"{order}2I", 0x0806, 0), order)
    parts += element(5, np.array(values.shape, f"{order}i4").tobytes(), order) + element(1, name, order)
    for part in (values.real, values.imag):
        stored = element(kind, part.astype(f"{order}f8").tobytes(order="F"), order)
        parts += struct.pack(f"{order}2I", kind, size) + stored[8:] if size else stored
    return element(14, parts, order)


def write(path: Path, *elements: bytes, order: str = "<") -> Path:
    mark = b"\0\1IM" if order == "<" else b"\1\0MI"
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + mark + b"".join(elements))
    return path


@pytest.mark.parametrize("compressed", [False, True])
def test_all_types_and_shapes_are_read_as_scipy_reads_them(compressed: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, object] = {"text": "words", "cell": np.array([1, "a"], object), "record": {"a": np.ones(3)}}
    for (number, shape), kind in itertools.product(enumerate(SHAPES), TYPES):
        values = rng.integers(0, 100, shape) + (1j * rng.integers(0, 100, shape) if kind[0] == "c" else 0)
        arrays[f"a{number}_{kind.replace('?', 'b')}"] = values.astype(kind)
    scipy.io.savemat(tmp_path / "a.mat", arrays, do_compression=compressed)
    expected, found = scipy.io.loadmat(tmp_path / "a.mat"), list_arrays(str(tmp_path / "a.mat"))
    assert [array.name for array in found] == list(arrays)
    assert [array.unread for array in found[:4]] == ["text", "a cell", "a structure", ""]
    with pytest.raises(ValueError, match="cell is a cell, expected an array of numbers, full or sparse"):
        found[1].read()
    for array in found[3:]:
        values = array.read()
        wanted = expected[array.name].astype(bool) if array.dtype == bool else expected[array.name]
        assert (array.shape, array.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_array_equal(values, wanted)


def test_both_byte_orders_and_numbers_stored_smaller_than_they_are(tmp_path: Path) -> None:
    values = random_kspace((6, 5, 2)).astype(np.complex128)
    for order in "<>":
        path = write(tmp_path / "a.mat", matrix(values, order=order), order=order)
        np.testing.assert_array_equal(list_arrays(str(path))[0].read(), values)
        np.testing.assert_array_equal(scipy.io.loadmat(path)["kspace"], values)
    small = element(6, struct.pack("<2I", 6, 0)) + element(5, struct.pack("<2i", 2, 3)) + element(1, b"mask")
    path = write(tmp_path / "b.mat", element(14, small + element(2, bytes(range(6)))))
    np.testing.assert_array_equal(read_array_file(str(path), "mask"), [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]])


def test_damage_that_ended_the_process_is_a_sentence(tmp_path: Path) -> None:
    """Found by `make fuzz`: scipy takes the type of values from the file as a place in its memory."""
    values = random_kspace((6, 5, 2))
    for kind in (0, 8, 10, 11, 14, 15, 17, 19, 20, 200, 0xFFFF):
        path = write(tmp_path / "a.mat", matrix(values, kind=kind))
        with pytest.raises(BadVolume, match=r"a.mat: .*expected numbers"), open_volume(path) as volume:
            volume.read_kspace(0, 1)
        with pytest.raises(ValueError, match=r"a.mat cannot be read: .*expected numbers"):
            read_array_file(str(path), "mask")
    for size, said in ((8, "do not make the shape"), (0x7FFFFFFF, "do not make the shape")):
        path = write(tmp_path / "a.mat", matrix(values, size=size))
        with pytest.raises(BadVolume, match=said), open_volume(path) as volume:
            volume.read_kspace(0, 1)
    for content, said in (
        (matrix(values)[:-100], "truncated"),
        (element(14, element(6, bytes(4096)[:8] * 600)), "a header has 4800 bytes"),
        (element(15, zlib.compress(matrix(values))[:-200]), "truncated"),
        (matrix(values[0, 0]), "expected at least two axes"),
    ):
        path = write(tmp_path / "a.mat", content)
        with pytest.raises(BadVolume, match=said), open_volume(path) as volume:
            volume.read_kspace(0, 1)


def test_no_more_is_inflated_than_an_array_has(tmp_path: Path) -> None:
    values = random_kspace((6, 5, 2))
    path = write(tmp_path / "a.mat", element(15, zlib.compress(matrix(values) + bytes(1 << 28), 9)))
    np.testing.assert_array_equal(list_arrays(str(path))[0].read(), values)


def test_version_4_is_refused_with_what_to_do(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "m.mat", {"mask": np.eye(4)}, format="4")
    with pytest.raises(ValueError, match=r"m.mat cannot be read: .*save it in MATLAB with -v7"):
        read_array_file(str(tmp_path / "m.mat"), "mask")
