"""Packed HDF5 is read as libhdf5 reads it, and unpacks to no more than it says."""

from __future__ import annotations

import contextlib
import itertools
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from formats_helpers import VALID, random_kspace
from kdrift.data.formats import BadVolume, open_volume
from kdrift.data.formats.hdf5 import attributes, check_items, dataset, open_file
from kdrift.data.formats.ismrmrd_table import read_table

FILTERS: tuple[dict[str, Any], ...] = (
    {"compression": "gzip"},
    {"compression": "gzip", "shuffle": True, "fletcher32": True},
    {"compression": "lzf"},
    {"compression": "lzf", "shuffle": True, "fletcher32": True},
    {"compression": "szip"},
    {"compression": "szip", "fletcher32": True},
    {"shuffle": True, "fletcher32": True},
)
ITEMS: tuple[Any, ...] = (
    (), ..., 1, -1, slice(1, 3), slice(None, None, 3), (1, ..., slice(2, 5)), (..., 0),
    (slice(1, 3), 2, slice(None), -2), (slice(None), [0, 2]), slice(3, 3),
)  # fmt: skip


def read_all(path: Path) -> np.ndarray:
    with open_volume(path) as volume:
        return volume.read_kspace(0, volume.info.num_slices)


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_selections_of_packed_data_are_those_of_libhdf5(options: dict[str, Any], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = np.zeros((5, 3, 7, 9), [("real", "f4"), ("imag", "f4")])
    parts["real"] = rng.integers(0, 9, parts.shape)
    arrays = {
        "a": rng.standard_normal((5, 3, 7, 9)).astype(np.float32),
        "b": rng.integers(0, 99, (5, 3, 7, 9)).astype(">i2"),
        "c": random_kspace((5, 3, 7, 9)),
        "d": parts,
    }
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for key, values in arrays.items():
            if options.get("compression") != "szip" or values.dtype.kind in "fi":
                file.create_dataset(key, data=values, chunks=(2, 3, 4, 5), **options)
        file.create_dataset("part", (5, 3, 7, 9), "f4", chunks=(2, 3, 4, 5), fillvalue=7, **options)[:2] = 1
    with contextlib.ExitStack() as resources:
        source = open_file(str(path), resources)
        for key, items in itertools.product(source.file, ITEMS):
            ours, theirs = dataset(source, key), source.file[key]
            assert ours is not None
            np.testing.assert_array_equal(ours[items], theirs[items])
            np.testing.assert_array_equal(np.asarray(ours), theirs[()])


def test_numbers_with_an_offset_are_read(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(1000, 1200, (4, 60, 50), np.int32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for compression in (None, "gzip"):
            options = {"scaleoffset": 0, "chunks": (1, 20, 50), "compression": compression}
            file.create_dataset(str(compression), data=values, **options)
    with contextlib.ExitStack() as resources:
        source = open_file(str(tmp_path / "a.h5"), resources)
        for key in source.file:
            np.testing.assert_array_equal(dataset(source, key)[1:3], values[1:3])


def test_a_chunk_unpacks_to_its_size_or_is_refused(tmp_path: Path) -> None:
    content = random_kspace((1, 2, 16, 16)).tobytes()
    packed = zlib.compress(content)
    for chunk, said in (
        (zlib.compress(content + b"\0"), "unpacks to more than 4096 bytes, expected 4096"),
        (zlib.compress(content[:-1]), "unpacks to 4095 bytes"),
        (zlib.compress(bytes(1 << 20)), "unpacks to more than 4096"),
        (packed[:-1], "cut off"),
        (packed[:-1] + bytes([packed[-1] ^ 1]), "incorrect data check"),
    ):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            options = {"chunks": (1, 2, 16, 16), "compression": "gzip"}
            kspace = file.create_dataset("kspace", (1, 2, 16, 16), np.complex64, **options)
            kspace.id.write_direct_chunk((0, 0, 0, 0), chunk)
        with pytest.raises(BadVolume, match=f"a.h5: /kspace has a .*{said}"):
            read_all(tmp_path / "a.h5")


def test_lzf_that_would_be_unpacked_for_minutes_is_refused_at_once(tmp_path: Path) -> None:
    chunk = b"\0\0" + b"\xe0\xff\0" * ((9 << 20) // 3 - 1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        options = {"chunks": (1, 1, 1024, 1152), "compression": "lzf"}
        kspace = file.create_dataset("kspace", (1, 1, 1024, 1152), np.complex64, **options)
        kspace.id.write_direct_chunk((0, 0, 0, 0), chunk)
    started = time.process_time()
    with pytest.raises(BadVolume, match="unpacks to more than"):
        read_all(tmp_path / "a.h5")
    assert time.process_time() - started < 5


def _chained(path: Path, *codes: int, values: tuple[int, ...] = ()) -> Path:
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk((1, 2, 16, 16))
    for code in codes:
        creation.set_filter(code, h5py.h5z.FLAG_OPTIONAL, values or (1,))
    with h5py.File(path, "w") as file:
        space, kind = h5py.h5s.create_simple((1, 2, 16, 16)), h5py.h5t.py_create(np.dtype(np.complex64), logical=True)
        kspace = h5py.h5d.create(file.id, b"kspace", kind, space, creation)
        kspace.write_direct_chunk((0, 0, 0, 0), zlib.compress(zlib.compress(bytes(1 << 16))))
    return path


def test_chains_and_filters_that_unpack_to_any_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    for codes, said in (
        ((1, 1), r"packed more than once \(HDF5 filters \[1, 1\]\); h5repack"),
        ((32000, 1), "packed more than once"),
        ((32001,), "packed by HDF5 filter 32001, which is not known; h5repack"),
    ):
        with pytest.raises(BadVolume, match=said):
            open_volume(_chained(path, *codes))
    content, stated = _chained(path, 32000, values=(4, 261, 4096)).read_bytes(), struct.pack("<3I", 4, 261, 4096)
    assert stated in content
    path.write_bytes(content.replace(stated, struct.pack("<3I", 4, 261, 1 << 31)))
    with pytest.raises(BadVolume, match="filter for chunks of other sizes"):
        open_volume(path)


def test_one_object_by_many_names_is_one(tmp_path: Path) -> None:
    path = VALID["ismrmrd"](tmp_path)
    expected = read_all(path)
    with h5py.File(path, "r+") as file:
        (group,) = file
        for number in range(50):
            file[f"again{number}"] = file[group]
    with open_volume(
        path,
    ) as volume:
        assert sum("under another name" in note for note in volume.info.notes) == 50
        np.testing.assert_array_equal(volume.read_kspace(0, len(expected)), expected)


def test_more_names_than_a_scan_has_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = random_kspace((1, 2, 8, 8))
        for number in range(10_000):
            file[f"a{number}"] = h5py.SoftLink("/kspace")
    started = time.process_time()
    with pytest.raises(BadVolume, match="holds 10001 objects in one group, expected at most 10000"):
        open_volume(tmp_path / "a.h5")
    assert time.process_time() - started < 5


def test_attributes_that_are_no_scalars_are_never_read(tmp_path: Path) -> None:
    """An array of texts can name one heap object 4000 times, and a text of texts any number of times."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs.update({"text": "a", "fixed": np.bytes_("b"), "number": 2.5, "count": np.int16(3), "truth": True})
        file.attrs.update({"one": [4], "texts": ["x"] * 3000, "array": np.ones(3), "void": np.zeros(1, "i4,f4")})
        file.attrs["empty"] = h5py.Empty("f4")
        nested = np.empty(1, object)
        nested[0] = np.ones(3)
        file.attrs.create("nested", nested, dtype=h5py.vlen_dtype(np.float64))
    with contextlib.ExitStack() as resources:
        found = attributes(open_file(str(tmp_path / "a.h5"), resources))
    assert found == {"text": "a", "fixed": "b", "number": 2.5, "count": 3, "truth": True, "one": 4}


def test_items_of_variable_length_are_no_more_than_the_file_holds(tmp_path: Path) -> None:
    """Every line of a table can name the same samples: each is as long as it says, together they are a bomb."""
    path = str(VALID["ismrmrd"](tmp_path))
    with contextlib.ExitStack() as resources:
        source = open_file(path, resources)
        items = read_table(source, *source.file).items.ravel()
        check_items(source, items, 4)
        with pytest.raises(BadVolume, match="more values together than the file holds"):
            check_items(source, np.repeat(items, 100), 4)


def test_a_first_block_that_names_a_driver_or_no_root_is_refused(tmp_path: Path) -> None:
    """Found by `make fuzz`: libhdf5 took 1.7 GiB for what a file of 13 KB claimed as its driver's block."""
    for block in (0, 512):
        with h5py.File(tmp_path / "a.h5", "w", userblock_size=block) as file:
            file["kspace"] = random_kspace((2, 3, 12, 10))
        content = (tmp_path / "a.h5").read_bytes()
        with open_volume(tmp_path / "a.h5") as volume:
            assert volume.info.num_coils == 3
        for place, value in ((48, 255), (64, 0)):  # the address of the driver's block, of the root group's header
            damaged = bytearray(content)
            damaged[block + place : block + place + 8] = value.to_bytes(8, "little")
            (tmp_path / "b.h5").write_bytes(bytes(damaged))
            with pytest.raises(BadVolume, match="names a block of a driver, or no root"):
                open_volume(tmp_path / "b.h5")


@pytest.mark.parametrize("packed", [None, "gzip"])
def test_records_of_odd_floats_are_refused(packed: str | None, tmp_path: Path) -> None:
    """Found by `make fuzz`: h5py reads a float of another bias as a larger one, which overlaps the next field."""
    odd = h5py.h5t.IEEE_F32LE.copy()
    odd.set_ebias(255)
    record = h5py.h5t.create(h5py.h5t.COMPOUND, 8)
    record.insert(b"real", 0, odd)
    record.insert(b"imag", 4, h5py.h5t.IEEE_F32LE)
    with h5py.File(tmp_path / "v.mat", "w") as file:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        if packed:
            creation.set_chunk((2, 3, 12, 10))
            creation.set_deflate(4)
        h5py.h5d.create(file.id, b"kspace_full", record, h5py.h5s.create_simple((2, 3, 12, 10)), creation)
    with (
        pytest.raises(BadVolume, match="records of numbers of no usual type"),
        open_volume(tmp_path / "v.mat") as volume,
    ):
        volume.read_kspace(0, 1)
