"""The zarr store: round trips, checksums, and that a killed writer leaves nothing that reads as whole."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdrift.data.store import Store, find_store, find_stored_volume, open_store, open_stored_volume
from kdrift.data.store_write import remove_leftovers, write_volume
from kdrift.data.volume import Volume, VolumeInfo


def kspace_volume(
    slices: int = 3, coils: int = 2, rows: int = 9, cols: int = 7, seed: int = 0, mask: bool = False
) -> tuple[Volume, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (2, slices, coils, rows, cols)
    real, imag = rng.standard_normal(shape).astype(np.float32)
    kspace = (real + 1j * imag).astype(np.complex64)
    target = rng.random((slices, rows, cols), dtype=np.float32)
    info = VolumeInfo(
        "scan", "kspace", slices, coils, rows, cols, rows, cols, has_mask=mask, has_reference=True,
        attrs={"acquisition": "T2", "field_T": 1.5, "simulated": True},
    )  # fmt: skip
    sampled = np.arange(cols) % 2 == 0
    if mask:
        kspace *= sampled
    volume = Volume(
        "scan",
        info,
        lambda start, stop: kspace[start:stop],
        lambda start, stop: target[start:stop],
        (lambda: sampled) if mask else None,
        lambda: np.eye(coils, dtype=np.complex128) * 0.5,
    )
    return volume, kspace, target


def image_volume(images: np.ndarray) -> Volume:
    slices, rows, cols = images.shape
    info = VolumeInfo("series", "image", slices, 1, rows, cols, rows, cols)
    return Volume("series", info, None, lambda start, stop: images[start:stop])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(1, 32), st.integers(1, 17), st.integers(1, 17), st.booleans())
def test_round_trip_is_exact(slices: int, coils: int, rows: int, cols: int, mask: bool) -> None:
    volume, kspace, target = kspace_volume(slices, coils, rows, cols, mask=mask)
    with tempfile.TemporaryDirectory() as folder, open_store(f"{folder}/x.zarr", "a") as store:
        written = write_volume(store, "scan", volume)
        assert written >= kspace.nbytes + target.nbytes
        read = open_store(f"{folder}/x.zarr").read_volume("scan")
        assert replace(read.info, notes=()) == volume.info
        assert read.info.notes == volume.doubts(kspace, 0)  # noise may look like what it is
        np.testing.assert_array_equal(read.read_kspace(0, slices), kspace)
        np.testing.assert_array_equal(read.read_kspace(slices - 1, slices), kspace[-1:])
        np.testing.assert_array_equal(read.read_image(0, slices), target)
        found = read.mask()
        assert (found is None) == (not mask)
        if found is not None:
            np.testing.assert_array_equal(found, np.arange(cols) % 2 == 0)
        cov = read.noise_cov()
        assert cov is not None
        np.testing.assert_array_equal(cov, np.eye(coils) * 0.5)
        assert store.verify() == []


def test_large_slices_are_chunks_and_small_slices_one_shard(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.zarr", "a") as store:
        write_volume(store, "large", kspace_volume(2, 4, 400, 330)[0])
        write_volume(store, "small", image_volume(np.ones((5, 8, 6), np.float32)))
        kspace, image = store.array("large", "kspace"), store.array("small", "image")
    assert kspace.chunks == (1, 4, 400, 330)
    assert kspace.shards is None
    assert kspace.compressors == ()
    assert kspace.metadata.dimension_names == ("slice", "coil", "row", "col")
    assert image.chunks == (1, 8, 6)
    assert image.shards == (5, 8, 6)


def test_verify_names_the_slice_that_changed(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.zarr", "a") as store:
        write_volume(store, "scan", kspace_volume(3, 4, 400, 330)[0])
        chunk = tmp_path / "x.zarr" / "scan" / "kspace" / "c" / "1" / "0" / "0" / "0"
        data = bytearray(chunk.read_bytes())
        data[1000] ^= 1
        chunk.write_bytes(bytes(data))
        (fault,) = store.verify()
        assert "scan/kspace" in fault
        assert fault.endswith("row 1")
        chunk.write_bytes(b"short")
        assert "kspace is damaged" in store.verify("scan")[0]


def test_plain_chunks_are_read_as_zarr_reads_them(tmp_path: Path) -> None:
    """Files with the values of one slice are read without zarr; every other form by zarr, and all are the same."""
    with open_store(tmp_path / "x.zarr", "a") as store:
        write_volume(store, "large", kspace_volume(3, 4, 400, 330, mask=True)[0], derive={"smaps": lambda block: block})
        write_volume(store, "small", kspace_volume(3, 2, 8, 6, mask=True)[0])
    plain = set()
    for name in ("large", "small"):
        for array_name, entry in store.attributes(name)["arrays"].items():
            checked = store.checked_array(name, array_name, entry)
            plain |= {f"{name}/{array_name}"} if checked.folder is not None else set()
            for rows in (..., slice(1, 2), slice(1, 1)):
                expected = store.array(name, array_name)[rows]
                np.testing.assert_array_equal(checked[rows], expected)
                assert checked[rows].dtype == expected.dtype
    assert plain == {"large/kspace", "large/smaps"}
    chunk = tmp_path / "x.zarr" / "large" / "kspace" / "c" / "1" / "0" / "0" / "0"
    content = chunk.read_bytes()
    for damaged in (content + b"\0", content[:-1], b""):
        chunk.write_bytes(damaged)
        said = f"kspace is damaged: the file of slice 1 has {len(damaged)} bytes, expected {len(content)}"
        with pytest.raises(ValueError, match=said):
            store.read_volume("large").read_kspace(0, 3)


def test_what_is_read_is_checked(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.zarr", "a") as store:
        write_volume(store, "scan", kspace_volume(3, 4, 400, 330, mask=True)[0], derive={"smaps": lambda block: block})
        volume = store.read_volume("scan")
    place = tmp_path / "x.zarr" / "scan"
    for array, read in {
        "kspace": volume.read_kspace,
        "smaps": volume.read_smaps,
    }.items():
        chunk = place / array / "c" / "1" / "0" / "0" / "0"
        content = chunk.read_bytes()
        chunk.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert read(2, 3).shape == (1, 4, 400, 330)  # the others are as they were
        with pytest.raises(ValueError, match=f"scan: {array} is damaged: slice 1 differs from what was written"):
            read(0, 3)
        chunk.unlink()
        with pytest.raises(ValueError, match=f"{array} is damaged: slice 1 is missing; restore it"):
            read(1, 2)
        chunk.write_bytes(content)
    (place / "mask" / "c" / "0").write_bytes(b"\1" * 334)
    with pytest.raises(ValueError, match="mask is damaged"):
        volume.mask()
    metadata = place / "target" / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"slice"', '"slicf"'))
    with pytest.raises(ValueError, match=r"target/zarr\.json is damaged"):
        store.read_volume("scan").read_image(0, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"complete": true', '"complete": tru'),
        lambda text: text.replace('"complete"', '"complfte"'),
        lambda text: text.replace('"digest"', '"digesu"'),
        lambda text: text.replace('"attributes"', '"attribuues"'),
        lambda text: text.replace('"group"', '"groum"'),
        lambda text: text.replace('"xxh3_64"', '"xxh3_65"'),
        lambda text: None,
    ],
)
def test_damaged_attributes_are_an_error_not_an_absence(change: object, tmp_path: Path) -> None:
    with open_store(tmp_path / "x.zarr", "a") as store:
        for name in ("a", "b"):
            write_volume(store, name, kspace_volume()[0])
    path = tmp_path / "x.zarr" / "a" / "zarr.json"
    changed = change(path.read_text())  # type: ignore[operator]
    path.unlink() if changed is None else path.write_text(changed)
    with pytest.raises(ValueError, match=r"x\.zarr/a: zarr\.json is (damaged|missing)"):
        store.list_volumes()
    said: list[ValueError] = []
    assert store.list_volumes(said.append) == ["b"]
    assert len(said) == len(store.verify()) == 1
    with open_store(tmp_path / "x.zarr", "a") as again:
        write_volume(again, "a", kspace_volume()[0])
        assert again.list_volumes() == ["a", "b"]


def test_stores_of_version_1_are_read_and_checked(tmp_path: Path) -> None:
    """CRC-32 of every slice, no digests: as they were written before."""
    import zlib

    import zarr

    kspace = kspace_volume(2)[1]
    info = {"name": "old", "kind": "kspace", "num_slices": 2, "num_coils": 2, "rows": 9, "cols": 7}
    root = zarr.create_group(tmp_path / "x.zarr", attributes={"schema": "kdrift-store", "version": 1}, zarr_format=3)
    attributes = {
        "kind": "kspace", "info": {**info, "recon_rows": 9, "recon_cols": 7}, "source": {}, "complete": True,
        "arrays": {"kspace": {"crc32": [zlib.crc32(one.tobytes()) for one in kspace]}},
    }  # fmt: skip
    group = root.create_group("old", attributes=attributes)
    group.create_array("kspace", data=kspace, chunks=(1, 2, 9, 7), compressors=None)
    with open_store(tmp_path / "x.zarr", "a") as store:
        np.testing.assert_array_equal(store.read_volume("old").read_kspace(0, 2), kspace)
        write_volume(store, "new", kspace_volume()[0])
        assert store.verify() == []
        chunk = tmp_path / "x.zarr" / "old" / "kspace" / "c" / "0" / "0" / "0" / "0"
        chunk.write_bytes(bytes(len(chunk.read_bytes())))
        with pytest.raises(ValueError, match="kspace is damaged: slice 0 is missing"):
            store.read_volume("old").read_kspace(0, 2)
        assert len(store.verify()) == 1


def test_derived_arrays_are_written_and_checked(tmp_path: Path) -> None:
    volume, kspace, _ = kspace_volume()
    with open_store(tmp_path / "x.zarr", "a") as store:
        write_volume(store, "scan", volume, derive={"smaps": lambda block: block * 2})
        read = store.read_volume("scan")
        np.testing.assert_array_equal(read.read_smaps(1, 3), kspace[1:3] * 2)
        with pytest.raises(ValueError, match="smaps computed of slices 0:3 holds NaN"):
            write_volume(store, "bad", volume, derive={"smaps": lambda block: block * np.float32(np.nan)})
        assert store.list_volumes() == ["scan"]
        write_volume(store, "plain", volume)
        with pytest.raises(ValueError, match="has no coil maps"):
            store.read_volume("plain").read_smaps(0, 1)
    assert sorted(path.name for path in (tmp_path / "x.zarr").iterdir()) == ["plain", "scan", "zarr.json"]


KILLED = """
import os, signal, sys
import numpy as np
from kdrift.data import store_write
from kdrift.data.store import open_store
from kdrift.data.volume import Volume, VolumeInfo

def load(start, stop):
    if start >= 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.random.default_rng(start).standard_normal((stop - start, 2, 600, 500)).astype(np.complex64)

store_write.BLOCK_BYTES = 1
info = VolumeInfo("scan", "kspace", 5, 2, 600, 500, 600, 500)
store_write.write_volume(open_store(sys.argv[1], "a"), "scan", Volume("scan", info, load))
"""


def test_killed_writer_leaves_no_half_volume(tmp_path: Path) -> None:
    location = tmp_path / "x.zarr"

    def write_and_die() -> None:
        done = subprocess.run([sys.executable, "-c", KILLED, str(location)], check=False)
        assert done.returncode == -signal.SIGKILL

    write_and_die()
    store = open_store(location, "a")
    assert store.list_volumes() == []
    assert len(list(location.glob(".tmp-scan-*"))) == 1
    volume, kspace, _ = kspace_volume()
    write_volume(store, "scan", volume)
    write_and_die()  # a killed replacement leaves the old volume
    np.testing.assert_array_equal(store.read_volume("scan").read_kspace(0, 3), kspace)
    assert store.verify() == []
    assert remove_leftovers(store, {"other"}) == []
    assert len(remove_leftovers(store, {"scan"})) == 2
    assert store.list_volumes() == ["scan"]


def test_replacing_a_volume_leaves_only_the_new_one(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.zarr", "a") as store:
        write_volume(store, "scan", kspace_volume(seed=1)[0])
        write_volume(store, "scan", image_volume(np.ones((2, 4, 4), np.float32)))
        assert store.read_volume("scan").array_names == ["image"]
        store.delete("scan")
        assert store.list_volumes() == []


def test_group_without_complete_is_not_listed(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.zarr", "a") as store:
        write_volume(store, "scan", kspace_volume()[0])
        path = tmp_path / "x.zarr" / "scan" / "zarr.json"
        node = json.loads(path.read_text())
        path.write_text(json.dumps({**node, "attributes": {}}))  # as a writer leaves it that was killed
        assert store.list_volumes() == []
        with pytest.raises(ValueError, match="no complete volume 'scan'; it is empty"):
            store.read_volume("scan")


def test_errors_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no store at"):
        open_store(tmp_path / "absent.zarr")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(ValueError, match="is not a kdrift store; choose another"):
        open_store(tmp_path / "folder", "a")
    with open_store(tmp_path / "x.zarr", "a") as store:
        write_volume(store, "scan", kspace_volume()[0])
        for name in ("../scan", ".hidden", "a/b", ""):
            with pytest.raises(ValueError, match="unsafe"):
                write_volume(store, name, kspace_volume()[0])
        with pytest.raises(ValueError, match="it has scan"):
            store.read_volume("../x.zarr/scan")
    with pytest.raises(ValueError, match="open for reading"):
        write_volume(open_store(tmp_path / "x.zarr"), "more", kspace_volume()[0])
    path = tmp_path / "x.zarr" / "zarr.json"
    path.write_text(json.dumps({"node_type": "group", "attributes": {"schema": "kdrift-store", "version": 3}}))
    with pytest.raises(ValueError, match="version 3, this kdrift reads versions 1 and 2"):
        open_store(tmp_path / "x.zarr")
    path.write_text(path.read_text().replace("kdrift-store", "other"))
    assert find_store(tmp_path / "x.zarr") is None


def test_a_store_is_opened_once_a_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path / "x.zarr", "a") as store:
        write_volume(store, "one", kspace_volume()[0])
    found: list[str] = []
    opened = Store._open_root
    monkeypatch.setattr(Store, "_open_root", lambda self: (found.append(self.location), opened(self))[1])
    assert find_stored_volume(tmp_path / "x.zarr") is not None
    assert found == [str(tmp_path / "x.zarr")]
    found.clear()
    assert find_stored_volume(tmp_path / "x.zarr" / "one") is not None
    assert found.count(str(tmp_path / "x.zarr")) == 1
    assert find_stored_volume(tmp_path) is None


def test_store_pickles_by_address_and_volumes_open_by_path(tmp_path: Path) -> None:
    with open_store(tmp_path / "x.zarr", "a") as store:
        write_volume(store, "one", kspace_volume()[0])
        assert pickle.loads(pickle.dumps(store)).list_volumes() == ["one"]
        assert open_stored_volume(tmp_path / "x.zarr").info.name == "one"
        write_volume(store, "two", kspace_volume()[0])
    with pytest.raises(ValueError, match="holds 2 volumes"):
        open_stored_volume(tmp_path / "x.zarr")
    with open_stored_volume(f"file://{tmp_path}/x.zarr/two") as volume:
        assert volume.read_kspace(0, 1).shape == (1, 2, 9, 7)
        with pytest.raises(ValueError, match="asked for 2:4"):
            volume.read_kspace(2, 4)
    with pytest.raises(ValueError, match="neither a kdrift store"):
        open_stored_volume(tmp_path)
